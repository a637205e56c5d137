"""Training that computes the last layer for the token that a classifier's head reads.

The head reads the last hidden state of the first token. Keys and values of the last layer are needed for all tokens;
its queries, feed-forward part and norms for the first alone. That is most of the layer, and a quarter of all arithmetic
of a student of three layers. `compress.steps.simplify.first_token` does it to an exported graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch

from compress.models.families import families

__all__ = ["first_token_only"]


@contextmanager
def first_token_only(model: Any) -> Iterator[None]:
    """Have the last layer of a classifier answer for the first token alone, ``[batch, 1, hidden]``, in place.

    Logits and gradients are those of the whole layer; dropout draws fewer numbers. A call that asks for hidden states
    or attentions gets them whole, and so does every call while a hook is on some module of the layer. Models that are
    not in `_LAYERS` are left alone, and a layer in whose place something else runs.

    Parameters
    ----------
    model
        A transformers model.
    """
    places = families().get(model.config.model_type)
    layers: Any = None if places is None else places.layer_list(model)
    forward = _LAYERS.get(f"{type(model).__name__}.{type(layers[-1]).__name__}") if layers else None
    if forward is None or "forward" in vars(layers[-1]):
        yield
        return
    last, base, asked = layers[-1], model.base_model, [False]
    original = last.forward

    def look(_: Any, __: Any, options: dict[str, Any]) -> None:
        names = ("output_hidden_states", "output_attentions")
        asked[0] = any(options.get(name, getattr(base.config, name, False)) for name in names)

    def first(layer: Any, hidden: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if asked[0] or _watched(layer):
            return original(hidden, *arguments, **options)
        return forward(layer, hidden, *arguments, **options)

    handle = base.register_forward_pre_hook(look, with_kwargs=True)
    last.forward = MethodType(first, last)
    try:
        yield
    finally:
        handle.remove()
        del last.forward


def _watched(layer: Any) -> bool:
    """Return whether a hook is on some module of a layer.

    Those of transformers do not count: it leaves them behind once hidden states were asked for, so that what is
    computed would depend on what was before.
    """
    hooks = (
        hook
        for module in layer.modules()
        for of_module in (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001
        for hook in of_module.values()
    )
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


def _bert(layer: Any, hidden: torch.Tensor, mask: torch.Tensor | None = None, *_: Any, **__: Any) -> torch.Tensor:
    part = layer.attention.self
    attended = _attended(part, (part.query, part.key, part.value), hidden, mask)
    found: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(attended, hidden[:, :1]))
    return found


def _distilbert(layer: Any, hidden: torch.Tensor, mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
    part = layer.attention
    attended = part.out_lin(_attended(part, (part.q_lin, part.k_lin, part.v_lin), hidden, mask))
    normed = layer.sa_layer_norm(attended + hidden[:, :1])
    found: torch.Tensor = layer.output_layer_norm(layer.ffn(normed) + normed)
    return found


def _mpnet(
    layer: Any, hidden: torch.Tensor, mask: torch.Tensor | None, position_bias: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor]:
    part, bias = layer.attention.attn, position_bias if mask is None else position_bias + mask
    attended = part.o(_attended(part, (part.q, part.k, part.v), hidden, bias))
    normed = layer.attention.LayerNorm(layer.attention.dropout(attended) + hidden[:, :1])
    return (layer.output(layer.intermediate(normed), normed),)


def _attended(part: Any, products: tuple[Any, Any, Any], hidden: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """Return what the first token gathers from all, ``[batch, 1, heads times head size]``."""
    query, key, value = (
        product(read).unflatten(-1, (-1, part.attention_head_size)).transpose(1, 2)
        for product, read in zip(products, (hidden[:, :1], hidden, hidden), strict=True)
    )
    attended = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=part.dropout.p if part.training else 0.0,
        scale=getattr(part, "scaling", part.attention_head_size**-0.5),
    )
    return attended.transpose(1, 2).flatten(2)


_LAYERS: dict[str, Callable[..., Any]] = {
    "BertForSequenceClassification.BertLayer": _bert,
    "RobertaForSequenceClassification.RobertaLayer": _bert,
    "XLMRobertaForSequenceClassification.XLMRobertaLayer": _bert,
    "ElectraForSequenceClassification.ElectraLayer": _bert,
    "DistilBertForSequenceClassification.TransformerBlock": _distilbert,
    "MPNetForSequenceClassification.MPNetLayer": _mpnet,
}
"""What computes the first token, by the classes of a model and its layers."""
