"""Another activation in the feed-forward parts of a model."""

from __future__ import annotations

import copy
from typing import Any

from compress.errors import UnsupportedError
from compress.models.families import Family, family

__all__ = ["activation_of", "check_activation", "with_activation"]

_HEADS = ("ForImageClassification", "ForSequenceClassification", "ForTokenClassification", "Model")
"""Endings of classes none of whose activations outside the layers follows the config."""


def activation_of(model: Any) -> str:
    """Return the name of the activation of a model's feed-forward parts."""
    return str(getattr(model.config, family(model.config.model_type).config_activation))


def check_activation(places: Family, name: str) -> None:
    """Refuse a family whose activation cannot be replaced by the one of this name; raises UnsupportedError."""
    if places.activation is None or len(places.ffn_inputs) > 1:
        raise UnsupportedError(
            f"models of type {places.architecture} gate one product of the feed-forward part by another, and {name} "
            f"is no gate; leave the activation as it is"
        )


def with_activation(model: Any, name: str) -> Any:
    """Return a copy of a model with another activation in its feed-forward parts and its config.

    The config is what a checkpoint is built from again, so that it reloads to equal logits.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, pruned or not; a classifier, a tagger or a model without a head. Not changed.
    name : str
        As in ``transformers.activations.ACT2FN``: ``relu``.

    Returns
    -------
    transformers.PreTrainedModel
        In eval mode; the model itself where it has this activation.

    Raises
    ------
    UnsupportedError
        Where the activation is a gate, or the model has another head, whose activation the config names too.
    """
    from transformers.activations import ACT2FN

    places = family(model.config.model_type)
    check_activation(places, name)
    if not type(model).__name__.endswith(_HEADS):
        raise UnsupportedError(
            f"{type(model).__name__}: its head may have the activation of the feed-forward parts, which alone are to "
            f"change; replace it in a classifier, a tagger or the model without its head"
        )
    if activation_of(model) == name:
        return model
    assert places.activation is not None
    parent, _, attribute = places.activation.rpartition(".")
    other = copy.deepcopy(model).eval()
    for layer in places.layer_list(other):
        holder = layer.get_submodule(parent)
        getattr(holder, attribute)  # a wrong declaration is an error, not a second activation beside the first
        setattr(holder, attribute, ACT2FN[name])
    setattr(other.config, places.config_activation, name)
    return other
