"""What a pruning in rounds has behind it: each cut and each recovery is kept, so that a killed run goes on after it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CheckpointError
from compress.files import disk_errors, replace_tree

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.steps.base import Context

__all__ = ["Stage", "Stages"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A model on the way, and what is known of it.

    Attributes
    ----------
    model
        Returns it.
    layers : list of int
        The source's layers that are left in it.
    facts : mapping
        Of the cut or the recovery that made it.
    """

    model: Callable[[], Any]
    layers: list[int]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Stages:
    """Stages as checkpoints in a step's private directory.

    Parameters
    ----------
    folder
        Made with the first stage; the pipeline removes it with the rest of the step's scratch.
    tokenizer
        Of every stage.
    context
        Of the step.
    """

    def __init__(self, folder: Path, tokenizer: Any, context: Context) -> None:
        self._folder, self._tokenizer, self._context = folder, tokenizer, context

    def get(self, name: str, make: Callable[[], Stage]) -> Stage:
        """Return a stage that is kept, or make it and keep it.

        Either way it is read from disk, so a run that was killed goes on with the bytes of one that was not.
        """
        found = self._find(name)
        if found is None:
            found = self._keep(name, make())
        else:
            log.info("%s: %s is whole and reused", self._context.name, name)
        return _stage_of(found)

    def _find(self, name: str) -> Checkpoint | None:
        from compress.checkpoint import open_checkpoint

        path = self._folder / name
        if not path.is_dir():
            return None
        try:
            return open_checkpoint(path)
        except CheckpointError as error:
            log.warning("%s: what was kept is damaged and will be made again: %s", self._context.name, error)
            shutil.rmtree(path)
            return None

    def _keep(self, name: str, stage: Stage) -> Checkpoint:
        from compress.checkpoint import Writer, open_checkpoint
        from compress.models.torch_io import save_model

        context, model = self._context, stage.model()
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for stale in self._folder.glob("*.part*"):
                shutil.rmtree(stale)
            temporary = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"{name}.part"))
            out = Writer(temporary)
            out.facts |= {"layers": stage.layers, "facts": dict(stage.facts)}
            save_model(out, model, self._tokenizer, context.max_length)
            out.finish(
                format="torch",
                precision="fp32",
                task=context.task.name,
                metric=context.task.metric,
                labels=context.task.labels,
                max_length=context.max_length,
                architecture=model.config.model_type,
                layers=len(stage.layers),
            )
            replace_tree(temporary, self._folder / name)
        return open_checkpoint(self._folder / name)


def _stage_of(checkpoint: Checkpoint) -> Stage:
    from compress.models.torch_io import load_model

    facts = checkpoint.manifest.facts
    return Stage(lambda: load_model(checkpoint), list(facts["layers"]), facts["facts"])
