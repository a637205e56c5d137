"""The step: rewrite an exported graph, and prove on real texts that it still answers the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.config.schemas import Simplify
from compress.errors import ConfigError, StepError, UnsupportedError
from compress.steps.base import Context, SourceFacts, Step

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["SimplifyStep"]

log = logging.getLogger(__name__)

_BATCHES = (1, 2, 7)
"""Rows per batch, in turn: alone, and padded to the longest of a few that are not alike."""


class SimplifyStep(Step[Simplify]):
    """Fewer operations that compute the same, before quantization.

    Query, key and value come from one product; the scale of attention is in the query's weights; masks, shapes and
    the token type that all tokens share are not computed anew in each call; and of the last layer only the token is
    computed that the head reads. Standard ONNX operators alone are left, so that quantization and other runtimes
    read the graph as they read an export.
    """

    kind: ClassVar[str] = "simplify"
    config: ClassVar[type] = Simplify
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})
    leaves: ClassVar[str] = "onnx"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnx-ir", "onnxruntime", "tokenizers", "transformers")
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.simplify",
        "compress.steps.companions",
        "compress.onnx_graph",
        "compress.runtime",
        "compress.tasks",
    )

    def check(self, config: Simplify, source: SourceFacts) -> None:
        """Refuse a source that is not fp32: products of integers are not merged."""
        if source.precision != "fp32":
            raise ConfigError(
                f"simplify reads an fp32 checkpoint, this one is {source.precision}; put simplify between export and "
                f"quantize"
            )

    def run(self, source: Checkpoint | SourceModel, config: Simplify, context: Context, out: Writer) -> None:
        """Rewrite, save, compare."""
        from compress.checkpoint import Checkpoint
        from compress.onnx_graph import float_products, load_graph, save_graph
        from compress.steps.companions import copy_companions
        from compress.steps.simplify.rewriting import simplify_graph

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: simplify reads an exported checkpoint; {source.name} is not one")
        before = load_graph(source.path)
        try:
            after, counts = simplify_graph(before, source.layers, merge=config.merge, first_token=config.first_token)
        except UnsupportedError as error:
            raise StepError(
                f"step {context.name}: the graph of {source.path} cannot be simplified: {error}; leave {context.name} "
                f"out of steps"
            ) from error
        save_graph(after, out.path)
        copy_companions(source, out)
        out.facts["simplify"] = {
            "nodes": [len(graph.graph.node) for graph in (before, after)],
            "products": [len(float_products(graph)) for graph in (before, after)],
            "rewritten": counts,
            **_compare(source.path, out.path, config, context),
        }
        log.info("%s: %d nodes -> %d, %d products by weights -> %d", context.name, *_flat(out.facts["simplify"]))


def _flat(facts: dict[str, Any]) -> list[int]:
    return [*facts["nodes"], *facts["products"]]


def _compare(one: Path, other: Path, config: Simplify, context: Context) -> dict[str, Any]:
    """Run both graphs on validation texts, alone and padded together, and compare their logits.

    Returns
    -------
    dict
        ``rows``, ``lengths`` (shortest and longest text, in tokens), ``largest_logit_difference`` (absolute over the
        largest logit, or over 1 where that is less; two significant digits).

    Raises
    ------
    StepError
        Beyond ``tolerance``, or where a logit is not a number.
    """
    from compress.runtime import open_onnx

    first, second = (open_onnx(path, task=context.task, threads=1) for path in (one, other))
    rows = context.data.validation.head(config.check_rows)
    features = context.task.encode(rows, first.tokenizer, context.max_length)
    largest = 0.0
    try:
        for batch in _batches(features.inputs, context, first.tokenizer):
            expected, found = first.logits(batch), second.logits(batch)
            if expected.shape != found.shape:
                raise StepError(
                    f"step {context.name}: the simplified graph gives logits of the shape {list(found.shape)} where "
                    f"the export gives {list(expected.shape)}"
                )
            difference = float(np.abs(expected - found).max()) / max(1.0, float(np.abs(expected).max()))
            largest = max(largest, difference) if np.isfinite(difference) else difference
            if not largest <= config.tolerance:  # also true of nan
                raise StepError(
                    f"step {context.name}: the simplified graph disagrees with the export by {largest:.3g} of the "
                    f"largest logit on validation rows (accepted: {config.tolerance:g}); {context.name}.merge=false or "
                    f"{context.name}.first_token=false leaves more of it as it was, a larger "
                    f"{context.name}.tolerance accepts it"
                )
    finally:
        first.close()
        second.close()
    lengths = features.lengths
    return {
        "rows": len(features),
        "lengths": [min(lengths), max(lengths)],
        "largest_logit_difference": float(f"{largest:.1e}"),
    }


def _batches(inputs: Any, context: Context, tokenizer: Any) -> Iterator[dict[str, np.ndarray]]:
    """Give batches of rows in the order of the data; each batch of several has padding, if only two columns of it."""
    from compress.tasks.padding import padding_of

    padding = padding_of(tokenizer)
    start = number = 0
    while start < len(inputs):
        size = _BATCHES[number % len(_BATCHES)]
        batch = dict(context.task.collate(inputs[start : start + size], None, padding))
        room = context.max_length - batch["input_ids"].shape[1]
        if size > 1 and room > 0:
            wider = ((0, 0), (0, min(2, room)))
            batch = {name: np.pad(array, wider, constant_values=padding.get(name, 0)) for name, array in batch.items()}
        yield batch
        start, number = start + size, number + 1
