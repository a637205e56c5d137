"""A variant beside the baseline: quality by paired rows, latency by paired rounds, size, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.benchmark.latency import Timing
from compress.benchmark.statistics import (
    difference_interval,
    half_width,
    mcnemar,
    percentiles,
    quantiles,
    ratio_interval,
    rounded,
    verdict,
)

if TYPE_CHECKING:
    from compress.config.schemas import Benchmark
    from compress.config.shapes import Shape
    from compress.tasks.base import Task

__all__ = ["compare", "latency_row", "noise_floor", "paired"]

Paired = Mapping[str, np.ndarray]


def paired(file: Path) -> Paired:
    """Return what a worker wrote of a split: ``scores``, ``decisions`` and ``correct``."""
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in ("scores", "decisions", "correct")}


def latency_row(timing: Timing, shape: Shape, device: str) -> dict[str, Any]:
    """Return what the record says of a variant's latency at a shape."""
    found, runs = percentiles(timing.milliseconds), len(timing.milliseconds)
    voluntary, involuntary = (count / runs for count in timing.switches)
    return {
        "device": device,
        "threads": timing.threads,
        "batch_size": shape.batch,
        "sequence_length": shape.sequence,
        **rounded(found),
        "throughput_per_s": float(f"{shape.batch / found['mean_ms'] * 1000:.6g}"),
        "device_p50_ms": timing.device_ms,
        "energy_j": float(f"{np.median(timing.joules):.4g}") if timing.joules else None,
        "runs": runs,
        "rounds": timing.rounds,
        "launches": len(timing.launches),
        "quantiles_ms": quantiles(timing.milliseconds),
        "threads_tried": {str(threads): float(f"{ms:.4g}") for threads, ms in timing.tried.items()},
        "context_switches": {"voluntary": round(voluntary, 3), "involuntary": round(involuntary, 3)},
    }


def compare(
    base: Mapping[str, Any],
    other: Mapping[str, Any],
    splits: Mapping[str, tuple[Paired, Paired]],
    task: Task | None,
    config: Benchmark,
    shapes: Sequence[Shape],
) -> dict[str, Any]:
    """Return the comparison of a variant with the baseline.

    Parameters
    ----------
    base, other
        Their facts; the same object where the baseline is compared with itself.
    splits
        Answers per row of both, by split; empty without data.
    task
        Its metric; None without data.
    config, shapes
        What was measured.
    """
    speedups = [
        _speedup(base["timings"][number], other["timings"][number], shape, other["device"], config, base is other)
        for number, shape in enumerate(shapes)
    ]
    memory = (base["memory"]["peak_rss_bytes"], other["memory"]["peak_rss_bytes"])
    return {
        **_quality(base, other, splits, task, config),
        "speedup": speedups,
        "size_ratio": base["size"]["weights_bytes"] / other["size"]["weights_bytes"],
        "memory_ratio": memory[0] / memory[1] if all(memory) else None,
    }


def _speedup(slow: Timing, fast: Timing, shape: Shape, device: str, config: Benchmark, itself: bool) -> dict[str, Any]:
    interval = ratio_interval(slow.launches, fast.launches, confidence=config.confidence, seed=config.seed)
    return {
        "device": device,
        "threads": fast.threads,
        "batch_size": shape.batch,
        "sequence_length": shape.sequence,
        **rounded(dict(zip(("value", "low", "high"), interval, strict=True))),
        "verdict": "inconclusive" if itself else verdict(interval[1], interval[2]),
        "rounds": fast.rounds,
    }


def _quality(
    base: Mapping[str, Any],
    other: Mapping[str, Any],
    splits: Mapping[str, tuple[Paired, Paired]],
    task: Task | None,
    config: Benchmark,
) -> dict[str, Any]:
    if task is None or not splits:
        names = ("metric_retained", "metric_difference", "validation_difference", "agreement", "mcnemar")
        return dict.fromkeys(names)
    before, after = base["metrics"][task.metric], other["metrics"][task.metric]
    difference = {
        split: difference_interval(
            ours["scores"],
            theirs["scores"],
            task.metric_from_sums,
            confidence=config.confidence,
            seed=config.seed,
        )
        for split, (ours, theirs) in splits.items()
    }
    ours, theirs = splits["test"]
    # Tokenizers that cut texts at other words judge other units.
    alike = len(ours["decisions"]) == len(theirs["decisions"])
    return {
        "metric_retained": after / before if before else None,
        "metric_difference": difference["test"],
        "validation_difference": difference["validation"],
        "agreement": float(np.mean(ours["decisions"] == theirs["decisions"])) if alike else None,
        "mcnemar": mcnemar(ours["correct"], theirs["correct"]),
    }


def noise_floor(comparisons: Mapping[str, Mapping[str, Any]], twins: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return how far the baseline's artifact, named again, seems to be from itself; None if it was named once.

    Parameters
    ----------
    comparisons
        By variant.
    twins
        Variants that are the baseline's artifact.
    """
    if not twins:
        return None
    return [
        {
            **{key: row[key] for key in ("device", "threads", "batch_size", "sequence_length", "value", "low", "high")},
            "half_width": round(half_width((row["value"], row["low"], row["high"])), 5),
            "verdict": row["verdict"],
        }
        for name in twins
        for row in comparisons[name]["speedup"]
    ]
