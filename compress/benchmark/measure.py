"""Measure artifacts side by side and say what is faster, smaller and as good."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.benchmark.compare import compare, latency_row, noise_floor, paired
from compress.benchmark.judging import Judging, fitting
from compress.benchmark.kept import KeptAnswers
from compress.benchmark.latency import Texts, time_variants
from compress.benchmark.noise import NoiseMonitor
from compress.benchmark.process import Launches, WorkerProcess
from compress.config.shapes import Shape, expand
from compress.console import progress_of
from compress.errors import ConfigError
from compress.machine import usable_cores

if TYPE_CHECKING:
    import pandas as pd

    from compress.config.schemas import Benchmark
    from compress.data.base import Data
    from compress.tasks.base import Task

__all__ = ["measure"]

_TEXTS = 400
"""Texts that shapes are made of."""

_PUBLIC = (
    "step",
    "format",
    "runtime",
    "precision",
    "metrics",
    "validation_metrics",
    "report",
    "latency",
    "cold_start",
    "memory",
    "size",
)
"""Facts of a variant that go into the record."""


def measure(
    variants: Sequence[tuple[str, str | None, Path]],
    *,
    task: Task | None,
    data: Data | None,
    config: Benchmark,
    device: str,
    baseline: str,
    candidate: str,
    scratch: Path,
    log: logging.Logger,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure artifacts from disk.

    Parameters
    ----------
    variants
        Name, step (None for what no step of ours made) and path of each: a checkpoint's directory, one of Hugging
        Face, or an ``.onnx`` file.
    task
        The task, for quality; None without data.
    data
        Validation and test are read; None measures latency, memory and size only.
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
    cache
        Folder where answers per row are kept, to be used again for equal files and data.

    Returns
    -------
    dict
        ``variants``, ``comparison``, ``comparisons`` (of every variant), ``warnings``, ``load_average``,
        ``truncated``, ``benchmark`` (settings, noise): the parts of record.json that come from measuring.

    Raises
    ------
    CheckpointError
        If an artifact does not fit the data.
    ConfigError
        If no shape can be measured.
    StepError
        If a process fails or dies; with exit status 2 where the user can mend it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    cores, noise, began = usable_cores(), NoiseMonitor.look(), time.monotonic()
    paths = {name: path for name, _, path in variants}
    if data is None and any(shape.sequence is None for shape in expand(config.shapes)):
        raise ConfigError(f"benchmark.shapes={config.shapes}: natural means the lengths of real texts; add data=...")
    rows = {} if data is None else {name: _write(data.split(name), scratch / name) for name in ("validation", "test")}
    texts = Texts(None if data is None else _write(_unlabelled(data), scratch / "texts"), _vocabulary(paths))
    at_once = cores if device == "cpu" else 1  # one process at a time has the memory of a GPU
    judging = Judging(
        rows,
        texts,
        task,
        scratch,
        config,
        device,
        cores,
        max(1, cores // at_once),
        None if cache is None else KeptAnswers(cache / "answers"),
    )
    # Threads are left last: one that waits for an answer sees its process end when a fault or a signal ends them all.
    with ThreadPoolExecutor(at_once) as pool, _started(paths, cores) as workers:
        opened = {}
        with progress_of("memory and cold start", len(paths), "variants") as progress:
            for name, path in paths.items():
                opened[name] = judging.open(workers[name], path)
                progress.advance(note=name)
        log.info("opened %d variants in %.0f s", len(paths), time.monotonic() - began)
        began, measured = time.monotonic(), {}
        with progress_of("quality", len(paths), "variants") as progress:
            waiting = {
                pool.submit(judging.judge, workers[name], path, opened[name], number): name
                for number, (name, path) in enumerate(paths.items())
            }
            for future in as_completed(waiting):
                measured[waiting[future]] = future.result()
                progress.advance(note=waiting[future])
        log.info("quality and size in %.0f s", time.monotonic() - began)
    began = time.monotonic()
    measured = {name: {"step": step, **measured[name]} for name, step, _ in variants}
    shapes, warnings = _possible_shapes(config, measured)
    same = {name: str(path.resolve()) for name, path in paths.items()}
    noise.start()
    with _launches(paths, cores, device, config) as launches:
        timings = time_variants(launches, baseline, texts, shapes, config, cores, same)
    energy = launches[baseline].energy or {"source": None, "reason": "benchmark.energy=false"}
    noise.stop()
    log.info("latency in %.0f s", time.monotonic() - began)
    for shape, found in zip(shapes, timings, strict=True):
        for name, timing in found.items():
            measured[name]["timings"].append(timing)
            measured[name]["latency"].append(latency_row(timing, shape, measured[name]["device"]))
    answers = {
        name: {split: paired(Path(file)) for split, file in facts["answers"].items()}
        for name, facts in measured.items()
    }
    comparisons = {
        name: compare(
            measured[baseline],
            facts,
            {split: (answers[baseline][split], answers[name][split]) for split in rows},
            task,
            config,
            shapes,
        )
        for name, facts in measured.items()
    }
    twins = [name for name in paths if name != baseline and same[name] == same[baseline]]
    devices = {facts["device"] for facts in measured.values()}
    if len(devices) > 1:
        warnings.append(
            f"variants ran on different devices ({', '.join(sorted(devices))}): their ratios compare those too"
        )
    return {
        "variants": {name: {key: facts[key] for key in _PUBLIC} for name, facts in measured.items()},
        "comparison": comparisons[candidate],
        "comparisons": comparisons,
        "warnings": [*noise.warnings(), *warnings],
        "load_average": noise.load_average,
        "truncated": {split: measured[baseline]["truncated"][split] for split in rows},
        "benchmark": {
            "settings": {**dataclasses.asdict(config), "cores": cores, "spinning": "each runtime's default"},
            "noise": noise.facts(),
            "noise_floor": noise_floor(comparisons, twins),
            "together_with": len(paths),
            "energy": energy,
        },
    }


@contextlib.contextmanager
def _started(names: Iterable[str], cores: int) -> Iterator[dict[str, WorkerProcess]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(WorkerProcess(name, cores)) for name in names}


@contextlib.contextmanager
def _launches(paths: Mapping[str, Path], cores: int, device: str, config: Benchmark) -> Iterator[dict[str, Launches]]:
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Launches(name, cores, path, device, config.provider, config.energy))
            for name, path in paths.items()
        }


def _unlabelled(data: Data) -> pd.DataFrame:
    return data.test.head(_TEXTS).drop(columns=["label", "tags"], errors="ignore")


def _write(frame: pd.DataFrame, file: Path) -> str:
    columns = {str(name): [list(v) if not isinstance(v, str) else v for v in frame[name]] for name in frame.columns}
    target = file.with_suffix(".json")
    target.write_text(json.dumps(columns), encoding="utf-8")
    return str(target)


def _vocabulary(paths: Mapping[str, Path]) -> int:
    """Return a number that made-up token ids of every variant may be below."""
    from compress.benchmark.size import vocabulary_of

    return min(vocabulary_of(path) for path in paths.values())


def _possible_shapes(config: Benchmark, measured: Mapping[str, dict[str, Any]]) -> tuple[list[Shape], list[str]]:
    """Return the shapes that every variant takes, and a warning for each that is left out."""
    limit = min((facts["positions"] for facts in measured.values() if facts["positions"]), default=None)
    possible = fitting(config, limit)
    left_out = [shape for shape in expand(config.shapes) if shape not in possible]
    return possible, [
        f"benchmark.shapes: {shape} was left out: the models take at most {limit} tokens" for shape in left_out
    ]
