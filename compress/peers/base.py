"""One shape for every peer: from the fine-tuned checkpoint, or its plain export, to a checkpoint that is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from compress.errors import UnsupportedError
from compress.machine import need_extra

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.steps.base import Context

__all__ = ["Peer"]


class Peer(ABC):
    """A way of another project to run or to compress a fine-tuned model.

    Class attributes say what is needed before any work.
    """

    name: ClassVar[str]
    """As on the command line."""
    title: ClassVar[str]
    """As in the table."""
    reads: ClassVar[str]
    """Format that it starts from: ``torch``, the fine-tuned checkpoint, or ``onnx``, its export."""
    leaves: ClassVar[str]
    """Format of what it makes."""
    precision: ClassVar[str] = "fp32"
    """Precision of most of the weights that it leaves."""
    layers: ClassVar[int | None] = None
    """Transformer layers of what it makes; None keeps the source's."""
    extra: ClassVar[str | None] = None
    """Extra of this project that brings `needs`."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that must be there."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions can change what it makes."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules of ours whose source can change what it makes."""
    tasks: ClassVar[frozenset[str] | None] = None
    """Tasks that it serves; None for all."""
    draws: ClassVar[bool] = False
    """Whether the seed matters."""

    def check(self, task: str) -> None:
        """Refuse, before any work, a task that it does not serve and a machine that lacks what it needs.

        Parameters
        ----------
        task
            Name of the task.

        Raises
        ------
        UnsupportedError
            Says what is missing and how to get it.
        """
        if self.tasks is not None and task not in self.tasks:
            raise UnsupportedError(
                f"{self.name} serves {', '.join(sorted(self.tasks))}, not task={task}; leave it out of --peers"
            )
        if self.extra is not None:
            need_extra(self.extra, self.needs, self.name)

    @abstractmethod
    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Write the files of what it makes; reads training rows, chooses on validation, never looks at the test split.

        Parameters
        ----------
        source
            Of the format `reads`.
        context
            Task, data, longest input in tokens, seed.
        out
            Holds config.json and the tokenizer of `source` already.
        """
