"""What the values inside a graph look like on real texts: run batch by batch, nothing kept but running statistics."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.steps.base import Context
from compress.steps.drawing import drawn_rows

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint

__all__ = ["BINS", "Calibration", "Histogram", "Spread", "Watch", "hessians", "histograms", "spreads"]

log = logging.getLogger(__name__)

BINS = 4096
"""Of a histogram of one value, between the smallest and the largest number seen."""


@dataclass(frozen=True)
class Calibration:
    """Training rows as batches of one model: the only data that quantization looks at.

    Attributes
    ----------
    batches : list of dict
        Inputs of the graph, ``attention_mask`` among them, int64 ``[rows, tokens]``, rows of similar length together.
    rows : int
        How many.
    """

    batches: list[dict[str, np.ndarray]]
    rows: int

    @classmethod
    def drawn(cls, source: Checkpoint, rows: int, batch_size: int, context: Context) -> Calibration:
        """Draw training rows by seed and tokenize them as the checkpoint does.

        Raises
        ------
        StepError
            If there are no training rows.
        """
        from compress.runtime.encoder import TextEncoder
        from compress.tasks.padding import padding_of

        encoder = TextEncoder(source.path)
        features = context.task.encode(drawn_rows(context, rows), encoder, context.max_length)
        padding = padding_of(encoder)
        order = sorted(range(len(features)), key=lambda row: (features.lengths[row], row))
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        batches = [
            {
                name: np.ascontiguousarray(values, dtype=np.int64)
                for name, values in context.task.collate([features.inputs[row] for row in group], None, padding).items()
            }
            for group in groups
        ]
        return cls(batches, len(features))


class Watch:
    """Run a graph on calibration rows and hand out values from inside it.

    Parameters
    ----------
    graph : onnx.ModelProto
        Not changed.
    names : sequence of str
        Values to watch, float ``[..., width]``.
    threads : int
        Intra-op threads.
    """

    def __init__(self, graph: onnx.ModelProto, names: Sequence[str], threads: int) -> None:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper

        from compress.onnx_graph import MODEL_FILE, save_graph

        self.names = list(dict.fromkeys(names))
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        there = {value.name for value in copy.graph.output}
        copy.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.names if name not in there
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            save_graph(copy, Path(folder))
            self._session: Any = onnxruntime.InferenceSession(
                str(Path(folder) / MODEL_FILE), options, providers=["CPUExecutionProvider"]
            )
        self._inputs = [value.name for value in self._session.get_inputs()]

    def run(self, calibration: Calibration) -> Iterator[dict[str, np.ndarray]]:
        """Yield, batch by batch, every watched value as ``[tokens, width]``, tokens of padding left out."""
        for batch in calibration.batches:
            feeds = {name: batch[name] for name in self._inputs if name in batch}
            if "token_type_ids" in self._inputs and "token_type_ids" not in feeds:
                feeds["token_type_ids"] = np.zeros_like(batch["input_ids"])
            values = self._session.run(self.names, feeds)
            mask = batch["attention_mask"].astype(bool)
            yield {name: _tokens(value, mask) for name, value in zip(self.names, values, strict=True)}


@dataclass
class Spread:
    """Smallest and largest number of each channel, and some tokens as they were.

    Attributes
    ----------
    low, high : numpy.ndarray
        float32 ``[width]``.
    sample : numpy.ndarray
        float32 ``[tokens, width]``: every token of few, else about `KEPT`, drawn from all batches.
    """

    low: np.ndarray
    high: np.ndarray
    sample: np.ndarray


KEPT = 1024
"""Tokens of a value that are kept as they were: with 24 values of width 384 to 1,536, 70 MB."""


@dataclass
class Histogram:
    """How often numbers of a value fell between its smallest and its largest.

    Attributes
    ----------
    low, high : float
        Outer edges.
    counts : numpy.ndarray
        int64 ``[BINS]``.
    """

    low: float
    high: float
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    def add(self, values: np.ndarray) -> None:
        """Count numbers; those beyond the edges go into the outermost bins."""
        span = self.high - self.low
        if span <= 0:
            self.counts[0] += values.size
            return
        places = ((values.ravel() - np.float32(self.low)) * np.float32(BINS / span)).astype(np.int32)
        np.clip(places, 0, BINS - 1, out=places)
        self.counts += np.bincount(places, minlength=BINS)

    @property
    def centres(self) -> np.ndarray:
        """Middle of each bin, float64 ``[BINS]``."""
        step = (self.high - self.low) / BINS
        centres: np.ndarray = self.low + step * (np.arange(BINS) + 0.5)
        return centres


def spreads(watch: Watch, calibration: Calibration, seed: int) -> dict[str, Spread]:
    """Return the spread of each watched value; one pass over the rows, about `KEPT` tokens of each value in memory."""
    found: dict[str, Spread] = {}
    random = np.random.default_rng(seed)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in calibration.batches)
    for number, values in enumerate(watch.run(calibration), 1):
        for name, value in values.items():
            share = min(1.0, KEPT / max(1, tokens))
            few = len(value) if len(value) * len(calibration.batches) <= KEPT else round(len(value) * share)
            rows = np.sort(random.permutation(len(value))[: max(1, few)])
            low, high = value.min(axis=0), value.max(axis=0)
            if name not in found:
                found[name] = Spread(low, high, value[rows])
                continue
            known = found[name]
            known.low, known.high = np.minimum(known.low, low), np.maximum(known.high, high)
            if len(known.sample) < 2 * KEPT:
                known.sample = np.concatenate([known.sample, value[rows]])
        if number % 20 == 0:
            log.debug("calibration: %d/%d batches", number, len(calibration.batches))
    return found


def histograms(watch: Watch, calibration: Calibration, known: Mapping[str, Spread]) -> dict[str, Histogram]:
    """Return the histogram of each watched value between the edges that are known of it; one more pass."""
    found = {name: Histogram(float(known[name].low.min()), float(known[name].high.max())) for name in watch.names}
    for values in watch.run(calibration):
        for name, value in values.items():
            found[name].add(value)
    return found


def hessians(
    watch: Watch, calibration: Calibration, apply: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None
) -> dict[str, np.ndarray]:
    """Return ``sum of x x^T`` over all tokens of each watched value, float64 ``[width, width]``; one pass.

    Parameters
    ----------
    watch, calibration
        What is run on what.
    apply : mapping, optional
        By name what is done to a value first (its quantization).
    """
    found: dict[str, np.ndarray] = {}
    for values in watch.run(calibration):
        for name, value in values.items():
            x = value if apply is None else apply[name](value).astype(np.float32)
            product = (x.T @ x).astype(np.float64)
            found[name] = found[name] + product if name in found else product
    return found


def _tokens(value: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return ``[tokens, width]`` of a value, padding left out where its shape tells which tokens it holds."""
    flat = value.reshape(-1, value.shape[-1])
    if flat.shape[0] == mask.size:
        flat = flat[mask.ravel()]
    return np.asarray(flat, dtype=np.float32)
