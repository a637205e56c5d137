"""How quiet the machine was: what others used of the processor before and while something was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from compress.machine import load_average

__all__ = ["NoiseMonitor"]

_BUSY_BEFORE = 0.15
"""Share of all cores in use, before anything of ours runs, from which on the machine is called busy."""

_BUSY_DURING = 0.05
"""Share of all cores that others may use while latency is measured."""

_STOLEN = 0.03
"""Share of the processor's time that the hypervisor may keep from this machine."""


@dataclass
class NoiseMonitor:
    """Watches the processor; our own processes are told apart from the rest.

    Attributes
    ----------
    busy_before : float
        Share of all cores in use before measuring (the load average remembers our own work; this does not).
    load_average : float or None
        Over the last minute, at the beginning.
    """

    busy_before: float
    load_average: float | None
    _before: Any = field(default=None, repr=False)
    _ours: float = field(default=0.0, repr=False)
    others_share: float | None = None
    steal_share: float | None = None

    @classmethod
    def look(cls, seconds: float = 0.5) -> NoiseMonitor:
        """Watch an idle moment; takes so many seconds."""
        import psutil

        return cls(float(psutil.cpu_percent(interval=seconds)) / 100, load_average())

    def start(self, processes: Iterable[int]) -> None:
        """Begin to watch while these processes, and this one, work."""
        import psutil

        self._processes = [psutil.Process(), *(psutil.Process(number) for number in processes)]
        self._ours = self._own_seconds()
        self._before = psutil.cpu_times()

    def stop(self) -> None:
        """End watching and work out what others used and what the hypervisor kept."""
        import psutil

        now, ours = psutil.cpu_times(), self._own_seconds() - self._ours
        spent = {name: getattr(now, name) - getattr(self._before, name) for name in now._fields}
        # guest time is part of user time already
        whole = sum(seconds for name, seconds in spent.items() if not name.startswith("guest"))
        idle = spent["idle"] + spent.get("iowait", 0.0)
        stolen = spent.get("steal", 0.0)
        if whole <= 0:
            return
        self.others_share = round(max(0.0, whole - idle - stolen - ours) / whole, 4)
        self.steal_share = round(stolen / whole, 4)

    def _own_seconds(self) -> float:
        import psutil

        seconds = 0.0
        for process in self._processes:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system
        return seconds

    def facts(self) -> dict[str, float | None]:
        """Return the figures for the record."""
        return {
            "load_average": self.load_average,
            "busy_before": round(self.busy_before, 4),
            "others_share": self.others_share,
            "steal_share": self.steal_share,
        }

    def warnings(self) -> list[str]:
        """Return what a reader of the numbers should know."""
        found = []
        if self.busy_before > _BUSY_BEFORE:
            found.append(
                f"other processes used {self.busy_before:.0%} of the processor when measuring began; "
                "latency may be noisy"
            )
        if self.others_share is not None and self.others_share > _BUSY_DURING:
            found.append(
                f"other processes used {self.others_share:.0%} of the processor while latency was measured; "
                "end them and measure again"
            )
        if self.steal_share is not None and self.steal_share > _STOLEN:
            found.append(
                f"the hypervisor kept {self.steal_share:.0%} of the processor's time for other machines while latency "
                "was measured"
            )
        return found
