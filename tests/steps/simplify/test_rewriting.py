"""Each rewriting finds its place in a graph, leaves the function, and keeps away where it would not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hand_made import Encoder, answers, difference

from compress.errors import UnsupportedError
from compress.onnx_graph import float_products
from compress.steps.simplify import simplify_graph


def kinds(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("scale", ["Mul", "Div"])
def test_query_key_and_value_are_one_product_with_the_scale_in_it(scale: str) -> None:
    model = Encoder(2, scale=scale).model()
    simple, counts = simplify_graph(model, 2, first_token=False)
    assert len(float_products(model)) - len(float_products(simple)) == 4
    assert counts["merged"] == counts["scales"] == 2
    assert kinds(simple)[scale] == 0
    weights = {tensor.name: list(tensor.dims) for tensor in simple.graph.initializer}
    assert weights["layer.0.query_key_value.weight"] == [12, 36]
    assert "layer.0.query.weight" not in weights
    assert difference(model, simple) <= 1e-5


def test_without_merging_the_products_stay_apart() -> None:
    model = Encoder(1).model()
    simple, counts = simplify_graph(model, 1, merge=False, first_token=False)
    assert len(float_products(simple)) == len(float_products(model))
    assert (counts["merged"], counts["scales"]) == (0, 1)
    assert difference(model, simple) <= 1e-5


@pytest.mark.parametrize("mask", ["plain", "spread"])
def test_a_mask_that_says_no_more_than_its_input_is_made_of_it_alone(mask: str) -> None:
    model = Encoder(2, mask=mask).model()
    simple, counts = simplify_graph(model, 2)
    assert counts["masks"] == 1
    assert not {"And", "GreaterOrEqual", "Range"} & set(kinds(simple))
    assert difference(model, simple) <= 1e-5


def test_a_causal_mask_is_left_alone() -> None:
    model = Encoder(2, mask="causal").model()
    simple, counts = simplify_graph(model, 2)
    assert counts["masks"] == 0
    assert kinds(simple)["And"] == 1
    assert difference(model, simple) <= 1e-5


def test_the_one_token_type_is_added_into_the_positions() -> None:
    model = Encoder(1).model()
    simple, counts = simplify_graph(model, 1)
    assert counts["token_types"] == 1
    names = {tensor.name for tensor in simple.graph.initializer}
    assert "types.weight" not in names
    assert "positions.weight" not in names
    assert difference(model, simple) <= 1e-5


@pytest.mark.parametrize("read", [0, 1])
def test_of_the_last_layer_only_the_read_token_is_computed(read: int) -> None:
    from compress.benchmark.size import macs_of_onnx

    model = Encoder(2, read=read).model()
    simple, counts = simplify_graph(model, 2)
    assert counts["single_token_products"] == 6  # query, scores, context, output and the feed-forward part's two
    assert difference(model, simple) <= 1e-5
    before, after = (macs_of_onnx(one, 1, 16) for one in (model, simple))
    once = 16 * (12 * 12 + 2 * 12 * 16 + 12 * 12 + 2 * 12 * 20)  # of one layer, without keys and values
    assert before - after == once * 15 / 16
    whole, _ = simplify_graph(model, 2, first_token=False)
    assert macs_of_onnx(whole, 1, 16) == before


def test_a_layer_whose_tokens_are_all_read_is_computed_whole() -> None:
    model = Encoder(2, pooled=True).model()
    simple, counts = simplify_graph(model, 2)
    assert counts["single_token_products"] == 0
    assert difference(model, simple) <= 1e-5


def test_no_shape_is_computed_for_a_reshape() -> None:
    simple, counts = simplify_graph(Encoder(2).model(), 2)
    assert counts["reshapes"] == 8
    assert kinds(simple)["Concat"] == 0
    assert kinds(simple)["Shape"] == 1  # of the positions


def test_a_graph_of_another_kind_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="0 of 2 attention blocks are of the known form"):
        simplify_graph(Encoder(2, bias=False).model(), 2)
    with pytest.raises(UnsupportedError, match="2 of 3 attention blocks"):
        simplify_graph(Encoder(2).model(), 3)


def test_the_source_is_left_as_it_was_and_equal_graphs_give_equal_bytes() -> None:
    model = Encoder(2).model()
    before = model.SerializeToString(deterministic=True)
    first, second = (simplify_graph(model, 2)[0].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert model.SerializeToString(deterministic=True) == before


def test_answers_tell_models_apart() -> None:
    one, other = Encoder(1).model(), Encoder(1).model()
    bias = next(tensor for tensor in other.graph.initializer if tensor.name == "layer.0.query.bias")
    bias.raw_data = np.full(12, 0.2, dtype=np.float32).tobytes()
    assert difference(one, other) > 1e-3
    assert len(answers(one)) == 4
