"""Mixed precision: which products cost most when quantized, and how many of them must be spared."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.quantization import MixedQuantization, StaticQuantization, WeightOnlyQuantization
from compress.console import progress_of
from compress.errors import StepError
from compress.steps.base import Context, SourceFacts
from compress.steps.quantize.blocks import check_block_size
from compress.steps.quantize.capability import cautions
from compress.steps.quantize.graph_step import GraphQuantization, Quantized
from compress.steps.quantize.observing import Calibration, Watch, hessians
from compress.steps.quantize.saturation import seven_bits
from compress.steps.quantize.static import Prepared, prepare
from compress.steps.quantize.unread import refuse_unread
from compress.steps.quantize.weight_only import quantize_weights

if TYPE_CHECKING:
    import onnx

    from compress.checkpoint import Checkpoint

__all__ = ["EMBEDDINGS", "MixedStep"]

log = logging.getLogger(__name__)

DEFAULT_DROP = 0.005
_SECOND_TRIES = 8
EMBEDDINGS = "embeddings"
"""What the tables of token embeddings are called among the parts that can be spared."""


@dataclass(frozen=True)
class Tried:
    """One assignment on the validation split: its metric, and how far its answers are from the source's.

    ``divergence`` is the mean Kullback-Leibler divergence per row or token. It is finer than a metric of a few hundred
    rows, so parts are ranked by it.
    """

    metric: float
    divergence: float


class MixedStep(GraphQuantization[MixedQuantization]):
    """Quantize one product at a time, rank them, then spare as few as the budget needs.

    How many of the most sensitive are spared is found by bisection on the validation split; then each of those is
    tried again by itself beside the others.
    """

    kind: ClassVar[str] = "quantize/mixed"
    config: ClassVar[type] = MixedQuantization
    method: ClassVar[str] = "mixed"
    trains: ClassVar[bool] = True

    def check(self, config: MixedQuantization, source: SourceFacts) -> None:
        """Refuse a quantized source and a block size that no kernel has."""
        super().check(config, source)
        check_block_size(config.block_size)
        unread = ["block_size"] if config.bits == "8/32" else ["calibration", "percentile", "kernels"]
        refuse_unread(config, unread, f"with bits={config.bits}")
        if config.calibration != "percentile":
            refuse_unread(config, ["percentile"], f"with calibration={config.calibration}")
        if config.bits == "4/8" and config.rounding == "nearest":
            refuse_unread(config, ["calibration_rows", "batch_size"], "with bits=4/8 and rounding=nearest")

    def resolve(self, config: MixedQuantization) -> Mapping[str, Any]:
        """Return whether weights are kept to 7 bits on this machine."""
        return {"reduce_range": config.bits == "8/32" and seven_bits("auto")}

    def after(self, config: MixedQuantization, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the lower of the two precisions."""
        return replace(source, format=self.leaves, precision="int8" if config.bits == "8/32" else "int4")

    def cautions(self, config: MixedQuantization, device: str) -> Sequence[str]:
        """Return what either kind of product does not save here."""
        return cautions("onnx_int8" if config.bits == "8/32" else "onnx_blocks", device)

    def gate(self, config: MixedQuantization) -> float | None:
        """Return what the search was to keep, which the whole is judged by once more."""
        return _allowed(config)

    def quantize(
        self, graph: onnx.ModelProto, config: MixedQuantization, context: Context, source: Checkpoint
    ) -> Quantized:
        """Measure the sensitivity of every part, search, verify."""
        from compress.onnx_graph import find_head, products_of
        from compress.onnx_graph.tables import lookups_of

        head = None if config.head else find_head(graph)
        calibration = Calibration.drawn(source, config.calibration_rows, config.batch_size, context)
        products = products_of(graph, head)
        parts = [one.name for one in products]
        if config.embeddings and lookups_of(graph):
            parts.append(EMBEDDINGS)
        if not parts:
            raise StepError(f"step {context.name}: {source.architecture} has no product by a stored weight")
        build: Callable[[Sequence[str]], tuple[onnx.ModelProto, list[str]]]
        if config.bits == "8/32":
            static = StaticQuantization(
                calibration=config.calibration, percentile=config.percentile, rounding=config.rounding
            )
            bits = 7 if self.resolve(config)["reduce_range"] else 8
            prepared = prepare(graph, static, calibration, context, bits=bits, without=head)
            build = partial(_integers, graph, prepared, config.kernels)
        else:
            sums: Mapping[str, np.ndarray] = {}
            if config.rounding == "gptq":
                sums = hessians(Watch(graph, [one.input for one in products], context.threads), calibration)
            build = partial(_blocks, graph, head, EMBEDDINGS in parts, config, sums)

        judge = _Judge(source, context)
        sensitivity: dict[str, float] = {}
        with progress_of(f"{context.name}: sensitivity", total=len(parts), unit="parts") as shown:
            for part in parts:
                sensitivity[part] = judge(build([part])[0]).divergence
                shown.advance()
        ranked = sorted(parts, key=lambda part: (sensitivity[part], part))  # the harmless first
        before, allowed = judge.source.metric, _allowed(config)
        tried: list[list[float]] = []

        def affordable(low: Sequence[str]) -> bool:
            if not low:
                return True
            found = judge(build(low)[0]).metric
            tried.append([len(low), found])
            log.info(
                "%s: %d of %d parts at few bits: validation %s %.4f -> %.4f",
                *(context.name, len(low), len(parts), context.task.metric, before, found),
            )
            return (before - found if context.task.higher_is_better else found - before) <= allowed + 1e-9

        low = ranked[: _most(len(ranked), lambda count: affordable(ranked[:count]))]
        for part in ranked[len(low) + 1 :][:_SECOND_TRIES]:
            if affordable([*low, part]):
                low = [*low, part]
        spared = [part for part in parts if part not in low]
        if not low and config.bits == "8/32":
            raise StepError(
                f"step {context.name}: not one part can be quantized within a loss of {allowed:g}; raise "
                f"{context.name}.max_metric_drop, or train for it: recipe=qat_int8"
            )
        quantized, tables = build(low)
        if spared:
            log.info("%s: spared: %s", context.name, ", ".join(spared))
        return Quantized(
            quantized,
            tables,
            {
                "bits": config.bits,
                "calibration_rows": calibration.rows,
                "max_metric_drop": allowed,
                "spared": spared,
                "sensitivity": {part: float(f"{sensitivity[part]:.3g}") for part in ranked},
                "tried": tried,
            },
        )


def _most(parts: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number that fits, by bisection; all of them are tried first, as they mostly do."""
    if fits(parts):
        return parts
    low, high = 0, parts
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _allowed(config: MixedQuantization) -> float:
    return DEFAULT_DROP if config.max_metric_drop is None else config.max_metric_drop


def _integers(
    graph: onnx.ModelProto, prepared: Prepared, kernels: str, low: Sequence[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of a graph with the parts `low` as INT8, and its integer tables."""
    from compress.onnx_graph import canonicalise, quantize_tables

    copy = _copied(graph)
    if len(low) > (EMBEDDINGS in low):
        prepared.place(copy, kernels, low)
    tables = quantize_tables(copy, per_row=True) if EMBEDDINGS in low else []
    canonicalise(copy)
    return copy, tables


def _blocks(
    graph: onnx.ModelProto,
    head: str | None,
    embeddings: bool,
    config: MixedQuantization,
    sums: Mapping[str, np.ndarray],
    low: Sequence[str],
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of a graph with the parts `low` in 4 bits and the others in 8, and its integer tables."""
    from compress.onnx_graph import canonicalise, products_of

    copy = _copied(graph)
    tables: list[str] = []
    for bits in (4, 8):
        blocks = WeightOnlyQuantization(
            bits=bits,
            block_size=config.block_size,
            rounding=config.rounding if bits == 4 else "nearest",
            embeddings=embeddings and (EMBEDDINGS in low) == (bits == 4),
        )
        here = [one for one in products_of(copy, head) if (one.name in low) == (bits == 4)]
        tables += quantize_weights(copy, here, blocks, sums if blocks.rounding == "gptq" else {})
    canonicalise(copy)
    return copy, tables


def _copied(graph: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


class _Judge:
    """Runs graphs on the validation split and compares their answers with the source's."""

    def __init__(self, source: Checkpoint, context: Context) -> None:
        self.directory, self.context = source.path, context
        self._logits: list[np.ndarray] | None = None
        self.source = self._run(source.path)

    def __call__(self, graph: onnx.ModelProto) -> Tried:
        from compress.onnx_graph import save_graph

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in self.directory.glob("*.json"):
                (folder / file.name).write_bytes(file.read_bytes())
            save_graph(graph, folder)
            return self._run(folder)

    def _run(self, directory: Path) -> Tried:
        from compress.runtime import open_onnx

        task = self.context.task
        predictor = open_onnx(directory, task=task, threads=self.context.threads)
        try:
            features = task.encode(self.context.data.validation, predictor.tokenizer, self.context.max_length)
            logits = predictor.logits_of(features)
        finally:
            predictor.close()
        if self._logits is None:
            self._logits = logits
        divergence = np.mean([_divergence(one, two) for one, two in zip(self._logits, logits, strict=True)])
        return Tried(round(float(task.metrics(logits, features)[task.metric]), 6), float(divergence))


def _divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the mean KL(P, Q) of logits ``[..., classes]``."""

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return result

    one, two = log_softmax(expected), log_softmax(found)
    return float((np.exp(one) * (one - two)).sum(axis=-1).mean())
