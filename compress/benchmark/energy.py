"""Energy of what runs, where the machine lets it be read: RAPL counters of the processor, NVML of a GPU."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Meter", "find_meter", "nvml_handle"]

_RAPL = Path("/sys/class/powercap")


class Meter(Protocol):
    """A counter of energy."""

    @property
    def source(self) -> str:
        """``rapl`` or ``nvml``."""

    def read(self) -> Any:
        """Return the counter's state now."""

    def since(self, before: Any) -> float:
        """Return the joules used since a state, by everything on the same processor packages or GPU."""


@dataclass(frozen=True)
class _Rapl:
    """Running Average Power Limit: microjoules per processor package, which wrap around at a maximum.

    https://docs.kernel.org/power/powercap/powercap.html
    """

    zones: tuple[tuple[Path, int], ...]
    source: str = "rapl"

    def read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone, _ in self.zones]

    def since(self, before: list[int]) -> float:
        now = self.read()
        spent = [(b - a) % (most + 1) for a, b, (_, most) in zip(before, now, self.zones, strict=True)]
        return sum(spent) / 1e6


@dataclass(frozen=True)
class _Nvml:
    """The driver's total of a GPU in millijoules (Volta and later)."""

    nvml: Any
    handle: Any
    source: str = "nvml"

    def read(self) -> int:
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))

    def since(self, before: int) -> float:
        return (self.read() - before) / 1e3


def nvml_handle(device: str) -> tuple[Any, Any] | None:
    """Return NVML and its handle of ``cuda[:N]``; None without the package nvidia-ml-py or without a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = _uuid(device)
        if uuid is not None:
            return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))
    except pynvml.NVMLError:
        return None


def _uuid(device: str) -> str | None:
    """Return the identity of a GPU as torch sees it: CUDA_VISIBLE_DEVICES renumbers devices, NVML does not know."""
    if "torch" not in sys.modules:
        return None
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def find_meter(device: str, rapl: Path = _RAPL) -> tuple[Meter | None, str | None]:
    """Return a meter for a device, or the reason why there is none.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda[:N]``.
    rapl
        Where the kernel shows its power zones.
    """
    if device.startswith("cuda"):
        found = nvml_handle(device)
        if found is None:
            return None, "NVML cannot be read: install the extra gpu (nvidia-ml-py)"
        meter = _Nvml(*found)
        try:
            meter.read()
        except found[0].NVMLError as error:
            return None, f"this GPU counts no energy: {error}"
        return meter, None
    packages = [zone for zone in sorted(rapl.glob("*-rapl:*")) if zone.name.count(":") == 1]
    if not packages:
        return None, f"this machine shows no RAPL counters ({rapl})"
    try:
        zones = tuple((zone, int((zone / "max_energy_range_uj").read_text())) for zone in packages)
        cpu = _Rapl(zones)
        cpu.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return None, f"the RAPL counters cannot be read ({reason}); most systems let only root read them"
    return cpu, None
