"""Removing channels with all that is coupled to them: Torch-Pruning's dependency graph, checked before it is believed.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (arXiv 2301.12900). The graph is traced, so it finds
what no declaration lists: a gate, a tied product, a projection, whatever head stands on top. What it found must be
what the family declares, or nothing is removed. Four things it lacks in 1.6.1 are done here:

- It knows no RMSNorm, and of LayerNorm it keeps the channels in the order of a Python set, which for few that stay of
  many is not ascending (5 and 40 of 64 come out as 40, 5): `_norm_pruner` does both.
- In grouped-query attention several channels of the queries lead to the same one of the keys, which it then counts
  several times in ``out_features``: `_remove` counts each once.
- It takes every concatenation along the last dimension for one of channels. That of rotary embeddings joins the halves
  of a head: the channels move on at each turn of the search, which never ends. `_join_no_channels` says what they are.
- Two modules that share one weight are two to it: `_tied_output` removes from both.

Rows of tables (tokens, positions) and columns of MPNet's shared bias are no channels to it: `compress.models.tables`.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.errors import UnsupportedError
from compress.models.examples import example_inputs, tensors_of
from compress.models.families import Family, family
from compress.models.structure import structure_of

__all__ = ["remove_channels", "stream_sites"]

_Sites = dict[tuple[str, str], tuple[int, ...]]
"""Channels that go, by the name of a module and its side: ``in`` or ``out``."""


def remove_channels(
    model: Any,
    *,
    heads: Mapping[int, Sequence[int]],
    neurons: Mapping[int, Sequence[int]],
    hidden: Sequence[int],
) -> None:
    """Remove heads, neurons and units of the residual stream, in place: give it a copy.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family.
    heads, neurons
        Numbers that go, by layer. Heads that share keys and values go together.
    hidden
        Units of the residual stream that go.

    Raises
    ------
    UnsupportedError
        If what the trace finds is not what the family declares.
    """
    if not (any(heads.values()) or any(neurons.values()) or hidden):
        return
    places, structure = family(model.config.model_type), structure_of(model)
    size = structure.head_size or 1
    with _graph(model) as graph:
        for number, layer in enumerate(places.layer_list(model)):
            if heads.get(number):
                root, expected = _head_sites(model, places, layer, heads[number], size)
                _remove(model, graph, root, expected, f"heads of layer {number}")
            if neurons.get(number):
                root, expected = _neuron_sites(model, places, layer, neurons[number])
                _remove(model, graph, root, expected, f"neurons of layer {number}")
        if hidden:
            _remove_hidden(model, graph, places, sorted(hidden))
    model.tie_weights()


def stream_sites(model: Any) -> set[tuple[str, str]]:
    """Return the modules on the residual stream: name and side, ``in`` where it is read, ``out`` where it is added to.

    A norm over the stream has the side ``out``, and a parameter that stands in no module its own name.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family; unchanged.

    Raises
    ------
    UnsupportedError
        If the trace lacks a module that the family declares.
    """
    pruning = importlib.import_module("torch_pruning")
    places = family(model.config.model_type)
    with _graph(model) as graph:
        root = places.layer_list(model)[0].get_submodule(places.attention_output)
        found = _sites(model, graph, graph.get_pruning_group(root, pruning.prune_linear_out_channels, [0]))
    missing = sorted(f"{name} ({side})" for name, side in set(_hidden_sites(model, places, (0,))) - set(found))
    if missing:
        raise UnsupportedError(
            f"the hidden width of this {type(model).__name__} cannot be changed: the trace of its channels lacks "
            f"{', '.join(missing[:6])}, which the family {model.config.model_type} declares"
        )
    return set(found)


def _head_sites(model: Any, places: Family, layer: Any, heads: Sequence[int], size: int) -> tuple[Any, _Sites]:
    """Return the module to begin with, and the channels of queries, keys, values and output that make up heads."""
    query, key = layer.get_submodule(places.query), layer.get_submodule(places.key)
    groups = query.out_features // key.out_features
    own = _channels(heads, size)
    shared = _channels(sorted({head // groups for head in heads}), size)
    named = _names(model)
    return query, {
        (named[id(query)], "out"): own,
        (named[id(key)], "out"): shared,
        (named[id(layer.get_submodule(places.value))], "out"): shared,
        (named[id(layer.get_submodule(places.attention_output))], "in"): own,
    }


def _neuron_sites(model: Any, places: Family, layer: Any, neurons: Sequence[int]) -> tuple[Any, _Sites]:
    named, channels = _names(model), tuple(sorted(neurons))
    inputs = [layer.get_submodule(path) for path in places.ffn_inputs]
    sites: _Sites = {(named[id(module)], "out"): channels for module in inputs}
    sites[named[id(layer.get_submodule(places.ffn_output))], "in"] = channels
    return inputs[0], sites


def _hidden_sites(model: Any, places: Family, units: tuple[int, ...]) -> _Sites:
    """Return what of the layers is on the residual stream; embeddings, norms and heads the trace finds by itself."""
    named = _names(model)
    sites: _Sites = {}
    for layer in places.layer_list(model):
        for path in (places.query, places.key, places.value, *places.ffn_inputs):
            sites[named[id(layer.get_submodule(path))], "in"] = units
        for path in (places.attention_output, places.ffn_output):
            sites[named[id(layer.get_submodule(path))], "out"] = units
    return sites


def _remove_hidden(model: Any, graph: Any, places: Family, units: list[int]) -> None:
    pruning = importlib.import_module("torch_pruning")
    output = _tied_output(model, places)
    root = places.layer_list(model)[0].get_submodule(places.attention_output)
    _remove(model, graph, root, _hidden_sites(model, places, tuple(units)), "hidden units", exact=False)
    # Llama's head reads the stream itself, ELECTRA's embeddings are behind a projection: both are as wide as before.
    if output is not None and places.words(model).weight.shape[1] != output.weight.shape[1]:
        _prune(graph.get_pruning_group(output, pruning.prune_linear_in_channels, units))


def _tied_output(model: Any, places: Family) -> Any:
    """Return the output layer that shares its weight with the token embedding, if there is one."""
    words, output = places.words(model), model.get_output_embeddings()
    return output if words is not None and output is not None and output.weight is words.weight else None


def _remove(model: Any, graph: Any, root: Any, expected: _Sites, what: str, exact: bool = True) -> None:
    """Remove one group of coupled channels, if it is the one that the family declares.

    Parameters
    ----------
    exact
        Whether the group may hold nothing else; without it, more modules, but nowhere other channels.
    """
    pruning = importlib.import_module("torch_pruning")
    channels = next(iter(expected.values()))
    group = graph.get_pruning_group(root, pruning.prune_linear_out_channels, list(channels))
    found = _sites(model, graph, group)
    others = {} if exact else {site: channels for site in found if site not in expected}
    if found != {**others, **expected}:
        wrong = sorted(
            f"{name} ({side})"
            for name, side in {*found, *expected}
            if found.get((name, side)) != {**others, **expected}.get((name, side))
        )
        raise UnsupportedError(
            f"{what} of this {type(model).__name__} cannot be removed: the trace of its channels differs from what the "
            f"family {model.config.model_type} declares at {', '.join(wrong[:6])}; nothing was changed"
        )
    _prune(group)


def _sites(model: Any, graph: Any, group: Any) -> _Sites:
    """Return the channels of a group by module and side, without those of mere operations."""
    named = {**_names(model), **{id(parameter): name for name, parameter in model.named_parameters()}}
    sites: dict[tuple[str, str], set[int]] = {}
    for item in group:
        name = named.get(id(item.dep.target.module))
        if name is not None:
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            sites.setdefault((name, side), set()).update(item.idxs)
    return {site: tuple(sorted(channels)) for site, channels in sites.items()}


def _prune(group: Any) -> None:
    for number, item in enumerate(group):
        group[number] = item._replace(idxs=sorted(set(item.idxs)))
    group.prune()


def _channels(numbers: Sequence[int], size: int) -> tuple[int, ...]:
    return tuple(channel for number in sorted(numbers) for channel in range(number * size, (number + 1) * size))


def _names(model: Any) -> dict[int, str]:
    return {id(module): name for name, module in model.named_modules()}


@contextlib.contextmanager
def _graph(model: Any) -> Iterator[Any]:
    """Trace a model in the way that shows all its couplings, and put its settings back in the end.

    Eager attention, as the fused kernels hide which key a query meets; gradients for all, as the trace follows them,
    but for a bias that all layers share: through it the heads of one layer would be coupled with those of all.
    """
    import torch

    pruning = importlib.import_module("torch_pruning")
    places, config = family(model.config.model_type), model.config
    learning = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = {name: module.training for name, module in model.named_modules()}
    attention, caching = config._attn_implementation, getattr(config, "use_cache", None)  # noqa: SLF001
    shared = None if places.head_bias is None else places.base_model(model).get_submodule(places.head_bias).weight
    try:
        if attention != "eager":
            model.set_attn_implementation("eager")
        if caching:
            config.use_cache = False
        for parameter in model.parameters():
            parameter.requires_grad_(parameter is not shared)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parameters that stand in no module it knows: ViT's class token
            graph = pruning.DependencyGraph().build_dependency(
                model,
                example_inputs=example_inputs(model),
                forward_fn=lambda traced, inputs: tensors_of(traced(**inputs)),
                customized_pruners=dict.fromkeys(_norm_types(model), _norm_pruner(pruning)),
            )
            _join_no_channels(graph)
            yield graph
    finally:
        if attention != "eager":
            model.set_attn_implementation(attention)
        if caching:
            config.use_cache = caching
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learning.get(name, True))
        for name, module in model.named_modules():
            module.training = training.get(name, False)


def _join_no_channels(graph: Any) -> None:
    """Let concatenations hand channels on as they are: they join places of a sequence (ViT), or halves of a head."""
    for node in graph.module2node.values():
        if type(node.module).__name__ == "_ConcatOp":
            node.enable_index_mapping = False
            for dependency in (*node.dependencies, *(one for other in node.inputs for one in other.dependencies)):
                if node in (dependency.source, dependency.target):
                    dependency.index_mapping[1] = None


def _norm_types(model: Any) -> set[type]:
    """Return the classes of the model's norms: one weight per channel, nothing inside."""
    return {
        type(module)
        for module in model.modules()
        if type(module).__name__.endswith("Norm")
        and getattr(module, "weight", None) is not None
        and module.weight.dim() == 1
    }


def _norm_pruner(pruning: Any) -> Any:
    """Return what removes channels of a LayerNorm or an RMSNorm."""
    import torch

    class NormPruner(pruning.pruner.function.BasePruningFunc):  # type: ignore[misc]
        def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            kept = torch.tensor(sorted(set(range(layer.weight.shape[0])) - set(idxs)), device=layer.weight.device)
            for name, parameter in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, torch.nn.Parameter(parameter.detach().index_select(0, kept)))
            if hasattr(layer, "normalized_shape"):
                layer.normalized_shape = (len(kept),)
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: Any) -> int:
            return int(layer.weight.shape[0])

        get_in_channels = get_out_channels

    return NormPruner()
