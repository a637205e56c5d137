"""Where an architecture keeps its layers and embeddings: one short declaration per family."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

from compress.errors import UnsupportedError

__all__ = ["TASK_OF_HEAD", "Family", "families", "family"]

TASK_OF_HEAD = {
    "ForSequenceClassification": "text_classification",
    "ForTokenClassification": "token_classification",
}
"""The task that a fine-tuned model serves, by the ending of the class that its config names."""


@dataclass(frozen=True)
class Family:
    """Places in a transformers model of one ``model_type``.

    Attributes
    ----------
    architecture : str
        ``model_type`` of the config.
    base : str
        Attribute of the model with a head that holds the base model.
    layers : str
        Path of the ModuleList of layers below the base model.
    word_embeddings : str
        Path of the token embedding below the base model.
    config_layers, config_heads, config_intermediate, config_hidden : str
        Names in the config of the number of layers, heads, the feed-forward width and the hidden width.
    query, key, value, attention_output : str
        Paths, below a layer, of the Linear modules of its attention.
    ffn_inputs : tuple of str
        Paths, below a layer, of the Linear modules from the hidden width to the feed-forward width: one, or two
        where a gate multiplies the other.
    ffn_output : str
        Path, below a layer, of the Linear module back to the hidden width.
    attention : str
        Implementation of attention that every run of the model uses: ``sdpa``, or ``eager`` where transformers
        has no other for it.
    """

    architecture: str
    base: str
    layers: str = "encoder.layer"
    word_embeddings: str = "embeddings.word_embeddings"
    config_layers: str = "num_hidden_layers"
    config_heads: str = "num_attention_heads"
    config_intermediate: str = "intermediate_size"
    config_hidden: str = "hidden_size"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    ffn_inputs: tuple[str, ...] = ("intermediate.dense",)
    ffn_output: str = "output.dense"
    attention: str = "sdpa"

    def layer_list(self, model: Any) -> Any:
        """Return the ModuleList of layers of a model with a head."""
        return model.get_submodule(f"{self.base}.{self.layers}")

    def replace_layers(self, model: Any, layers: Any) -> None:
        """Put another ModuleList in place of the layers, and say so in the config."""
        parent, _, name = f"{self.base}.{self.layers}".rpartition(".")
        setattr(model.get_submodule(parent), name, layers)
        setattr(model.config, self.config_layers, len(layers))


_BUILT_IN = (
    Family("bert", "bert"),
    Family("roberta", "roberta"),
    Family("xlm-roberta", "roberta"),
    Family("electra", "electra"),
    Family(
        "mpnet",
        "mpnet",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attention="eager",  # its relative position bias has no sdpa path in transformers 5
    ),
    Family(
        "distilbert",
        "distilbert",
        layers="transformer.layer",
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
    ),
)


def families() -> dict[str, Family]:
    """Return every family by architecture; other packages add theirs by the entry point group ``compress.families``."""
    known = {family.architecture: family for family in _BUILT_IN}
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
    known = families()
    if architecture not in known:
        raise UnsupportedError(
            f"models of type {architecture!r} are not known; known: {', '.join(sorted(known))} "
            f"(CONTRIBUTING.md says how to add a family)"
        )
    return known[architecture]
