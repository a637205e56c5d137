"""What each variant is asked before anything is timed: memory, cold start, quality, size, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.benchmark.kept import KeptAnswers
from compress.benchmark.latency import Texts
from compress.benchmark.process import WorkerProcess
from compress.benchmark.size import size_of
from compress.config.shapes import Shape, expand
from compress.errors import CheckpointError

if TYPE_CHECKING:
    from compress.config.schemas import Benchmark
    from compress.tasks.base import Task

__all__ = ["Judging", "fitting"]

_RUNS = 3
"""Runs of each shape whose memory is watched."""


@dataclass(frozen=True)
class Judging:
    """The questions, and where the answers per row are kept.

    Attributes
    ----------
    rows : mapping of str to str
        File of rows per split; empty without data.
    texts : Texts
        What shapes are made of.
    task : Task or None
        What the data is for; None without data.
    scratch : pathlib.Path
        Where scores per row are written, ``NUMBER.SPLIT.npz``.
    config, device, cores
        As in `compress.benchmark.measure`.
    threads : int
        Threads for quality: processes that run at the same time share the cores.
    kept : KeptAnswers or None
        Answers of earlier measurements.
    """

    rows: Mapping[str, str]
    texts: Texts
    task: Task | None
    scratch: Path
    config: Benchmark
    device: str
    cores: int
    threads: int
    kept: KeptAnswers | None = None

    def open(self, worker: WorkerProcess, path: Path) -> dict[str, Any]:
        """Open a variant in its process, which has done nothing yet; returns its facts, peak memory and cold start."""
        asked = {"path": str(path), "device": self.device, "threads": self.cores, "provider": self.config.provider}
        if not self.config.memory:
            facts = worker.ask("open", **asked)
            self._check(worker.name, facts)
            return {**facts, "memory": {"peak_rss_bytes": None, "peak_device_bytes": None}, "cold_start": None}
        start = worker.ask("cold_start", **asked, rows=self.texts.rows)
        empty, held, load = (start.pop(f"{name}_rss_bytes") for name in ("empty", "held", "load_peak"))
        facts = worker.ask("facts")
        self._check(worker.name, facts)
        before = worker.ask("memory", reset=True)
        for shape in fitting(self.config, facts["positions"]):
            worker.ask("shape", **self.texts.asked(shape), threads=self.cores)
            worker.ask("time", repeats=_RUNS)
        after = worker.ask("memory")
        inference, loading = after["peak_rss_bytes"] - empty, None if load is None else load - empty
        memory = {
            "peak_rss_bytes": max(before["peak_rss_bytes"], after["peak_rss_bytes"]),
            "peak_device_bytes": after["peak_device_bytes"],
            "driver_device_bytes": after["driver_device_bytes"],
            "empty_rss_bytes": empty,
            "held_bytes": held - empty,
            "load_bytes": loading,
            "inference_bytes": inference,
            "model_bytes": max(inference, loading or 0),
        }
        return {**facts, "memory": memory, "cold_start": {key: _rounded(value) for key, value in start.items()}}

    def judge(self, worker: WorkerProcess, path: Path, opened: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return a variant that is open with its quality, size and multiply-accumulates."""
        judged = {split: self._quality(worker, split, file, opened, number) for split, file in self.rows.items()}
        shapes = [shape for shape in fitting(self.config, opened["positions"]) if shape.sequence is not None]
        counted = shapes[0] if shapes else Shape(1, min(32, opened["positions"] or 32))
        size = size_of(path, opened["format"])
        macs = worker.ask("macs", batch=counted.batch, sequence=counted.sequence)
        return {
            **opened,
            "precision": opened["precision"] or size["precision"],
            "metrics": judged["test"]["metrics"] if judged else {},
            "validation_metrics": judged["validation"]["metrics"] if judged else {},
            "report": judged["test"]["report"] if judged else {},
            "truncated": {split: answer["truncated"] for split, answer in judged.items()},
            "answers": {split: answer["file"] for split, answer in judged.items()},
            "size": {
                **{key: value for key, value in size.items() if key != "precision"},
                **macs,
                "macs_shape": [counted.batch, counted.sequence],
            },
            "latency": [],
            "timings": [],
        }

    def _quality(
        self, worker: WorkerProcess, split: str, file: str, opened: Mapping[str, Any], number: int
    ) -> dict[str, Any]:
        """Return a split's metrics and the file of its answers: measured now, or kept from an equal measurement."""
        assert self.task is not None
        labels = list(self.task.labels)
        how = {
            "task": [self.task.name, self.task.metric],
            "device": opened["device"].partition(":")[0],
            "provider": self.config.provider,
            "threads": self.threads,
            "batch_size": self.config.batch_size,
        }
        key = self.kept.key(opened["digest"], file, labels, how) if self.kept and opened["digest"] else None
        known = self.kept.find(key) if self.kept and key else None
        if known is not None:
            return known
        out = str(self.scratch / f"{number}.{split}.npz")
        asked = {"rows": file, "out": out, "batch_size": self.config.batch_size, "threads": self.threads}
        answer = {**worker.ask("quality", **asked, labels=labels), "file": out}
        if self.kept and key:
            self.kept.keep(key, answer)
        return answer

    def _check(self, name: str, opened: Mapping[str, Any]) -> None:
        """Refuse an artifact that cannot be judged on this data."""
        if self.task is None:
            return
        if opened["task"] is None:
            raise CheckpointError(
                f"{name}: an .onnx file without a config.json and a tokenizer beside it cannot read texts; put them "
                f"there, or measure without data"
            )
        if opened["task"] != self.task.name:
            raise CheckpointError(
                f"{name} is made for {opened['task']}, the data for {self.task.name}; leave it out, or set "
                f"task={opened['task']} and data for that"
            )
        labels, wanted = set(opened["labels"]), set(self.task.labels)
        if labels != wanted:
            raise CheckpointError(
                f"{name}: its labels are not those of the data: only in the data {_some(wanted - labels)}, only in the "
                f"model {_some(labels - wanted)}; measure it on data with its labels, or without data"
            )


def fitting(config: Benchmark, positions: int | None) -> list[Shape]:
    """Return the shapes that a model of so many positions takes."""
    shapes = expand(config.shapes)
    return [shape for shape in shapes if positions is None or shape.sequence is None or shape.sequence <= positions]


def _some(names: set[str]) -> str:
    shown: Sequence[str] = sorted(names)[:6]
    return f"[{', '.join(shown)}{', ...' if len(names) > 6 else ''}]"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
