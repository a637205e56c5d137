"""Measure every checkpoint of a path side by side and say what is faster, smaller and as good."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.benchmark.inputs import parse_shape
from compress.benchmark.latency import Timing, time_shape
from compress.benchmark.process import WorkerProcess
from compress.benchmark.size import size_of
from compress.benchmark.statistics import difference_interval, percentiles, ratio_interval, rounded, verdict
from compress.console import progress_of
from compress.machine import load_average, usable_cores

if TYPE_CHECKING:
    import pandas as pd

    from compress.config.schemas import Benchmark
    from compress.data.base import Data
    from compress.tasks.base import Task

__all__ = ["measure"]

_BUSY = 0.15
"""Share of all cores in use, before anything of ours runs, from which on the machine is called busy."""


def measure(
    variants: Sequence[tuple[str, str, Path]],
    *,
    task_name: str,
    task: Task,
    data: Data,
    config: Benchmark,
    device: str,
    baseline: str,
    candidate: str,
    scratch: Path,
    log: logging.Logger,
) -> dict[str, Any]:
    """Measure checkpoints from disk.

    Parameters
    ----------
    variants
        Name, step and checkpoint directory of each.
    task_name, task
        The task, for the paired intervals.
    data
        Validation and test are read.
    config
        Shapes, threads, bounds.
    device
        Where the variants run.
    baseline, candidate
        Names of the variants that are compared.
    scratch
        Directory for temporary files.
    log
        Where to say what is going on.

    Returns
    -------
    dict
        ``variants``, ``comparison``, ``comparisons`` (of every variant), ``warnings``, ``load_average``,
        ``truncated``: the parts of record.json that come from measuring.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    cores, load, warnings = usable_cores(), load_average(), []
    busy = _busy_share()
    if busy > _BUSY:
        warnings.append(f"other processes used {busy:.0%} of the processor when measuring began; latency may be noisy")
    rows = {name: _write_rows(data.split(name), scratch / f"{name}.json") for name in ("validation", "test")}
    texts = _write_rows(data.test.head(400), scratch / "texts.json")
    measured: dict[str, dict[str, Any]] = {}
    with _workers([name for name, _, _ in variants], cores) as workers:
        with progress_of("quality", len(variants), "variants") as progress:
            for name, step, path in variants:
                measured[name] = _open_and_judge(workers[name], name, step, path, rows, scratch, config, device, cores)
                progress.advance(note=name)
        shapes = _possible_shapes(config, measured, warnings)
        for shape in shapes:
            timings = time_shape(workers, baseline, texts, shape, config, cores)
            for name, timing in timings.items():
                measured[name]["timings"].append(timing)
                measured[name]["latency"].append(_latency_row(timing, shape, measured[name]["device"]))
        for name, facts in measured.items():
            batch, sequence = shapes[0] if shapes else parse_shape(config.shapes[0])
            facts["size"] |= {
                **workers[name].ask("macs", batch=batch, sequence=sequence),
                "macs_shape": [batch, sequence],
            }
    for name, _, path in variants:
        measured[name]["memory"] = (
            _memory(name, path, texts, shapes, measured[name], cores)
            if config.memory
            else {"peak_rss_bytes": None, "peak_device_bytes": None}
        )
    paired = {name: _paired(scratch / f"{name}.npz") for name in measured}
    comparisons = {
        name: _compare(measured[baseline], measured[name], paired[baseline], paired[name], task, config, shapes)
        for name in measured
    }
    truncated = {split: measured[baseline]["truncated"][split] for split in rows}
    public = (
        "step",
        "format",
        "runtime",
        "precision",
        "metrics",
        "validation_metrics",
        "report",
        "latency",
        "memory",
        "size",
        "open_seconds",
    )
    return {
        "variants": {name: {key: facts[key] for key in public} for name, facts in measured.items()},
        "comparison": comparisons[candidate],
        "comparisons": comparisons,
        "warnings": warnings,
        "load_average": load,
        "truncated": truncated,
    }


def _busy_share() -> float:
    """Return the share of all cores that others use now (the load average remembers our own work)."""
    import psutil

    return float(psutil.cpu_percent(interval=0.5)) / 100


@contextlib.contextmanager
def _workers(names: Sequence[str], cores: int) -> Iterator[dict[str, WorkerProcess]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(WorkerProcess(name, cores)) for name in names}


def _write_rows(frame: pd.DataFrame, file: Path) -> str:
    columns = {str(name): [list(v) if not isinstance(v, str) else v for v in frame[name]] for name in frame.columns}
    file.write_text(json.dumps(columns), encoding="utf-8")
    return str(file)


def _open_and_judge(
    worker: WorkerProcess,
    name: str,
    step: str,
    path: Path,
    rows: Mapping[str, str],
    scratch: Path,
    config: Benchmark,
    device: str,
    cores: int,
) -> dict[str, Any]:
    opened = worker.ask("open", path=str(path), device=device, threads=cores)
    test = worker.ask("quality", rows=rows["test"], out=str(scratch / f"{name}.npz"), batch_size=config.batch_size)
    validation = worker.ask(
        "quality", rows=rows["validation"], out=str(scratch / f"{name}.validation.npz"), batch_size=config.batch_size
    )
    return {
        "step": step,
        **{key: opened[key] for key in ("format", "runtime", "precision", "device", "positions")},
        "open_seconds": round(opened["seconds"], 3),
        "metrics": test["metrics"],
        "validation_metrics": validation["metrics"],
        "report": test["report"],
        "truncated": {"test": test["truncated"], "validation": validation["truncated"]},
        "size": size_of(path, opened["format"], opened["architecture"]),
        "latency": [],
        "timings": [],
    }


def _possible_shapes(
    config: Benchmark, measured: Mapping[str, dict[str, Any]], warnings: list[str]
) -> list[tuple[int, int]]:
    possible = []
    limit = min((facts["positions"] for facts in measured.values() if facts["positions"]), default=None)
    for text in config.shapes:
        shape = parse_shape(text)
        if limit is not None and shape[1] > limit:
            warnings.append(f"benchmark.shapes: {text} was left out: the models take at most {limit} tokens")
        else:
            possible.append(shape)
    return possible


def _latency_row(timing: Timing, shape: tuple[int, int], device: str) -> dict[str, Any]:
    found = percentiles(timing.milliseconds)
    return {
        "device": device,
        "threads": timing.threads,
        "batch_size": shape[0],
        "sequence_length": shape[1],
        **rounded(found),
        "throughput_per_s": float(f"{shape[0] / found['p50_ms'] * 1000:.6g}"),
        "runs": len(timing.milliseconds),
        "rounds": len(timing.rounds),
    }


def _memory(
    name: str, path: Path, texts: str, shapes: Sequence[tuple[int, int]], facts: Mapping[str, Any], cores: int
) -> dict[str, Any]:
    """Return the peak resident set of a further process that opens the artifact and runs each shape once."""
    with WorkerProcess(name, cores) as worker:
        empty = worker.ask("memory")["peak_rss_bytes"]
        worker.ask("open", path=str(path), device=facts["device"], threads=cores)
        loaded = worker.ask("memory")["peak_rss_bytes"]
        for batch, sequence in shapes:
            worker.ask("shape", rows=texts, batch=batch, sequence=sequence, threads=cores)
            worker.ask("time", repeats=2, warm=0)
        return {**worker.ask("memory"), "empty_rss_bytes": empty, "loaded_rss_bytes": loaded}


def _paired(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in ("scores", "decisions")}


def _compare(
    base: Mapping[str, Any],
    other: Mapping[str, Any],
    base_paired: Mapping[str, np.ndarray],
    paired: Mapping[str, np.ndarray],
    task: Task,
    config: Benchmark,
    shapes: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    before, after = base["metrics"][task.metric], other["metrics"][task.metric]
    speedups = []
    for number, shape in enumerate(shapes):
        interval = ratio_interval(base["timings"][number].rounds, other["timings"][number].rounds, seed=config.seed)
        speedups.append(
            {
                "device": other["device"],
                "threads": other["timings"][number].threads,
                "batch_size": shape[0],
                "sequence_length": shape[1],
                **rounded(dict(zip(("value", "low", "high"), interval, strict=True))),
                "verdict": verdict(interval[1], interval[2]) if base is not other else "inconclusive",
            }
        )
    memory = (base["memory"]["peak_rss_bytes"], other["memory"]["peak_rss_bytes"])
    return {
        "metric_retained": after / before if before else None,
        "metric_difference": difference_interval(
            base_paired["scores"], paired["scores"], task.metric_from_sums, seed=config.seed
        ),
        "agreement": float(np.mean(base_paired["decisions"] == paired["decisions"])),
        "speedup": speedups,
        "size_ratio": base["size"]["weights_bytes"] / other["size"]["weights_bytes"],
        "memory_ratio": memory[0] / memory[1] if all(memory) else None,
    }
