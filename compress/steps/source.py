"""Take an already fine-tuned Hugging Face model as the first checkpoint, unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compress.errors import ConfigError, StepError
from compress.steps.base import Context, Step

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["SourceConfig", "SourceStep"]


@dataclass
class SourceConfig:
    """Nothing to set: the model is taken as it is."""


class SourceStep(Step[SourceConfig]):
    """Copy a fine-tuned model into a checkpoint; its labels keep the model's order."""

    kind: ClassVar[str] = "source"
    config: ClassVar[type] = SourceConfig
    accepts: ClassVar[frozenset[str]] = frozenset({"source"})
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ("safetensors", "tokenizers", "torch", "transformers")
    modules: ClassVar[tuple[str, ...]] = ("compress.steps.source", "compress.models", "compress.tasks")

    def run(self, source: Checkpoint | SourceModel, config: SourceConfig, context: Context, out: Writer) -> None:
        """Check the labels, load the model with its head, save it."""
        from compress.models.source import SourceModel
        from compress.models.torch_io import load_source, save_model

        if not isinstance(source, SourceModel):
            raise StepError(f"step {context.name}: source copies a Hugging Face model, and was given a checkpoint")
        check_labels(source, context)
        model, tokenizer = load_source(source, context.task)
        save_model(out, model, tokenizer, context.max_length)


def check_labels(source: SourceModel, context: Context) -> None:
    """Refuse a model whose head knows other labels than the data, or the task in another order than the model."""
    if source.labels is None:
        raise ConfigError(
            f"model.path={source.name} has no fine-tuned head with named labels for {context.task.name}; "
            f"put finetune first in steps"
        )
    known, wanted = set(source.labels), set(context.data.labels)
    if known != wanted:
        raise ConfigError(
            f"the labels of model.path={source.name} are not those of the data: only in the data "
            f"{sorted(wanted - known)[:8]}, only in the model {sorted(known - wanted)[:8]}; "
            f"put finetune first in steps, or rename the labels"
        )
    if tuple(context.task.labels) != tuple(source.labels):
        raise StepError(
            f"step {context.name}: the task orders its labels as {list(context.task.labels)[:8]}, the model's head as "
            f"{list(source.labels)[:8]}; the head's order must be kept"
        )
