"""ReLU in place of GELU: in the feed-forward parts, in the config, and in the checkpoint that is read again."""

from __future__ import annotations

from pathlib import Path

import kinds
import pytest

from compress.errors import UnsupportedError
from compress.models.activation import activation_of, with_activation
from compress.models.pruned import load_pruned, save_pruned
from compress.models.surgery import Cut, cut

ENCODERS = ["bert", "roberta", "xlm-roberta tagger", "electra", "mpnet", "distilbert", "vit"]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_pruned_model_with_relu_reloads_bit_equal(kind: str, tmp_path: Path) -> None:
    import torch

    dense = kinds.make(kind)
    before = kinds.answer(dense)
    model = cut(with_activation(dense, "relu"), Cut(heads={0: [1]}, neurons={1: range(7)}))
    assert activation_of(model) == "relu"
    modules = [type(module).__name__ for name, module in model.named_modules() if ".layer" in name]
    assert modules.count("ReLU") == 3
    assert "GELUActivation" not in modules
    answer = kinds.answer(model)
    assert not torch.allclose(answer[0], kinds.answer(cut(dense, Cut(heads={0: [1]}, neurons={1: range(7)})))[0])
    save_pruned(model, tmp_path / "saved")
    for one, two in zip(answer, kinds.answer(load_pruned(tmp_path / "saved")), strict=True):
        assert torch.equal(one, two)
    assert activation_of(dense) == "gelu"
    assert all(torch.equal(one, two) for one, two in zip(before, kinds.answer(dense), strict=True))
    kinds.train_one_step(model)


def test_a_model_that_has_it_is_left_alone() -> None:
    model = with_activation(kinds.make("bert"), "relu")
    assert with_activation(model, "relu") is model


@pytest.mark.parametrize("kind", ["llama classifier", "qwen2 tied"])
def test_a_gated_family_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedError, match="gate one product of the feed-forward part by another"):
        with_activation(kinds.make(kind), "relu")


def test_a_head_that_shares_the_activation_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="BertForMaskedLM: its head may have the activation"):
        with_activation(kinds.make("bert masked words"), "relu")
