"""What a model computes on the way: hidden states, queries, keys and values of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["EMBEDDINGS", "PROJECTIONS", "Part", "Probe", "width_of"]

Part = tuple[str, int]
"""``hidden``, ``query``, ``key`` or ``value``, and the layer counted from 0; `EMBEDDINGS` is what the first reads."""

EMBEDDINGS = -1
PROJECTIONS = ("query", "key", "value")


def width_of(model: Any, part: Part) -> int:
    """Return how wide a part of a model's inside is."""
    from compress.models.families import family
    from compress.models.structure import structure_of

    kind, layer = part
    if kind == "hidden":
        return structure_of(model).hidden_size
    places = family(model.config.model_type)
    return int(places.layer_list(model)[layer].get_submodule(getattr(places, kind)).out_features)


class Probe:
    """Runs a model and returns its logits and chosen parts of its inside.

    Queries, keys and values are what the linear modules of attention give, before any rotation by position.

    Parameters
    ----------
    model
        A transformers model of a known family, with a task head.
    parts
        What is wanted.
    """

    def __init__(self, model: Any, parts: Sequence[Part]) -> None:
        from compress.models.families import family

        self.parts = tuple(parts)
        self._seen: dict[Part, torch.Tensor] = {}
        self._hidden = any(kind == "hidden" for kind, _ in parts)
        self._handles = []
        wanted = [part for part in self.parts if part[0] in PROJECTIONS]
        if wanted:
            places = family(model.config.model_type)
            layers = places.layer_list(model)
            for kind, layer in wanted:
                module = layers[layer].get_submodule(getattr(places, kind))
                self._handles.append(module.register_forward_hook(self._keep((kind, layer))))

    def _keep(self, part: Part) -> Any:
        def hook(_: Any, __: Any, output: torch.Tensor) -> None:
            self._seen[part] = output

        return hook

    def __call__(self, model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, dict[Part, torch.Tensor]]:
        """Return logits, float32, and of each part ``[batch, sequence, width]``.

        Parameters
        ----------
        model
            The model itself, or what wraps it for several processes.
        inputs
            Its keyword arguments.
        """
        self._seen.clear()
        # Of several processes each sees its own rows; hidden states come put together, what hooks took does not.
        gathered = getattr(model, "gathered", lambda value: value)
        output = model(**inputs, output_hidden_states=self._hidden)
        found: dict[Part, torch.Tensor] = {}
        for part in self.parts:
            kind, layer = part
            found[part] = output.hidden_states[layer + 1] if kind == "hidden" else gathered(self._seen[part])
        self._seen.clear()
        return output.logits.float(), found

    def also(self, part: Part, module: Any) -> Any:
        """Take a part from another module too, one that runs in place of the model's; returns the hook's handle.

        A part that nobody asks for is dropped.
        """
        return module.register_forward_hook(self._keep(part))

    def close(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
