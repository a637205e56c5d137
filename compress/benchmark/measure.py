"""Measure every checkpoint of a path side by side and say what is faster, smaller and as good."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
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
    paths = {name: path for name, _, path in variants}
    # Threads are left last: one that waits for an answer sees its process end when a fault or a signal ends them all.
    at_once = cores if device == "cpu" else 1  # one process at a time has the memory of a GPU
    with ThreadPoolExecutor(at_once) as pool, _started(paths, cores) as workers:
        judging = _Judging(rows, texts, scratch, config, device, cores, max(1, cores // at_once))
        with progress_of("quality and memory", len(variants), "variants") as progress:
            waiting = {pool.submit(judging.judge, workers[name], path): name for name, path in paths.items()}
            for future in as_completed(waiting):
                measured[waiting[future]] = future.result()
                progress.advance(note=waiting[future])
        measured = {name: {"step": step, **measured[name]} for name, step, _ in variants}
        shapes = _possible_shapes(config, measured, warnings)
        for shape in shapes:
            timings = time_shape(workers, baseline, texts, shape, config, cores)
            for name, timing in timings.items():
                measured[name]["timings"].append(timing)
                measured[name]["latency"].append(_latency_row(timing, shape, measured[name]["device"]))
    paired = {name: _paired(scratch / f"{name}.test.npz") for name in measured}
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
def _started(names: Iterable[str], cores: int) -> Iterator[dict[str, WorkerProcess]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(WorkerProcess(name, cores)) for name in names}


def _write_rows(frame: pd.DataFrame, file: Path) -> str:
    columns = {str(name): [list(v) if not isinstance(v, str) else v for v in frame[name]] for name in frame.columns}
    file.write_text(json.dumps(columns), encoding="utf-8")
    return str(file)


@dataclass(frozen=True)
class _Judging:
    """What is asked of a fresh process before anything is timed.

    Attributes
    ----------
    rows : mapping of str to str
        File of rows per split.
    texts : str
        File of the rows that shapes are made of.
    scratch : pathlib.Path
        Where scores per row are written, ``NAME.SPLIT.npz``.
    config, device, cores
        As in `measure`.
    threads : int
        Threads for quality: processes that run at the same time share the cores.
    """

    rows: Mapping[str, str]
    texts: str
    scratch: Path
    config: Benchmark
    device: str
    cores: int
    threads: int

    def judge(self, worker: WorkerProcess, path: Path) -> dict[str, Any]:
        """Return a variant's facts, peak memory, quality, size and multiply-accumulates."""
        empty = worker.ask("memory")["peak_rss_bytes"]
        opened = worker.ask("open", path=str(path), device=self.device, threads=self.cores)
        shapes = _fitting(self.config, opened["positions"])
        memory = {"peak_rss_bytes": None, "peak_device_bytes": None}
        if self.config.memory:
            memory = self._memory(worker, shapes, empty)
        judged = {
            split: worker.ask(
                "quality",
                rows=file,
                out=str(self.scratch / f"{worker.name}.{split}.npz"),
                batch_size=self.config.batch_size,
                threads=self.threads,
            )
            for split, file in self.rows.items()
        }
        batch, sequence = shapes[0] if shapes else (1, opened["positions"])
        macs = worker.ask("macs", batch=batch, sequence=sequence)
        return {
            **{key: opened[key] for key in ("format", "runtime", "precision", "device", "positions")},
            "metrics": judged["test"]["metrics"],
            "validation_metrics": judged["validation"]["metrics"],
            "report": judged["test"]["report"],
            "truncated": {split: answer["truncated"] for split, answer in judged.items()},
            "memory": memory,
            "size": {
                **size_of(path, opened["format"], opened["architecture"]),
                **macs,
                "macs_shape": [batch, sequence],
            },
            "latency": [],
            "timings": [],
        }

    def _memory(self, worker: WorkerProcess, shapes: Sequence[tuple[int, int]], empty: int) -> dict[str, Any]:
        """Return the peak resident set of a process that has opened the artifact and run each shape."""
        loaded = worker.ask("memory")["peak_rss_bytes"]
        for batch, sequence in shapes:
            worker.ask("shape", rows=self.texts, batch=batch, sequence=sequence, threads=self.cores)
            worker.ask("time", repeats=2, warm=0)
        return {**worker.ask("memory"), "empty_rss_bytes": empty, "loaded_rss_bytes": loaded}


def _fitting(config: Benchmark, positions: int | None) -> list[tuple[int, int]]:
    """Return the shapes that a model of so many positions takes."""
    shapes = [parse_shape(text) for text in config.shapes]
    return [shape for shape in shapes if positions is None or shape[1] <= positions]


def _possible_shapes(
    config: Benchmark, measured: Mapping[str, dict[str, Any]], warnings: list[str]
) -> list[tuple[int, int]]:
    """Return the shapes that every variant takes; what is left out is warned of."""
    limit = min((facts["positions"] for facts in measured.values() if facts["positions"]), default=None)
    possible = _fitting(config, limit)
    left_out = [text for text in config.shapes if parse_shape(text) not in possible]
    warnings.extend(
        f"benchmark.shapes: {text} was left out: the models take at most {limit} tokens" for text in left_out
    )
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
