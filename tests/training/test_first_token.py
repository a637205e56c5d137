"""The last layer computed for the first token alone: the same logits and gradients, and whole where it is asked for."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
import torch

from compress.models.surgery import Cut, cut
from compress.training.first_token import first_token_only

CLASSIFIERS = ["bert", "roberta", "electra", "distilbert", "mpnet"]


def inputs(padded: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 60, (5, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        ids[1, 4:], mask[1, 4:] = 1, 0
    return {"input_ids": ids, "attention_mask": mask}


def learned(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return logits and gradients."""
    model.zero_grad()
    logits = model(**batch).logits
    logits.square().sum().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def widths(model: Any, kind: str) -> list[int]:
    """Return how many tokens the last feed-forward part sees, by a hook on the head, which is no part of the layer."""
    from compress.models.families import family

    seen: list[int] = []
    layer = family(model.config.model_type).layer_list(model)[-1]
    original = layer.forward

    def counted(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        seen.append((found[0] if isinstance(found, tuple) else found).shape[1])
        return found

    layer.forward = counted
    model(**inputs())
    layer.forward = original
    return seen


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_logits_and_gradients_are_those_of_the_whole_layer(kinds: ModuleType, kind: str, padded: bool) -> None:
    model, batch = kinds.make(kind), inputs(padded)
    logits, gradients = learned(model, batch)
    with first_token_only(model):
        assert widths(model, kind) == [1]
        first, found = learned(model, batch)
    torch.testing.assert_close(first, logits, atol=1e-5, rtol=1e-4)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-3, rtol=1e-3, msg=name)
    assert widths(model, kind) == [9], "whole again"


def test_a_pruned_layer_too(kinds: ModuleType) -> None:
    model = kinds.make("bert")
    cut(model, Cut(heads={2: [0, 3]}, neurons={2: [1, 2, 3]}, hidden=[3, 4]))
    logits, _ = learned(model, inputs())
    with first_token_only(model):
        assert widths(model, "bert") == [1]
        torch.testing.assert_close(learned(model, inputs())[0], logits, atol=1e-5, rtol=1e-4)


def test_hidden_states_that_are_asked_for_are_whole(kinds: ModuleType) -> None:
    model = kinds.make("bert")
    expected = model(**inputs(), output_hidden_states=True).hidden_states[-1]
    with first_token_only(model):
        found = model(**inputs(), output_hidden_states=True).hidden_states
        assert torch.equal(found[-1], expected)
        model.config.output_hidden_states = True
        assert torch.equal(model(**inputs()).hidden_states[-1], expected)


def test_a_hook_on_some_part_of_the_layer_sees_every_token(kinds: ModuleType) -> None:
    model = kinds.make("roberta")
    seen: list[int] = []
    query = model.roberta.encoder.layer[-1].attention.self.query
    with first_token_only(model):
        handle = query.register_forward_hook(lambda _, __, found: seen.append(found.shape[1]))
        model(**inputs())
        handle.remove()
        assert widths(model, "roberta") == [1]
    assert seen == [9]


@pytest.mark.parametrize("kind", ["bert tagger", "bert without head", "llama classifier", "vit"])
def test_other_models_are_left_alone(kinds: ModuleType, kind: str) -> None:
    model = kinds.make(kind)
    forwards = [module.forward for module in model.modules()]
    with first_token_only(model):
        assert [module.forward for module in model.modules()] == forwards
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_after_an_error_the_model_is_as_it_was(kinds: ModuleType) -> None:
    model = kinds.make("bert")
    with pytest.raises(KeyboardInterrupt), first_token_only(model):
        raise KeyboardInterrupt
    assert widths(copy.deepcopy(model), "bert") == [9]
    assert not any("forward" in vars(module) for module in model.modules())


def test_hooks_that_transformers_leaves_behind_change_nothing(kinds: ModuleType) -> None:
    model = kinds.make("bert")
    model(**inputs(), output_hidden_states=True)
    with first_token_only(model):
        assert widths(model, "bert") == [1]
        assert model(**inputs(), output_hidden_states=True).hidden_states[-1].shape[1] == 9
        handle = model.bert.encoder.layer[-1].attention.self.query.register_forward_hook(lambda *_: None)
        assert widths(model, "bert") == [9]
        handle.remove()
