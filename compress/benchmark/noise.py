"""How quiet the machine was: what others used of the processor before and while something was measured."""

from __future__ import annotations

import os
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
    """Watches the processor; this process and those that it started and waited for are told apart from the rest.

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

    def start(self) -> None:
        """Begin to watch."""
        import psutil

        self._ours, self._before = _own_seconds(), psutil.cpu_times()

    def stop(self) -> None:
        """End watching and work out what others used and what the hypervisor kept; our processes have ended."""
        import psutil

        now, ours = psutil.cpu_times(), _own_seconds() - self._ours
        spent = {name: getattr(now, name) - getattr(self._before, name) for name in now._fields}
        # guest time is part of user time already
        whole = sum(seconds for name, seconds in spent.items() if not name.startswith("guest"))
        idle = spent["idle"] + spent.get("iowait", 0.0)
        stolen = spent.get("steal", 0.0)
        if whole <= 0:
            return
        self.steal_share = round(stolen / whole, 4)
        if os.name == "posix":  # elsewhere the system does not tell what processes used that have ended
            self.others_share = round(max(0.0, whole - idle - stolen - ours) / whole, 4)

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


def _own_seconds() -> float:
    """Return the processor's seconds of this process and of all its processes that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
