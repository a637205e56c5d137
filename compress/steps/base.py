"""One shape for every step: a typed config, a source checkpoint, a new checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.data.base import Data
    from compress.models.source import SourceModel
    from compress.models.structure import Widths
    from compress.tasks.base import Task

__all__ = ["Context", "Link", "SourceFacts", "Step"]

C = TypeVar("C")


@dataclass(frozen=True)
class Context:
    """Everything a step may use beside its source and its config.

    Attributes
    ----------
    name : str
        The step's name in the recipe.
    task : Task
        The task, with the labels of the data (or, downstream, of the source).
    data : Data
        The prepared splits; a step never reads ``data.test``.
    max_length : int
        Longest input in tokens.
    seed : int
        Seed of everything random.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``, resolved.
    threads : int
        Threads of torch and of other math libraries.
    scratch : pathlib.Path
        Private directory, kept between attempts at the same key and removed when the step is whole:
        the place of training checkpoints.
    cache : pathlib.Path
        Directory shared by all steps, for outputs computed once (a teacher's logits): write to a
        temporary name, rename, name by content.
    inputs : mapping of str to Checkpoint
        Checkpoints of earlier steps that the config names, by step name.
    """

    name: str
    task: Task
    data: Data
    max_length: int
    seed: int
    device: str
    threads: int
    scratch: Path
    cache: Path
    inputs: Mapping[str, Checkpoint] = field(default_factory=dict)


@dataclass(frozen=True)
class Link(Generic[C]):
    """One of the steps that a step of a recipe stands for.

    Attributes
    ----------
    name : str
        Unique in the plan; the last link bears the name that the recipe gives.
    config : object
        Of the step's config type.
    folder : str or None
        Where in ``family/`` of the run's directory a copy of its checkpoint is put; None for no copy.
    """

    name: str
    config: C
    folder: str | None = None


class Step(ABC, Generic[C]):
    """A function from a source checkpoint to a new one.

    Class attributes declare what the planner needs before any work.
    """

    kind: ClassVar[str]
    """Name of the kind: ``finetune``, ``distill``, ``export``, ``quantize``."""
    config: ClassVar[type]
    """The dataclass of the config; the type of a config node picks the step."""
    accepts: ClassVar[frozenset[str]]
    """Formats of a source: ``source`` (a Hugging Face model as given), ``torch``, ``onnx``."""
    leaves: ClassVar[str]
    """Format of the checkpoint it writes."""
    precision: ClassVar[str | None] = None
    """Precision of the weights it leaves (``fp32``, ``int8``); None keeps the source's."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions can change the output bytes."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules or packages of ours whose source can change the output bytes, the step's own included."""
    trains: ClassVar[bool] = False
    """Whether seed, device kind, threads and dtype matter."""

    def inputs(self, config: C) -> tuple[str, ...]:
        """Return names of earlier steps whose checkpoints the config asks for."""
        return ()

    def chain(self, name: str, config: C, before: str) -> Sequence[Link[C]]:
        """Return the steps that a config stands for, in order, each reading the one before: itself.

        Parameters
        ----------
        name
            The step's name in the recipe.
        config
            As the recipe has it.
        before
            Name of the step whose checkpoint the first one reads.

        Raises
        ------
        ConfigError
            If they cannot be told.
        """
        return (Link(name, config),)

    def check(self, config: C, source: SourceFacts) -> None:
        """Refuse, before any work, a config that cannot work on such a source; raises ConfigError."""
        return

    def after(self, config: C, source: SourceFacts) -> SourceFacts:
        """Return what will be known of the checkpoint that this step leaves."""
        return replace(source, format=self.leaves, precision=self.precision or source.precision, nested=None)

    def resolve(self, config: C) -> Mapping[str, Any]:
        """Return what the machine decides for this config (e.g. a range reduced for want of VNNI); part of the key."""
        return {}

    def cautions(self, config: C, device: str) -> Sequence[str]:
        """Return what the config does not save on this machine, for the log and the record's warnings.

        Parameters
        ----------
        config
            The step's.
        device
            Where what it leaves will run: ``cpu``, ``cuda`` or ``cuda:N``.
        """
        return ()

    def measures(self, config: C) -> bool:
        """Return whether the step times anything, and so needs the machine to itself."""
        return False

    @abstractmethod
    def run(self, source: Checkpoint | SourceModel, config: C, context: Context, out: Writer) -> None:
        """Read `source`, write the new checkpoint's files through `out`."""


@dataclass(frozen=True)
class SourceFacts:
    """What is known of a step's source while planning, before it exists.

    Attributes
    ----------
    format, precision : str
        As in the checkpoint's manifest.
    architecture : str
        ``model_type`` of the Hugging Face config.
    layers : int
        Transformer layers (changed by steps on the way).
    positions : int or None
        Entries of the position table of the model that the recipe starts from, where its config tells.
    grid_bits : int or None
        Bits of the grids that an earlier step, quantization-aware training, leaves weights on.
    widths : Widths or None
        Of every layer; None where they are not known, as after a step that makes them narrower.
    nested : tuple of two tuples of float, or None
        Widths and depths of the models that the step before, elastic, trained within its own; None after any other.
    """

    format: str
    precision: str
    architecture: str
    layers: int
    positions: int | None = None
    grid_bits: int | None = None
    widths: Widths | None = None
    nested: tuple[tuple[float, ...], tuple[float, ...]] | None = None
