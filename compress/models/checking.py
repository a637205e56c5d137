"""Whether surgery left a model as it should be: sizes agree, nothing is stale, it computes what a masked one does."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError, StepError
from compress.models.attributes import stale
from compress.models.examples import example_inputs, tensors_of
from compress.models.families import family
from compress.models.masks import masked, without_hidden, without_layers
from compress.models.structure import Structure, structure_of
from compress.models.surgery import Cut, cut

if TYPE_CHECKING:
    import torch

__all__ = ["TOLERANCE", "check", "compared_cut", "difference"]

TOLERANCE = 1e-5
"""Largest difference of an output of order 1 that the order of summation explains in fp32."""


def check(model: Any) -> Structure:
    """Check that sizes agree, that no attribute or config field is stale, and that a forward pass works.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family.

    Returns
    -------
    Structure
        What the model is now.

    Raises
    ------
    StepError
        With all that is wrong.
    """
    import torch

    structure = structure_of(model)
    wrong = [*_wrong_shapes(model, structure), *stale(model)]
    if not wrong:
        try:
            with torch.no_grad():
                outputs = tensors_of(model(**example_inputs(model)))
        except (RuntimeError, IndexError, ValueError) as error:
            wrong.append(f"a forward pass fails: {str(error).splitlines()[0]}")
        else:
            if any(tensor.is_floating_point() and not torch.isfinite(tensor).all() for tensor in outputs):
                wrong.append("a forward pass gives values that are no numbers")
    if wrong:
        raise StepError(f"{type(model).__name__} is not whole after surgery: {'; '.join(wrong[:8])}")
    return structure


def compared_cut(model: Any, what: Cut) -> Any:
    """Return the model without what is cut, as `cut` does, if it computes what the masked model does.

    Raises
    ------
    StepError
        If it is further from it than `TOLERANCE`; and as `cut` and `difference`.
    """
    pruned = cut(model, what)
    distance = difference(pruned, model, what)
    if not distance <= TOLERANCE:
        raise StepError(
            f"the pruned {type(model).__name__} differs from the masked one by {distance:.2g} (accepted: "
            f"{TOLERANCE:g}): its family declaration may not fit this version of transformers"
        )
    return pruned


def difference(pruned: Any, original: Any, what: Cut, inputs: Mapping[str, torch.Tensor] | None = None) -> float:
    """Return how far a pruned model is from the original with the same parts masked.

    Heads and neurons are masked by zeros, layers by handing on what they were given. Zeros do not do for hidden units,
    which norms count: there the original's norms are computed over the units that stay (`without_hidden`). Rows of
    tables are compared by asking both models of the same tokens. Output that the cut took away is not compared.

    Parameters
    ----------
    pruned, original : transformers.PreTrainedModel
        ``pruned = cut(original, what)``; both in eval mode.
    what
        The cut; its layers ascending.
    inputs
        For the original; by default `example_inputs` with padding, of tokens that stay.

    Returns
    -------
    float
        The largest difference of an output, relative to the largest output where that is above 1.

    Raises
    ------
    ConfigError
        If layers are given in another order, or one twice: no masked model is like that.
    """
    import torch

    structure = structure_of(original)
    layers = list(range(structure.layers)) if what.layers is None else list(what.layers)
    if layers != sorted(set(layers)):
        raise ConfigError(f"layers {layers}: only a model whose layers are in order can be compared with a masked one")
    given = dict(_inputs(pruned, original, what) if inputs is None else inputs)
    with contextlib.ExitStack() as stack, torch.no_grad():
        stack.enter_context(masked(original, _masks(what.heads, structure.heads), None))
        stack.enter_context(masked(original, None, _masks(what.neurons, structure.intermediate_size)))
        stack.enter_context(without_layers(original, sorted(set(range(structure.layers)) - set(layers))))
        if len(what.hidden):
            stack.enter_context(without_hidden(original, what.hidden))
        expected = original(**given)
    with torch.no_grad():
        found = pruned(**_renamed(given, what))
    return max(_distance(found[name], _kept(tensor, what, structure)) for name, tensor in _compared(expected, found))


def _compared(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, torch.Tensor]]:
    import torch

    return [(name, value) for name, value in expected.items() if isinstance(value, torch.Tensor) and name in found]


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))


def _kept(tensor: torch.Tensor, what: Cut, structure: Structure) -> torch.Tensor:
    """Return of an output of the original what the pruned model has too: tokens and hidden units that stay."""
    if what.vocabulary is not None and tensor.shape[-1] == structure.vocabulary:
        return tensor[..., list(what.vocabulary)]
    if len(what.hidden) and tensor.dim() == 3 and tensor.shape[-1] == structure.hidden_size:
        return tensor[..., sorted(set(range(structure.hidden_size)) - set(what.hidden))]
    return tensor


def _masks(gone: Mapping[int, Any], sizes: tuple[int, ...]) -> dict[int, torch.Tensor]:
    import torch

    return {
        layer: torch.tensor([number not in set(numbers) for number in range(sizes[layer])])
        for layer, numbers in gone.items()
    }


def _inputs(pruned: Any, original: Any, what: Cut) -> dict[str, torch.Tensor]:
    """Return inputs in the original's ids that both models can read."""
    import torch

    if family(original.config.model_type).word_embeddings is None:
        return example_inputs(original)
    inputs = example_inputs(pruned, padded=True)
    if what.vocabulary is not None:
        inputs["input_ids"] = torch.tensor([int(old) for old in what.vocabulary])[inputs["input_ids"].cpu()].to(
            inputs["input_ids"].device
        )
    return inputs


def _renamed(inputs: Mapping[str, torch.Tensor], what: Cut) -> dict[str, torch.Tensor]:
    """Return inputs in the pruned model's ids."""
    import torch

    if what.vocabulary is None or "input_ids" not in inputs:
        return dict(inputs)
    new = {int(old): number for number, old in enumerate(what.vocabulary)}
    ids = inputs["input_ids"]
    return {**inputs, "input_ids": torch.tensor([[new[old] for old in row] for row in ids.tolist()], device=ids.device)}


def _wrong_shapes(model: Any, structure: Structure) -> list[str]:
    """Return what contradicts the structure among the modules of the layers."""
    places, size = family(model.config.model_type), structure.head_size or 1
    wrong = []
    for number, layer in enumerate(places.layer_list(model)):
        width = structure.heads[number] * size
        shared = structure.key_value_heads_or_heads[number] * size
        neurons = structure.intermediate_size[number]
        for path, out, into in (
            (places.query, width, structure.hidden_size),
            (places.key, shared, structure.hidden_size),
            (places.value, shared, structure.hidden_size),
            (places.attention_output, structure.hidden_size, width),
            *((path, neurons, structure.hidden_size) for path in places.ffn_inputs),
            (places.ffn_output, structure.hidden_size, neurons),
        ):
            module = layer.get_submodule(path)
            bias = module.bias.shape[0] if module.bias is not None else out
            has = (*module.weight.shape, bias, module.out_features, module.in_features)
            if has != (out, into, out, out, into):
                wrong.append(f"{path} of layer {number} is {list(module.weight.shape)}, should be {[out, into]}")
    return wrong
