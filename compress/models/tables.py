"""Rows of embedding tables, token types and the pooler: what a dependency graph of channels does not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError, UnsupportedError
from compress.models.examples import example_inputs, position_offset, tensors_of
from compress.models.families import family

if TYPE_CHECKING:
    import torch

__all__ = [
    "drop_pooler",
    "fold_token_types",
    "keep_position_rows",
    "keep_word_rows",
    "leave_out_token_types",
    "take_heads_of_bias",
]


def keep_word_rows(model: Any, ids: Sequence[int]) -> None:
    """Keep rows of the token embedding, and of an output layer over the vocabulary, in place.

    The row ``ids[n]`` becomes row ``n``; ids of special tokens in the configs follow.

    Raises
    ------
    UnsupportedError
        If the model reads no tokens.
    ConfigError
        For an id twice or out of range, a special token that would go, or a padding token that would move where the
        positions are counted from it.
    """
    places = family(model.config.model_type)
    words = places.words(model)
    if words is None:
        raise UnsupportedError(f"{type(model).__name__} reads no tokens: it has no vocabulary to prune")
    table = getattr(words, "factors", words)
    places_of = _new_ids(ids, table.num_embeddings)
    if places.positions_after_padding:
        token = position_offset(model) - 1
        if places_of.get(token) != token:
            raise ConfigError(
                f"vocabulary: the padding token {token} of {type(model).__name__} must stay at its place, as "
                f"positions count from it; keep the ids 0 to {token}, in front and in order"
            )
    configs = [model.config, getattr(model, "generation_config", None)]
    changed = [(config, _special_ids(config, places_of, table.num_embeddings)) for config in configs if config]
    padding_row = getattr(table, "padding_idx", None)
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is table.weight
    kept = _index(ids, table.weight)
    _replace(model, table.weight, table.weight.detach()[kept])
    table.num_embeddings = len(kept)
    table.padding_idx = None if padding_row is None else places_of.get(padding_row)
    if output is not None:
        _keep_output_rows(model, output, kept, tied)
    for config, values in changed:
        for name, value in values.items():
            setattr(config, name, value)
    holder, _, name = places.base_attributes.get("padding", "").rpartition(".")
    if name and not places.positions_after_padding:
        setattr(places.base_model(model).get_submodule(holder), name, model.config.pad_token_id)


def keep_position_rows(model: Any, count: int) -> None:
    """Keep room for inputs of at most `count` tokens in the table of positions, in place.

    RoBERTa and MPNet have rows before the first position (for the padding token, at its number): those stay too.

    Raises
    ------
    UnsupportedError
        If the model has no table of positions.
    ConfigError
        For less than 1, or more than there are.
    """
    places = family(model.config.model_type)
    if places.position_embeddings is None:
        raise UnsupportedError(f"{type(model).__name__} has no table of positions that could be cut")
    table = places.base_model(model).get_submodule(places.position_embeddings)
    offset = position_offset(model)
    if not 1 <= count <= table.num_embeddings - offset:
        raise ConfigError(
            f"positions={count}: {type(model).__name__} has room for 1 to {table.num_embeddings - offset} tokens"
        )
    rows = count + offset
    _replace(model, table.weight, table.weight.detach()[:rows].clone())
    table.num_embeddings = rows
    embeddings = places.base_model(model).get_submodule(places.position_embeddings.rpartition(".")[0])
    for name, buffer in list(embeddings.named_buffers(recurse=False)):
        if buffer.dim() == 2 and buffer.shape[1] > rows:  # position_ids and token_type_ids, [1, positions]
            setattr(embeddings, name, buffer[:, :rows].clone())


def fold_token_types(model: Any) -> None:
    """Add what token type 0 adds into every position, in place: then the model has no token types.

    Every token is of type 0 from then on, whatever the input says.

    Raises
    ------
    UnsupportedError
        If the family has no token types.
    """
    places = family(model.config.model_type)
    if places.token_type_embeddings is None or places.position_embeddings is None:
        raise UnsupportedError(f"{type(model).__name__} has no token types to fold")
    base = places.base_model(model)
    table, positions = (base.get_submodule(path) for path in (places.token_type_embeddings, places.position_embeddings))
    if getattr(table, "num_embeddings", 0):
        _replace(model, positions.weight, positions.weight.detach() + table.weight.detach()[0])
        leave_out_token_types(model)


def leave_out_token_types(model: Any) -> None:
    """Put a module without weights in place of the token types: whatever the type, it adds 0."""
    import torch

    places = family(model.config.model_type)
    assert places.token_type_embeddings is not None
    parent, _, name = places.token_type_embeddings.rpartition(".")
    nothing = torch.nn.Identity()
    nothing.register_forward_hook(_add_nothing)
    setattr(places.base_model(model).get_submodule(parent), name, nothing)


def _add_nothing(module: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Forward hook: 0 in place of the ids, of no dimension, so that it changes neither shape nor type of a sum."""
    import torch

    return torch.zeros((), device=output.device)


def drop_pooler(model: Any) -> None:
    """Take the pooler away, in place, where nothing reads it: then ``pooler_output`` is None.

    Raises
    ------
    UnsupportedError
        If there is none, or the head reads it.
    """
    import torch

    places = family(model.config.model_type)
    base = places.base_model(model)
    if places.pooler is None or getattr(base, places.pooler, None) is None:
        raise UnsupportedError(f"{type(model).__name__} has no pooler")
    pooler = getattr(base, places.pooler)
    if model is not base:
        learning = [parameter.requires_grad for parameter in pooler.parameters()]
        pooler.requires_grad_(True)
        with torch.enable_grad():
            total = torch.stack([tensor.sum() for tensor in tensors_of(model(**example_inputs(model)))]).sum()
            read = total.requires_grad and any(
                gradient is not None
                for gradient in torch.autograd.grad(total, list(pooler.parameters()), allow_unused=True)
            )
        for parameter, was in zip(pooler.parameters(), learning, strict=True):
            parameter.requires_grad_(was)
        if read:
            raise UnsupportedError(f"the head of {type(model).__name__} reads the pooler: it cannot be dropped")
    setattr(base, places.pooler, None)


def take_heads_of_bias(model: Any, kept: Mapping[int, Sequence[int]]) -> None:
    """Let layers take the columns of the bias that all share (MPNet) that belong to their heads, in place.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a family with a shared bias.
    kept
        Columns by layer, in the order of the layer's heads.
    """
    import torch

    places = family(model.config.model_type)
    for number, columns in kept.items():
        layer = places.layer_list(model)[number]
        attention = layer.get_submodule(places.query.rpartition(".")[0])
        device = layer.get_submodule(places.query).weight.device
        numbers = torch.tensor(list(columns), device="cpu" if device.type == "meta" else device)
        if not hasattr(attention, "head_numbers"):
            attention.register_forward_pre_hook(_select_bias, with_kwargs=True)
        attention.register_buffer("head_numbers", numbers, persistent=False)


def _select_bias(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward pre-hook of MPNet's attention: ``position_bias`` ``[batch, heads, query, key]`` of its heads only."""
    if len(args) > 2:
        return (*args[:2], args[2].index_select(1, module.head_numbers), *args[3:]), kwargs
    return args, {**kwargs, "position_bias": kwargs["position_bias"].index_select(1, module.head_numbers)}


def _keep_output_rows(model: Any, output: Any, kept: torch.Tensor, tied: bool) -> None:
    """Keep rows of an output layer over the vocabulary; a weight that is tied to the embedding has them already."""
    before = output.out_features
    # Of BERT's head the bias stands a second time beside the layer, tied to it or not.
    name = next(name for name, module in model.named_modules() if module is output)
    head = model.get_submodule(name.rpartition(".")[0])
    biases = [bias for bias in (output.bias, getattr(head, "bias", None)) if bias is not None]
    once = {id(parameter): parameter for parameter in (*biases, *(() if tied else (output.weight,)))}
    for parameter in once.values():
        if parameter.shape[0] == before:
            _replace(model, parameter, parameter.detach()[kept])
    output.out_features = len(kept)


def _replace(model: Any, old: Any, values: torch.Tensor) -> None:
    """Put new values in place of a parameter, wherever it is held: tied weights stay tied."""
    import torch

    new = torch.nn.Parameter(values.contiguous(), requires_grad=old.requires_grad)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter is old:
                setattr(module, name, new)


def _new_ids(ids: Sequence[int], rows: int) -> dict[int, int]:
    """Return the new id of each token that stays."""
    if not len(ids):
        raise ConfigError("vocabulary: no id is kept; a model needs at least the tokens of its texts")
    new = {int(old): number for number, old in enumerate(ids)}
    if len(new) != len(ids):
        twice = next(int(old) for number, old in enumerate(ids) if new[int(old)] != number)
        raise ConfigError(f"vocabulary: the id {twice} is kept twice")
    outside = [old for old in new if not 0 <= old < rows]
    if outside:
        raise ConfigError(f"vocabulary: there is no id {outside[0]}; the model has 0 to {rows - 1}")
    return new


def _special_ids(config: Any, new: Mapping[int, int], rows: int) -> dict[str, Any]:
    """Return the ids of special tokens that a config names, in the new numbering; those of no token are None."""
    values: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if not name.endswith("_token_id") or value is None:
            continue
        listed = value if isinstance(value, list) else [value]
        for old in listed:
            if 0 <= old < rows and old not in new:
                raise ConfigError(f"vocabulary: {name}={old} is not among the ids that stay; keep it")
        found = [new[old] for old in listed if old in new]
        values[name] = found if isinstance(value, list) else next(iter(found), None)
    return values


def _index(ids: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.tensor([int(number) for number in ids], device=like.device)
