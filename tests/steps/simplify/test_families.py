"""Every family that exports, pruned unevenly: simplified to fewer products of the same answers, in fp32 and INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pytest
from hand_made import answers, difference

from compress.config.schemas import DynamicQuantization
from compress.onnx_graph import float_products, integer_products
from compress.steps.simplify import simplify_graph

LAYERS = 3
SIZES = {"vocabulary": kinds.SIZES["vocab_size"], "longest": 20}
EXPORTED = [
    *("bert", "bert tagger", "roberta", "xlm-roberta tagger", "electra", "electra of one width", "mpnet"),
    "distilbert",
]


def export(model: Any, folder: Path) -> Any:
    from compress.steps.export import export_graph

    return export_graph(model, ("input_ids", "attention_mask"), 20, folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTED)
def test_an_uneven_model_of_every_family_is_simplified_to_the_same_answers(kind: str, tmp_path: Path) -> None:
    from compress.models.surgery import Cut, cut
    from compress.steps.quantize.dynamic import quantize_graph

    model = cut(kinds.make(kind), Cut(heads={0: [1, 3], 2: [0]}, neurons={1: range(7)}))
    graph = export(model, tmp_path)
    simple, counts = simplify_graph(graph, LAYERS)
    assert difference(graph, simple, **SIZES) <= 1e-5
    tagger = "tagger" in kind or kind == "electra of one width"
    assert (counts["scales"], counts["masks"], counts["merged"]) == (LAYERS, 1, LAYERS)
    assert counts["single_token_products"] == (0 if tagger else 6)
    assert counts["token_types"] == (0 if kind in ("mpnet", "distilbert") else 1)
    assert {node.domain for node in simple.graph.node} == {""}
    fewer = 2 * LAYERS if tagger else 2 * LAYERS - 1  # the last query is made from another source: one token
    assert len(float_products(graph)) - len(float_products(simple)) == fewer
    quantized = []
    for one in (graph, simple):
        copy = type(one).FromString(one.SerializeToString())
        quantized.append(quantize_graph(copy, DynamicQuantization(), reduce_range=False)[0])
    assert len(integer_products(quantized[0])) - len(integer_products(quantized[1])) == fewer
    spread = float(np.std(np.concatenate([logits.ravel() for logits in answers(graph, **SIZES)])))
    assert difference(quantized[1], simple, **SIZES) < max(0.5 * spread, 2 * difference(quantized[0], graph, **SIZES))


@pytest.mark.slow
def test_pairs_of_texts_keep_their_token_types(tmp_path: Path) -> None:
    from compress.steps.export import export_graph

    graph = export_graph(kinds.make("bert"), ("input_ids", "attention_mask", "token_type_ids"), 20, tmp_path)
    simple, counts = simplify_graph(graph, LAYERS)
    assert counts["token_types"] == 0
    assert counts["merged"] == LAYERS
    assert [value.name for value in simple.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
