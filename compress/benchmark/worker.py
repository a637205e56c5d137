"""The process that holds one variant: reads a request per line, answers a line, and blocks in between.

Ends when its standard input closes, so that it never outlives who started it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main"]


class _Worker:
    """State between requests."""

    def __init__(self) -> None:
        self.predictor: Any = None
        self.run: Callable[[], Any] | None = None
        self.batches: dict[str, Any] = {}

    def open(self, path: str, device: str, threads: int) -> dict[str, Any]:
        """Open the artifact; answers its facts."""
        from compress.runtime import open_predictor

        self.predictor = open_predictor(path, threads=threads, device=device)
        manifest = self.predictor.checkpoint.manifest
        return {
            "format": manifest.format,
            "precision": manifest.precision,
            "runtime": self.predictor.runtime,
            "device": self.predictor.device,
            "architecture": manifest.architecture,
            "max_length": manifest.max_length,
            "positions": _positions(Path(path)),
        }

    def quality(self, rows: str, out: str, batch_size: int, threads: int) -> dict[str, Any]:
        """Label a split; writes scores and decisions per row, answers metrics, the report and rows cut."""
        import numpy as np
        import pandas as pd

        predictor = self.predictor
        self._set_threads(threads)
        frame = pd.DataFrame(json.loads(Path(rows).read_text(encoding="utf-8")))
        features = predictor.task.encode(frame, predictor.tokenizer, predictor.checkpoint.manifest.max_length)
        logits = predictor.logits_of(features, batch_size)
        task = predictor.task
        np.savez(out, scores=task.row_scores(logits, features), decisions=task.decisions(logits, features))
        return {
            "metrics": task.metrics(logits, features),
            "report": task.report(logits, features),
            "truncated": features.truncated,
        }

    def shape(self, rows: str, batch: int, sequence: int, threads: int) -> dict[str, Any]:
        """Prepare a batch of real tokens of a shape, at a number of threads."""
        import pandas as pd

        from compress.benchmark.inputs import batch_of

        predictor = self.predictor
        if rows not in self.batches:
            frame = pd.DataFrame(json.loads(Path(rows).read_text(encoding="utf-8")))
            self.batches[rows] = predictor.task.encode(frame, predictor.tokenizer, 512).inputs
        self._set_threads(threads)
        self.run = predictor.session(batch_of(self.batches[rows], batch, sequence, predictor.input_names))
        return {}

    def _set_threads(self, threads: int) -> None:
        if self.predictor.threads != threads:
            self.predictor.set_threads(threads)

    def time(self, repeats: int, warm: int) -> dict[str, Any]:
        """Run `warm` times unmeasured and `repeats` times measured; answers milliseconds."""
        run, clock = self.run, time.perf_counter_ns
        assert run is not None
        for _ in range(warm):
            run()
        found = []
        for _ in range(repeats):
            start = clock()
            run()
            found.append((clock() - start) / 1e6)
        return {"milliseconds": found}

    def macs(self, batch: int, sequence: int) -> dict[str, Any]:
        """Count multiply-accumulates of one forward pass."""
        from compress.benchmark.size import macs_of_onnx, macs_of_torch

        predictor = self.predictor
        if predictor.runtime == "torch":
            return {"macs": macs_of_torch(predictor.model, batch, sequence, predictor.input_names)}
        import onnx

        return {"macs": macs_of_onnx(onnx.load(str(predictor.checkpoint.path / "model.onnx")), batch, sequence)}

    def memory(self) -> dict[str, Any]:
        """Answer the peak resident set of this process so far and, on a GPU, torch's peak, in bytes."""
        peak = None
        if self.predictor is not None and self.predictor.device.startswith("cuda") and "torch" in sys.modules:
            import torch

            peak = torch.cuda.max_memory_allocated() or None
        return {"peak_rss_bytes": _peak_rss(), "peak_device_bytes": peak}


def _positions(path: Path) -> int | None:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    found = config.get("max_position_embeddings")
    offset = 2 if config.get("model_type") in ("roberta", "xlm-roberta", "mpnet") else 0
    return None if found is None else int(found) - offset


def _peak_rss() -> int:
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    """Answer requests until standard input closes."""
    # Whatever a library prints must not be taken for an answer: answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": True, **getattr(worker, request.pop("do"))(**request)}
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"ok": False, "kind": type(error).__name__, "error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    # Nothing is left to write; taking torch down in an orderly way would cost a second per worker.
    os._exit(main())
