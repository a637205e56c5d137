"""Two runs side by side, with intervals where what was measured allows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.results.groups import baseline_checkpoint, measurement_of
from compress.results.record import read
from compress.results.rows import Span, Timing, VariantRow, describe, metric_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare"]

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class _Side:
    """One of the two: its record, the variant in question and where it was measured."""

    record: Mapping[str, Any]
    row: VariantRow
    run: str


def compare(a: Source, b: Source, *, variants: tuple[str | None, str | None] = (None, None)) -> pd.DataFrame:
    """Return how `b` differs from `a`.

    Parameters
    ----------
    a, b
        Two runs (directories or ``record.json``), or two records. The same may be given twice, with two `variants`.
    variants
        A variant of each; by default its artifact.

    Returns
    -------
    pandas.DataFrame
        A row per quantity: ``quantity``, ``a``, ``b``, ``change`` (`b` less `a` for a metric; `a` over `b` for times
        and bytes, so that more is better), ``low`` and ``high`` (an interval, or nothing), ``verdict`` and ``basis``:
        what the comparison rests on.

        A metric's interval comes from the paired intervals against the baseline that both have: exact where one of
        the two is that baseline, else the widest that the two allow, so that a difference is called one only where
        they do not overlap. Times of one interleaved measurement are compared directly, those of different ones by
        each run's ratio to the same baseline on the same machine, with intervals from those of the ratios. Runs differ
        by more than that: where both measured further equal checkpoints, the interval is widened by the most that the
        ratios of one of those differ. Where neither holds nothing is claimed.

    Raises
    ------
    DataError
        If a run cannot be read, has no such variant, or the two are of different tasks.
    """
    import pandas as pd

    left, right = _side(a, variants[0]), _side(b, variants[1])
    tasks = (left.record["task"], right.record["task"])
    if tasks[0] != tasks[1]:
        raise DataError(f"one run is of task {tasks[0]}, the other of {tasks[1]}: they have no quantity in common")
    rows = [*_metrics(left, right), *_latencies(left, right), *_bytes(left, right)]
    columns = ["quantity", "a", "b", "change", "low", "high", "verdict", "basis"]
    return pd.DataFrame(rows, columns=columns)


def _side(source: Source, variant: str | None) -> _Side:
    if isinstance(source, Mapping):
        record, run = source, f"record {id(source)}"
    else:
        path = Path(source)
        record, run = read(path), str((path.parent if path.is_file() else path).resolve())
    name = variant or record["candidate"]
    rows = {row.name: row for row in describe(record)}
    if name not in rows:
        raise DataError(f"variant {name!r} was not measured in {run}; measured: {', '.join(rows)}")
    return _Side(record, rows[name], run)


def _metrics(a: _Side, b: _Side) -> list[dict[str, Any]]:
    name, higher = metric_of(a.record)
    if name is None or name != metric_of(b.record)[0]:
        return []
    found: list[dict[str, Any]] = []
    for split, one, two, spans in (
        ("test", a.row.metric, b.row.metric, (a.row.difference, b.row.difference)),
        (
            "validation",
            a.row.validation,
            b.row.validation,
            (a.row.validation_difference, b.row.validation_difference),
        ),
    ):
        if one is None or two is None:
            continue
        line: dict[str, Any] = {"quantity": f"{name}, {split}", "a": one, "b": two}
        if _fingerprint(a) != _fingerprint(b):
            found.append({**line, "verdict": "not comparable", "basis": "the runs judged different data"})
            continue
        low, high, basis = _metric_interval(a, b, *spans)
        verdict = "" if low is None else _verdict(low, high, 0.0, "better" if higher else "worse")
        found.append({**line, "change": two - one, "low": low, "high": high, "verdict": verdict, "basis": basis})
    return found


def _metric_interval(a: _Side, b: _Side, one: Span, two: Span) -> tuple[float | None, float | None, str]:
    if a.row.checkpoint is not None and a.row.checkpoint == b.row.checkpoint:
        return 0.0, 0.0, "the same checkpoint"
    if not _same_baseline(a, b):
        return None, None, "different baselines: no paired interval"
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return None, None, "no paired interval was measured"
    basis = f"paired, against the baseline {a.record['baseline']}"
    if "baseline" not in (a.row.role, b.row.role):
        basis = f"from both paired intervals against the baseline {a.record['baseline']}"
    return two.low - one.high, two.high - one.low, basis


def _latencies(a: _Side, b: _Side) -> list[dict[str, Any]]:
    others = {timing.key: timing for timing in b.row.timings}
    basis, comparable = _basis(a, b)
    found = []
    for one in a.row.timings:
        two = others.get(one.key)
        if two is None or one.p50 is None or two.p50 is None:
            continue
        line: dict[str, Any] = {"quantity": f"median ms at {one.label}", "a": one.p50, "b": two.p50, "basis": basis}
        if not comparable:
            line["verdict"] = "not comparable"
        elif _together(a, b):
            line.update(_ratio_of(one, two, one.p50 / two.p50, 1.0))
        else:
            line.update(_across(a, b, one, two, basis))
        found.append(line)
    return found


def _across(a: _Side, b: _Side, one: Timing, two: Timing, basis: str) -> dict[str, Any]:
    """Return the ratio of two runs' ratios, with an interval that knows how much the runs themselves differ."""
    if one.speedup is None or two.speedup is None:
        return {"verdict": "not comparable"}
    between = _between_runs(a, b, one.key)
    found = _ratio_of(one, two, two.speedup / one.speedup, between or 1.0)
    if a.row.checkpoint is not None and a.row.checkpoint == b.row.checkpoint:
        return {**found, "verdict": "equal", "basis": f"the same checkpoint; what differs is the runs ({basis})"}
    if between is None:
        return {**found, "basis": f"{basis}; how much the runs differ is not known"}
    return {**found, "basis": f"{basis}; equal checkpoints differ by {between - 1:.0%} between the two runs"}


def _between_runs(a: _Side, b: _Side, shape: str) -> float | None:
    """Return the largest factor by which one checkpoint's ratio differs between two runs; None if none is shared."""
    ratios = [
        {row.checkpoint: timing.speedup for row in rows for timing in row.timings if timing.key == shape}
        for rows in ([row for row in describe(side.record) if row.role != "baseline"] for side in (a, b))
    ]
    pairs = [(ratios[0][key], ratios[1][key]) for key in ratios[0] if key is not None and key in ratios[1]]
    factors = [max(x / y, y / x) for x, y in pairs if x and y]
    return max(factors, default=None)


def _basis(a: _Side, b: _Side) -> tuple[str, bool]:
    """Return what times rest on, and whether they can be compared at all."""
    if _together(a, b):
        return "one interleaved measurement", True
    if _machine(a) != _machine(b):
        return "measured on different machines", False
    if not _same_baseline(a, b):
        return "measured in different runs against different baselines", False
    return f"measured in different runs: each by its ratio to the same baseline {a.record['baseline']}", True


def _ratio_of(one: Timing, two: Timing, change: float, wider: float) -> dict[str, Any]:
    """Return how many times faster the second is, with the widest interval that the two ratios allow."""
    ends = [_ends(one), _ends(two)]
    if ends[0] is None or ends[1] is None:
        return {"change": change, "verdict": "no interval"}
    low, high = ends[1][0] / ends[0][1] / wider, ends[1][1] / ends[0][0] * wider
    low, high = min(low, change), max(high, change)
    return {"change": change, "low": low, "high": high, "verdict": _verdict(low, high, 1.0, "faster")}


def _ends(timing: Timing) -> tuple[float, float] | None:
    """Return the interval of the ratio to the baseline; the baseline's own has no width."""
    if timing.low is not None and timing.high is not None:
        return timing.low, timing.high
    return (1.0, 1.0) if timing.speedup == 1.0 and timing.verdict is None else None


def _bytes(a: _Side, b: _Side) -> list[dict[str, Any]]:
    weights = (a.row.weights_bytes, b.row.weights_bytes)
    model = (a.row.memory.get("model_bytes"), b.row.memory.get("model_bytes"))
    found = []
    if all(weights):
        found.append(_smaller("bytes of weights", *weights, "exact", exact=True))
    if all(model):
        found.append(_smaller("bytes in memory", *model, "one peak each: no interval", exact=False))
    return found


def _smaller(quantity: str, one: Any, two: Any, basis: str, *, exact: bool) -> dict[str, Any]:
    change = one / two
    verdict = "" if not exact else "smaller" if change > 1 else "larger" if change < 1 else "equal"
    ends = {"low": change, "high": change} if exact else {}
    return {"quantity": quantity, "a": one, "b": two, "change": change, **ends, "verdict": verdict, "basis": basis}


def _verdict(low: float | None, high: float | None, none: float, above: str) -> str:
    below = {"better": "worse", "worse": "better", "faster": "slower"}[above]
    if low is None or high is None:
        return ""
    return above if low > none else below if high < none else "equal" if low == high == none else "inconclusive"


def _together(a: _Side, b: _Side) -> bool:
    return a.record is b.record or measurement_of(a.record, a.run) == measurement_of(b.record, b.run)


def _same_baseline(a: _Side, b: _Side) -> bool:
    if a.record is b.record or a.run == b.run:
        return True
    key = baseline_checkpoint(a.record)
    if key is not None and key == baseline_checkpoint(b.record):
        return True
    group = (a.record.get("group") or {}).get("key")
    return group is not None and group == (b.record.get("group") or {}).get("key") and _baseline(a) == _baseline(b)


def _baseline(side: _Side) -> tuple[Any, ...]:
    """Return what does not change from one measurement of a baseline to the next."""
    variant = side.record["variants"][side.record["baseline"]]
    return variant.get("metrics"), variant.get("validation_metrics"), (variant.get("size") or {}).get("weights_bytes")


def _fingerprint(side: _Side) -> str | None:
    return (side.record.get("data") or {}).get("fingerprint")


def _machine(side: _Side) -> tuple[Any, ...]:
    environment = side.record["environment"]
    cpu, gpu = environment.get("cpu") or {}, environment.get("gpu") or {}
    return cpu.get("model"), cpu.get("cores"), gpu.get("name")
