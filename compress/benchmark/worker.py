"""The process that holds one variant: reads a request per line, answers a line, and blocks in between.

Ends when its standard input closes, so that it never outlives who started it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]

_STEADY = 0.03
"""Relative difference of two windows' medians below which a variant counts as warm."""

_FORMATS = {"onnxruntime": "onnx", "torch.compile": "torch"}
"""Format of what a runtime runs, where it has not the runtime's name."""


class _Worker:
    """State between requests."""

    def __init__(self) -> None:
        self.predictor: Any = None
        self.runs: list[Callable[[], Any]] = []
        self.device_time: Callable[[], float] | None = None
        self.rows: dict[str, Any] = {}
        self.meter: Any = None
        self.opened: dict[str, Any] = {}
        self.verified: Any = None

    # --- opening -----------------------------------------------------------------------------------

    def open(self, path: str, device: str, threads: int, provider: str = "auto") -> dict[str, Any]:
        """Open the artifact; answers its facts."""
        from compress.runtime import open_predictor

        self.predictor = open_predictor(self.verified or path, threads=threads, device=device, provider=provider)
        checkpoint, task = self.predictor.checkpoint, self.predictor.task
        config = _config(Path(path))
        self.opened = {
            "format": _FORMATS.get(self.predictor.runtime, self.predictor.runtime),
            "precision": checkpoint.precision if checkpoint else None,
            "digest": checkpoint.digest if checkpoint else None,
            "runtime": self.predictor.runtime,
            "device": self.predictor.device,
            "architecture": checkpoint.architecture if checkpoint else config.get("model_type"),
            "positions": _positions(config),
            "vocabulary": config.get("vocab_size"),
            "task": task.name if task else None,
            "labels": list(task.labels) if task else None,
        }
        return self.opened

    def prepare(self, path: str) -> dict[str, Any]:
        """Import what opening the artifact will import and verify its files; runs nothing, so that it can fork."""
        from compress.benchmark.memory import import_runtime
        from compress.checkpoint import MANIFEST, open_checkpoint

        place = Path(path)
        import_runtime(place, None)
        if (place / MANIFEST).is_file():
            self.verified = open_checkpoint(place)
        gc.collect()
        gc.freeze()  # a child's collections leave these pages shared
        return {}

    def cold_start(self, path: str, device: str, threads: int, provider: str, rows: str | None) -> dict[str, Any]:
        """Open in a process that has done nothing yet and answer once; answers times and resident memory.

        The runtime's modules are imported first: their time and their memory are told apart from the model's.
        """
        from compress.benchmark.memory import import_runtime, peak_rss, reset_peak, resident

        start = time.perf_counter()
        import_runtime(Path(path), threads)
        imported = time.perf_counter()
        empty, resets = resident(), reset_peak()
        self.open(path, device, threads, provider)
        opened = time.perf_counter()
        load_peak = peak_rss()
        answers = rows is not None and self.predictor.task is not None
        if rows is not None and answers:
            self._answer(rows)
        answered = time.perf_counter()
        held = resident()
        return {
            "import_ms": (imported - start) * 1e3,
            "open_ms": (opened - imported) * 1e3,
            "first_answer_ms": (answered - opened) * 1e3 if answers else None,
            "total_ms": (answered - start) * 1e3,
            "empty_rss_bytes": empty,
            "held_rss_bytes": held,
            "load_peak_rss_bytes": load_peak if resets else None,
        }

    def _answer(self, rows: str) -> None:
        frame, predictor = self._frame(rows), self.predictor
        features = predictor.task.encode(frame.head(1), predictor.tokenizer, predictor.max_length)
        predictor.logits_of(features)

    def memory(self, reset: bool = False) -> dict[str, Any]:
        """Answer the peak resident set since the start or the last reset and the GPU's figures, in bytes.

        ``peak_rss_bytes`` of a process whose system cannot reset the peak is the peak since its start.
        """
        from compress.benchmark.memory import device_memory, peak_rss, reset_peak

        device = self.predictor.device if self.predictor is not None else "cpu"
        found = {"peak_rss_bytes": peak_rss(), **device_memory(device)}
        if reset:
            reset_peak()
        return found

    # --- quality -----------------------------------------------------------------------------------

    def quality(self, rows: str, out: str, batch_size: int, threads: int, labels: Sequence[str]) -> dict[str, Any]:
        """Label a split; writes scores and decisions per row, answers metrics, the report and rows cut.

        Decisions are written as numbers of `labels`, whatever the order of the artifact's own.
        """
        import numpy as np

        predictor = self.predictor
        self._set_threads(threads)
        features = predictor.task.encode(self._frame(rows), predictor.tokenizer, predictor.max_length)
        logits = predictor.logits_of(features, batch_size)
        task = predictor.task
        common = np.asarray([labels.index(name) for name in task.labels], dtype=np.int64)
        decisions = common[task.decisions(logits, features)]
        correct = task.correct(logits, features)
        np.savez(out, scores=task.row_scores(logits, features), decisions=decisions, correct=correct)
        return {
            "metrics": task.metrics(logits, features),
            "report": task.report(logits, features),
            "truncated": features.truncated,
        }

    # --- latency -----------------------------------------------------------------------------------

    def shape(self, rows: str | None, batch: int, sequence: int | None, threads: int, tokens: int) -> dict[str, Any]:
        """Prepare what is timed, at a number of threads: a batch of a shape, or texts one by one.

        Parameters
        ----------
        rows
            File of real texts; None for made-up token ids below `tokens`.
        sequence
            Tokens per row; None for each text at its own length.
        """
        from compress.benchmark.inputs import batch_of, made_up, one_by_one

        predictor = self.predictor
        self._set_threads(threads)
        if rows is None:
            inputs = made_up(tokens)
        else:
            if rows not in self.rows:
                self.rows[rows] = predictor.task.encode(self._frame(rows), predictor.tokenizer, 512).inputs
            inputs = self.rows[rows]
        if sequence is None:
            batches = one_by_one(inputs, predictor.input_names, predictor.max_length)
        else:
            batches = [batch_of(inputs, batch, sequence, predictor.input_names)]
        self.runs = predictor.sessions(batches)
        self.device_time = predictor.device_timer(batches[0])
        return {"batches": len(batches)}

    def _set_threads(self, threads: int) -> None:
        if self.predictor.threads != threads:
            self.predictor.set_threads(threads)

    def warm(self, seconds: float) -> dict[str, Any]:
        """Run until two windows take the same time, for so many seconds at most; answers milliseconds per run."""
        import numpy as np

        clock, medians, runs = time.perf_counter, [], 0
        end, window = clock() + seconds, min(0.05, seconds / 4)
        while True:
            found: list[float] = []
            stop = clock() + window
            while clock() < stop or not found:
                start = clock()
                self.runs[runs % len(self.runs)]()
                found.append(clock() - start)
                runs += 1
            medians.append(float(np.median(found)))
            steady = len(medians) > 1 and abs(medians[-1] / medians[-2] - 1) < _STEADY
            if steady or clock() >= end:
                return {"steady": steady, "runs": runs, "milliseconds": medians[-1] * 1e3}

    def time(self, repeats: int, warm_ms: float = 0, first: int = 0) -> dict[str, Any]:
        """Run for `warm_ms` unmeasured and `repeats` times measured, the batches in turn from number `first` on.

        Answers milliseconds per run, context switches of the measured runs, and joules where a meter is read.
        """
        runs, clock, count = self.runs, time.perf_counter_ns, len(self.runs)
        number, end = first, clock() + warm_ms * 1e6
        while clock() < end:
            runs[number % count]()
            number += 1
        found = []
        meter = self.meter
        joules = meter.read() if meter is not None else None
        switches = _switches()
        for number in range(repeats):
            run = runs[(first + number) % count]
            start = clock()
            run()
            found.append((clock() - start) / 1e6)
        after = _switches()
        used = None if joules is None else meter.since(joules)
        return {
            "milliseconds": found,
            "switches": [b - a for a, b in zip(switches, after, strict=True)],
            "joules": used,
        }

    def fork(self) -> dict[str, Any]:
        """Answer as the child, which serves what is asked from now on, until ``end``."""
        return {}

    def pid(self) -> dict[str, Any]:
        """Answer this process's number."""
        return {"pid": os.getpid()}

    def facts(self) -> dict[str, Any]:
        """Answer the facts of what is open."""
        return self.opened

    def device(self, repeats: int) -> dict[str, Any]:
        """Answer milliseconds per run by the device's own events; None where it has none."""
        timer = self.device_time
        return {"milliseconds": None if timer is None else [timer() for _ in range(repeats)]}

    def energy(self, device: str) -> dict[str, Any]:
        """Begin to read the machine's energy counters in every measured turn; answers their source."""
        from compress.benchmark.energy import find_meter

        self.meter, reason = find_meter(device)
        return {"source": None if self.meter is None else self.meter.source, "reason": reason}

    # --- size --------------------------------------------------------------------------------------

    def macs(self, batch: int, sequence: int) -> dict[str, Any]:
        """Count multiply-accumulates of one forward pass."""
        from compress.benchmark.size import macs_of_onnx, macs_of_openvino, macs_of_torch

        predictor = self.predictor
        if predictor.runtime in ("torch", "torch.compile"):
            return {"macs": macs_of_torch(predictor.model, batch, sequence, predictor.input_names)}
        if predictor.runtime == "openvino":
            return {"macs": macs_of_openvino(predictor.path, batch, sequence)}
        import onnx

        return {"macs": macs_of_onnx(onnx.load(str(predictor.path)), batch, sequence)}

    def _frame(self, rows: str) -> Any:
        import pandas as pd

        return pd.DataFrame(json.loads(Path(rows).read_text(encoding="utf-8")))


def _config(path: Path) -> dict[str, Any]:
    file = (path if path.is_dir() else path.parent) / "config.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


def _positions(config: dict[str, Any]) -> int | None:
    found = config.get("max_position_embeddings")
    offset = 2 if config.get("model_type") in ("roberta", "xlm-roberta", "mpnet") else 0
    return None if found is None else int(found) - offset


def _switches() -> tuple[int, int]:
    """Return voluntary and involuntary context switches of this process so far; zeros where none are counted."""
    try:
        import resource
    except ImportError:
        return 0, 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_nvcsw, used.ru_nivcsw


def _await(child: int) -> None:
    """Wait until a child has ended, and end as it did if that was not well."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        os.kill(os.getpid(), -status)
    if status:
        os._exit(status)


def main() -> int:
    """Answer requests until standard input closes."""
    # Whatever a library prints must not be taken for an answer: answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker()
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        if do == "end":
            break
        try:
            if do == "fork" and (child := os.fork()):
                # Requests come one at a time, so none that is the child's has been read here.
                _await(child)
                answer: dict[str, Any] = {"ok": True}
            else:
                answer = {"ok": True, **getattr(worker, do)(**request)}
        except Exception as error:
            import traceback

            traceback.print_exc()
            status = getattr(error, "exit_status", None)  # of an error that the user can mend
            answer = {"ok": False, "kind": type(error).__name__, "error": str(error), "exit_status": status}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    # Nothing is left to write; taking torch down in an orderly way would cost a second per worker.
    os._exit(main())
