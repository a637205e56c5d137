"""What this machine is: processor, instruction set, cores, GPUs, versions; imports no torch."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from compress.errors import ConfigError, MachineError, UnsupportedError

__all__ = [
    "cpu_model",
    "environment",
    "has_vnni",
    "isa",
    "load_average",
    "need_extra",
    "package_version",
    "resolve_device",
    "usable_cores",
]

_ISA = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "accelerate", "datasets", "numpy", "pandas", "scikit-learn",
    "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "bitsandbytes", "evaluate", "seqeval", "hydra-core",
    "omegaconf",
)  # fmt: skip


@functools.cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def isa() -> list[str]:
    """Return the instruction sets that change what kernels compute here, e.g. ``["avx2", "avx512_vnni"]``."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    flags = set(match.group(1).split()) if match else set()
    return [name for name in _ISA if name in flags]


def has_vnni() -> bool:
    """Whether products of 8-bit integers accumulate in 32 bits without saturating (VNNI, AMX, Arm dot product)."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(isa()))


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    match = re.search(r"^model name\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def need_extra(extra: str, modules: Sequence[str], asked: str) -> None:
    """Refuse what an extra of this project is missing for, without importing it.

    Parameters
    ----------
    extra
        Name in pyproject.toml.
    modules
        What it brings.
    asked
        What needs it, for the message.

    Raises
    ------
    UnsupportedError
        Says how to install it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"{asked} needs the extra {extra!r}, not installed here: {', '.join(missing)}; "
            f"pip install 'compress-transformers[{extra}]'"
        )


def usable_cores() -> int:
    """Return the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Return the one-minute load average, or None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def gpus() -> int:
    """Return how many CUDA devices the driver shows and torch is built for, without importing torch."""
    if "+cpu" in (package_version("torch") or ""):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def resolve_device(device: str) -> str:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into the device to use.

    Raises
    ------
    ConfigError
        For anything else.
    MachineError
        If a GPU is asked for that is not there.
    """
    if device == "auto":
        return "cuda" if gpus() else "cpu"
    if device == "cpu":
        return "cpu"
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not match:
        raise ConfigError(f"device={device!r}: allowed are auto, cpu, cuda and cuda:N")
    if int(match.group(1) or 0) >= gpus():
        cause = "torch is a CPU build" if "+cpu" in (package_version("torch") or "") else f"{gpus()} CUDA devices found"
        raise MachineError(f"device={device}: no such GPU here ({cause}); use device=cpu or device=auto")
    return device


def environment() -> dict[str, Any]:
    """Return the facts of this machine for record.json."""
    gpu = None
    if gpus() and "torch" in sys.modules:
        import torch

        gpu = {"name": torch.cuda.get_device_name(0), "count": gpus()}
    elif gpus():
        gpu = {"name": None, "count": gpus()}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in _PACKAGES if (version := package_version(name))},
        "cpu": {"model": cpu_model(), "isa": isa(), "cores": usable_cores()},
        "gpu": gpu,
        "load_average": load_average(),
    }
