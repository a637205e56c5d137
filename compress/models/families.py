"""Where an architecture keeps its layers, heads, neurons and embeddings: one short declaration per family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from compress.errors import UnsupportedError

__all__ = ["TASK_OF_HEAD", "Family", "families", "family"]

TASK_OF_HEAD = {
    "ForSequenceClassification": "text_classification",
    "ForTokenClassification": "token_classification",
}
"""The task that a fine-tuned model serves, by the ending of the class that its config names."""


def _bert_attributes() -> Mapping[str, str]:
    return {
        "heads": "attention.self.num_attention_heads",
        "head_size": "attention.self.attention_head_size",
        "heads_width": "attention.self.all_head_size",
        "scaling": "attention.self.scaling",
        "number": "attention.self.layer_idx",
    }


@dataclass(frozen=True)
class Family:
    """Places in a transformers model of one ``model_type``; the defaults are BERT's.

    Surgery finds by tracing which channels are coupled, and compares that with what stands here: a wrong path is an
    error before anything is changed, never a wrong model.

    Attributes
    ----------
    architecture : str
        ``model_type`` of the config.
    base : str
        Attribute of the model with a head that holds the base model.
    layers : str
        Path of the ModuleList of layers below the base model.
    word_embeddings : str or None
        Path of the token embedding below the base model; None where the model reads no tokens.
    position_embeddings : str or None
        Path of the table of positions below the base model; None where positions have no table, or one whose length
        is given by other things than the longest text.
    token_type_embeddings : str or None
        Path of the table of token types below the base model.
    pooler : str or None
        Path of the pooler below the base model.
    embedding_projection : str or None
        Path, below the base model, of the Linear module from the embedding's width to the hidden width, which a
        model has where the two differ.
    head_bias : str or None
        Path, below the base model, of an Embedding that all layers share and that has one column for each head.
    config_layers, config_heads, config_intermediate, config_hidden : str
        Names in the config of the number of layers, heads, the feed-forward width and the hidden width.
    config_key_value_heads : str or None
        Name in the config of the number of key-value heads; None where each head has its own.
    config_head_size : str or None
        Name in the config of the width of a head, where the model reads one.
    config_embedding : str or None
        Name in the config of the width of the embeddings, where it may differ from the hidden width.
    config_activation : str
        Name in the config of the activation of the feed-forward parts.
    query, key, value, attention_output : str
        Paths, below a layer, of the Linear modules of its attention.
    ffn_inputs : tuple of str
        Paths, below a layer, of the Linear modules from the hidden width to the feed-forward width: one, or two
        where a gate multiplies the other.
    ffn_output : str
        Path, below a layer, of the Linear module back to the hidden width.
    activation : str or None
        Path, below a layer, of the activation between the two; None where it is a gate.
    attributes : mapping of str to str
        Attributes below a layer that hold a size and must follow it: of ``heads``, ``head_size``, ``heads_width``
        (heads times head size), ``scaling`` (``head_size ** -0.5``), ``key_value_groups`` (heads per key-value head),
        ``hidden_size``, ``mlp_hidden_size``, ``intermediate_size``, ``number`` (the layer's own).
    base_attributes : mapping of str to str
        The same below the base model: of ``layers``, ``vocabulary``, ``padding`` (the padding token).
    positions_after_padding : bool
        Whether positions count from the number after the padding token's, as in RoBERTa.
    attention : str
        Implementation of attention that every run of the model uses: ``sdpa``, or ``eager`` where transformers
        has no other for it.
    tasks : tuple of str
        Tasks that recipes can fine-tune a model of this family for. Without one it can be pruned, saved and loaded
        from Python.
    """

    architecture: str
    base: str
    layers: str = "encoder.layer"
    word_embeddings: str | None = "embeddings.word_embeddings"
    position_embeddings: str | None = "embeddings.position_embeddings"
    token_type_embeddings: str | None = "embeddings.token_type_embeddings"  # noqa: S105 - a path
    pooler: str | None = "pooler"
    embedding_projection: str | None = None
    head_bias: str | None = None
    config_layers: str = "num_hidden_layers"
    config_heads: str = "num_attention_heads"
    config_intermediate: str = "intermediate_size"
    config_hidden: str = "hidden_size"
    config_key_value_heads: str | None = None
    config_head_size: str | None = None
    config_embedding: str | None = None
    config_activation: str = "hidden_act"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    ffn_inputs: tuple[str, ...] = ("intermediate.dense",)
    ffn_output: str = "output.dense"
    activation: str | None = "intermediate.intermediate_act_fn"
    attributes: Mapping[str, str] = field(default_factory=_bert_attributes, hash=False)
    base_attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    positions_after_padding: bool = False
    attention: str = "sdpa"
    tasks: tuple[str, ...] = ("text_classification", "token_classification")

    def base_model(self, model: Any) -> Any:
        """Return the base model of a model with a head, or of a base model itself."""
        return model.base_model

    def layer_list(self, model: Any) -> Any:
        """Return the ModuleList of layers of a model with or without a head."""
        return self.base_model(model).get_submodule(self.layers)

    def words(self, model: Any) -> Any:
        """Return the token embedding; None where the model reads no tokens."""
        return None if self.word_embeddings is None else self.base_model(model).get_submodule(self.word_embeddings)

    def replace_layers(self, model: Any, layers: Any) -> None:
        """Put another ModuleList in place of the layers, and say so in the config."""
        parent, _, name = self.layers.rpartition(".")
        setattr(self.base_model(model).get_submodule(parent), name, layers)
        setattr(model.config, self.config_layers, len(layers))


_ROBERTA_PADDING = {"padding": "embeddings.padding_idx"}
_DECODER: dict[str, Any] = {
    "base": "model",
    "layers": "layers",
    "word_embeddings": "embed_tokens",
    "position_embeddings": None,  # rotary
    "token_type_embeddings": None,
    "pooler": None,
    "config_key_value_heads": "num_key_value_heads",
    "config_head_size": "head_dim",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "ffn_inputs": ("mlp.gate_proj", "mlp.up_proj"),
    "ffn_output": "mlp.down_proj",
    "activation": None,  # a gate
    "attributes": {
        "head_size": "self_attn.head_dim",
        "scaling": "self_attn.scaling",
        "key_value_groups": "self_attn.num_key_value_groups",
        "number": "self_attn.layer_idx",
        "hidden_size": "hidden_size",
        "mlp_hidden_size": "mlp.hidden_size",
        "intermediate_size": "mlp.intermediate_size",
    },
    "base_attributes": {"vocabulary": "vocab_size", "padding": "padding_idx"},
    "tasks": (),
}
_BUILT_IN = (
    Family("bert", "bert"),
    Family("roberta", "roberta", positions_after_padding=True, base_attributes=_ROBERTA_PADDING),
    Family("xlm-roberta", "roberta", positions_after_padding=True, base_attributes=_ROBERTA_PADDING),
    Family(
        "electra",
        "electra",
        pooler=None,
        embedding_projection="embeddings_project",
        config_embedding="embedding_size",
    ),
    Family(
        "mpnet",
        "mpnet",
        token_type_embeddings=None,
        head_bias="encoder.relative_attention_bias",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attributes={
            "heads": "attention.attn.num_attention_heads",
            "head_size": "attention.attn.attention_head_size",
            "heads_width": "attention.attn.all_head_size",
        },
        base_attributes=_ROBERTA_PADDING,
        positions_after_padding=True,
        attention="eager",  # its relative position bias has no sdpa path in transformers 5
    ),
    Family(
        "distilbert",
        "distilbert",
        layers="transformer.layer",
        token_type_embeddings=None,
        pooler=None,
        config_layers="n_layers",
        config_heads="n_heads",
        config_intermediate="hidden_dim",
        config_hidden="dim",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        ffn_inputs=("ffn.lin1",),
        ffn_output="ffn.lin2",
        activation="ffn.activation",
        config_activation="activation",
        attributes={
            "heads": "attention.n_heads",
            "head_size": "attention.attention_head_size",
            "heads_width": "attention.dim",
            "scaling": "attention.scaling",
        },
        base_attributes={"layers": "transformer.n_layers"},
    ),
    Family(
        "vit",
        "vit",
        layers="layers",
        word_embeddings=None,
        position_embeddings=None,  # as many as patches
        token_type_embeddings=None,
        config_head_size="head_dim",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        attention_output="attention.o_proj",
        ffn_inputs=("mlp.fc1",),
        ffn_output="mlp.fc2",
        activation="mlp.activation_fn",
        attributes={
            "heads": "attention.num_attention_heads",
            "head_size": "attention.head_dim",
            "scaling": "attention.scaling",
        },
        tasks=(),
    ),
    Family("llama", **_DECODER),
    Family("qwen2", **_DECODER),
)
_BY_ARCHITECTURE = {built_in.architecture: built_in for built_in in _BUILT_IN}


def families() -> dict[str, Family]:
    """Return every family by architecture; other packages add theirs by the entry point group ``compress.families``."""
    known = dict(_BY_ARCHITECTURE)
    for entry in metadata.entry_points(group="compress.families"):
        offered: Family = entry.load()
        known.setdefault(offered.architecture, offered)
    return known


def family(architecture: str) -> Family:
    """Return the family of a ``model_type``.

    Raises
    ------
    UnsupportedError
        If it is not known.
    """
    if architecture in _BY_ARCHITECTURE:  # entry points are looked up on disk, which takes 20 ms
        return _BY_ARCHITECTURE[architecture]
    known = families()
    if architecture not in known:
        raise UnsupportedError(
            f"models of type {architecture!r} are not known; known: {', '.join(sorted(known))} "
            f"(CONTRIBUTING.md says how to add a family)"
        )
    return known[architecture]
