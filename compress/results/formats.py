"""How numbers are written wherever people read them: one precision and one unit for each quantity."""

from __future__ import annotations

from compress.results.rows import Timing

__all__ = ["NOTHING", "interval", "latency", "megabytes", "milliseconds", "number", "percent", "ratio", "speedup"]

NOTHING = "–"


def number(value: float | None, digits: int = 4) -> str:
    """Write a metric."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Write a share as percent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def megabytes(value: float | None) -> str:
    """Write bytes as megabytes of 10^6 bytes."""
    return NOTHING if value is None else f"{value / 1e6:.1f}" if value >= 1e5 else f"{value / 1e6:.3f}"


def ratio(value: float | None) -> str:
    """Write how many times."""
    return NOTHING if value is None else f"{value:.2f}x"


def milliseconds(value: float | None) -> str:
    """Write a time: two digits behind the point, three below 1 ms, none from 100 ms."""
    return NOTHING if value is None else f"{value:.{3 if value < 1 else 2 if value < 100 else 0}f}"


def latency(timing: Timing) -> str:
    """Write a median in milliseconds with the threads it took."""
    shown = milliseconds(timing.p50)
    return shown if timing.p50 is None or timing.threads is None else f"{shown} ({timing.threads} thr)"


def interval(timing: Timing) -> str:
    """Write the interval of a speedup, or nothing."""
    return "" if timing.low is None or timing.high is None else f"[{timing.low:.2f}, {timing.high:.2f}]"


def speedup(timing: Timing) -> str:
    """Write a speedup with its interval and, where it is no clear gain, its verdict."""
    parts = [ratio(timing.speedup), interval(timing)]
    if timing.verdict not in (None, "faster"):
        parts.append(str(timing.verdict))
    return " ".join(part for part in parts if part)
