"""Models within a model: which they are, that they compute what is cut out of it; another order changes nothing."""

from __future__ import annotations

from typing import Any

import kinds
import pytest
import torch

from compress.errors import StepError
from compress.models.examples import example_inputs, tensors_of
from compress.models.families import family
from compress.models.nested import Size, SubNetworks, head_order, layers_at, nested_cut, reordered
from compress.models.structure import Structure, structure_of
from compress.models.surgery import Cut, cut

SIZES = [Size(0.5, 1.0), Size(1.0, 0.67), Size(0.25, 0.67), Size(0.5, 0.34), Size(1.0, 1.0)]
SOME = ["bert", "bert tagger", "roberta", "electra", "mpnet", "distilbert", "vit", "llama classifier", "qwen2 tied"]


def outputs(model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return tensors_of(model(**example_inputs(model)))


@pytest.mark.parametrize(
    ("depth", "layers", "expected"),
    [
        (1.0, 6, (0, 1, 2, 3, 4, 5)),
        (0.5, 6, (0, 2, 4)),
        (0.5, 12, (0, 2, 4, 6, 8, 10)),
        (0.75, 12, (0, 1, 2, 4, 5, 6, 8, 9, 10)),
        (0.75, 6, (0, 1, 2, 4, 5)),
        (0.1, 6, (0,)),
        (0.01, 2, (0,)),
    ],
)
def test_layers_are_left_out_evenly(depth: float, layers: int, expected: tuple[int, ...]) -> None:
    assert layers_at(depth, layers) == expected


def test_layers_of_any_depth_rise_and_are_there() -> None:
    for layers in range(1, 33):
        for percent in range(1, 101):
            kept = layers_at(percent / 100, layers)
            assert list(kept) == sorted(set(kept))
            assert kept[0] == 0
            assert kept[-1] < layers
            assert abs(len(kept) - percent * layers / 100) <= 0.5 or len(kept) == 1


def test_heads_that_share_keys_stay_together() -> None:
    sizes = Structure(2, (8, 8), (10, 10), 64, key_value_heads=(4, 4))
    what = nested_cut(sizes, Size(0.5, 0.5))
    assert what == Cut(heads={0: (4, 5, 6, 7)}, neurons={0: (5, 6, 7, 8, 9)}, layers=(0,))
    assert nested_cut(sizes, Size(1.0, 1.0)) == Cut()
    assert nested_cut(sizes, Size(0.01, 1.0)).heads[1] == (2, 3, 4, 5, 6, 7)
    assert head_order([0.1, 0.2, 0.9, 0.0, 0.3, 0.3], 3) == [2, 3, 4, 5, 0, 1]
    assert head_order([0.1, 0.2, 0.2], 3) == [1, 2, 0]


@pytest.mark.parametrize("kind", SOME)
def test_another_order_of_heads_and_neurons_changes_no_output(kind: str) -> None:
    model = kinds.make(kind)
    sizes = structure_of(model)
    generator = torch.Generator().manual_seed(0)
    heads = [
        head_order(torch.rand(count, generator=generator).tolist(), groups)
        for count, groups in zip(sizes.heads, sizes.key_value_heads_or_heads, strict=True)
    ]
    neurons = [torch.randperm(count, generator=generator).tolist() for count in sizes.intermediate_size]
    other = reordered(model, heads, neurons)
    path = family(model.config.model_type).ffn_output
    first, second = (family(one.config.model_type).layer_list(one)[0].get_submodule(path) for one in (model, other))
    assert not torch.equal(first.weight, second.weight)
    assert structure_of(other).heads == sizes.heads
    for found, expected in zip(outputs(other), outputs(model), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_order_that_parts_what_belongs_together_is_an_error() -> None:
    model = kinds.make("llama classifier")
    neurons = [list(range(24))] * 3
    with pytest.raises(StepError, match="in another order differs by"):
        reordered(model, [[0, 2, 1, 3]] * 3, neurons)


@pytest.mark.parametrize("kind", SOME)
def test_a_sub_network_computes_what_is_cut_out(kind: str) -> None:
    model = kinds.make(kind)
    before, whole = outputs(model), structure_of(model)
    networks = SubNetworks(model, [size.width for size in SIZES])
    for size in SIZES:
        smaller = cut(model, nested_cut(structure_of(model), size))
        with networks.at(size) as inside:
            assert inside is model
            found = outputs(model)
            assert structure_of(model).heads == structure_of(smaller).heads
        for one, other in zip(found, outputs(smaller), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert networks.parameters(size) == sum(one.numel() for one in smaller.parameters())
    assert all(torch.equal(one, other) for one, other in zip(outputs(model), before, strict=True))
    assert structure_of(model) == whole


@pytest.mark.parametrize("kind", ["bert", "mpnet", "distilbert"])
def test_gradients_are_those_of_what_is_cut_out_and_reach_the_first_of_each_weight(kind: str) -> None:
    model, size = kinds.make(kind), Size(0.5, 0.67)
    networks = SubNetworks(model, [0.5])
    smaller = cut(model, nested_cut(structure_of(model), size))
    with networks.at(size):
        value = model(**example_inputs(model)).logits.square().sum()
    value.backward()  # after the context, as the training loop has it
    smaller(**example_inputs(smaller)).logits.square().sum().backward()
    places = family(model.config.model_type)
    ours, theirs = places.layer_list(model), places.layer_list(smaller)
    assert all(one.grad is None for one in ours[2].parameters())
    for number in (0, 1):
        for name, parameter in theirs[number].named_parameters():
            whole = ours[number].get_parameter(name).grad
            part = whole[tuple(slice(count) for count in parameter.shape)]
            torch.testing.assert_close(part, parameter.grad, atol=1e-4, rtol=1e-4)
            assert whole.abs().sum() == pytest.approx(part.abs().sum()), "nothing reaches what is left out"


def test_a_sub_network_gives_the_hidden_states_of_its_own_layers() -> None:
    model = kinds.make("bert")
    networks = SubNetworks(model, [0.5, 1.0])
    for size, count in ((Size(0.5, 0.67), 3), (Size(1.0, 0.34), 2), (Size(1.0, 1.0), 4)):
        smaller = cut(model, nested_cut(structure_of(model), size))
        with networks.at(size), torch.no_grad():
            found = model(**example_inputs(model), output_hidden_states=True).hidden_states
        expected = smaller(**example_inputs(smaller), output_hidden_states=True).hidden_states
        assert len(found) == len(expected) == count
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_sub_network_drops_out_only_in_training() -> None:
    model = kinds.make("bert", hidden_dropout_prob=0.5)
    networks = SubNetworks(model, [0.5])
    with networks.at(Size(0.5, 1.0)):
        assert torch.equal(outputs(model)[0], outputs(model)[0])
    model.train()
    with networks.at(Size(0.5, 1.0)):
        assert not torch.equal(outputs(model)[0], outputs(model)[0])


def test_a_smaller_one_costs_less() -> None:
    from compress.benchmark.size import macs_of_torch

    model = kinds.make("bert")
    networks = SubNetworks(model, [0.5, 1.0])
    names = ("input_ids", "attention_mask")
    for size in (Size(0.5, 1.0), Size(0.5, 0.34)):
        smaller = cut(model, nested_cut(structure_of(model), size))
        with networks.at(size):
            found = macs_of_torch(model, 1, 8, names)
        assert found == macs_of_torch(smaller, 1, 8, names) < macs_of_torch(model, 1, 8, names)
