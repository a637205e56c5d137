"""The model a run starts from: a packaged, local or hub Hugging Face checkpoint, before anything is done to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SourceModel", "resolve"]


@dataclass(frozen=True)
class SourceModel:
    """A Hugging Face checkpoint as given.

    Attributes
    ----------
    name : str
        What the user wrote as ``model.path``.
    path : pathlib.Path or None
        Its directory; None for a model of random weights.
    fingerprint : str
        SHA-256 over its weights, config and tokenizer files (or over the random model's config).
    architecture : str
        ``model_type``.
    layers : int
        Transformer layers.
    labels : tuple of str or None
        Labels of its task head, by class index; None where it has no fine-tuned head for the task.
    random : object or None
        The `RandomModel` config, for a model of random weights.
    """

    name: str
    path: Path | None
    fingerprint: str
    architecture: str
    layers: int
    labels: tuple[str, ...] | None
    random: Any = None
    format: str = "source"
    precision: str = "fp32"
