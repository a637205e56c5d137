"""Progressive replacement: layers of a student stand in, one by one, for blocks of their teacher's layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from compress.config.training import Replacement, Taught
from compress.errors import ConfigError
from compress.models.families import family
from compress.models.structure import structure_of
from compress.training.distillation.checks import reads_alike, structure_at
from compress.training.distillation.inside import PROJECTIONS
from compress.training.distillation.layer_maps import layer_map
from compress.training.distillation.ways import Scene, Way

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.training.loop import LossFunction

__all__ = ["Replacing", "blocks_of", "chance"]


def blocks_of(config: Taught, student_layers: int, teacher_layers: int) -> tuple[range, ...]:
    """Return for each student layer the teacher's layers that it stands in for: those since the layer before's.

    The last of a block is the layer whose output the student's is compared with (`layer_map`), so that of 6 layers a
    student of 3 stands in for (0, 1), (2, 3), (4, 5).

    Raises
    ------
    ConfigError
        If the map leaves a student layer without a block, or layers of the teacher without a student layer.
    """
    ends = layer_map(config, student_layers, teacher_layers)
    starts = [0, *(end + 1 for end in ends[:-1])]
    blocks = tuple(range(start, end + 1) for start, end in zip(starts, ends, strict=True))
    if ends[-1] != teacher_layers - 1 or not all(blocks):
        how = f"layer_map={config.layer_map}" if config.teacher_layers is None else f"teacher_layers={list(ends)}"
        raise ConfigError(
            f"replace.rate: {how} matches the student's layers with {list(ends)} of the teacher's {teacher_layers}, "
            f"which must rise and end with the last so that each stands in for those since the one before; "
            f"leave both as they are"
        )
    return blocks


def chance(config: Replacement, progress: float) -> float:
    """Return with which probability a student layer stands in: ``min(1, rate + (1 - rate) progress / full_at)``.

    The linear curriculum of BERT-of-Theseus (Xu et al., arXiv 2002.02925, equation 6).

    Parameters
    ----------
    config
        The option, switched on.
    progress
        Share of the updates that are done, 0 to 1.
    """
    rate = config.rate or 0.0
    return min(1.0, rate + (1 - rate) * progress / config.full_at)


class Replacing(Way):
    """BERT-of-Theseus (Xu et al., arXiv 2002.02925): while a student learns, its layers stand in for its teacher's.

    Each layer of the student, the successor, is drawn anew for each batch: with the probability `chance` it runs, else
    its block of the teacher's layers, the predecessors, does. These are frozen and, as in the authors' code, drop out
    as the student does. Until the probability is 1 only successors learn: embeddings and head are frozen too. Out of
    training mode the student alone runs. Predecessors are no part of it: neither of its weights nor of what an
    optimizer sees.

    Parameters
    ----------
    config
        The option, with a rate above 0.
    """

    def __init__(self, config: Replacement) -> None:
        self.config = config
        self._layers: list[Any] = []
        self._handles: list[Any] = []
        self._frozen: list[Any] = []
        self._chance = 1.0
        self._run: list[bool] = []

    def check(
        self, student: Any, source: Checkpoint, teachers: Sequence[Checkpoint], config: Taught, where: str
    ) -> None:
        """Refuse several teachers, one of another tokenizer, family or width, and a student that is deeper than it."""
        what = f"{where}.replace.rate={self.config.rate:g}"
        if len(teachers) > 1:
            raise ConfigError(
                f"{what}: there are {len(teachers)} teachers, and the layers of one can be replaced; name one, or set "
                f"{where}.replace.rate=null"
            )
        teacher, kind = teachers[0], student.config.model_type
        if not reads_alike(teacher, source):
            raise ConfigError(
                f"{what}: the tokenizer of the teacher is not the student's, and its layers would read other tokens; "
                f"choose a teacher of the same tokenizer, or set {where}.replace.rate=null"
            )
        ours, theirs = structure_of(student), structure_at(teacher)
        if (kind, ours.hidden_size) != (teacher.architecture, theirs.hidden_size):
            raise ConfigError(
                f"{what}: the student is a {kind} model {ours.hidden_size} wide, the teacher a {teacher.architecture} "
                f"model {theirs.hidden_size} wide, and layers can only stand in for others of the same family and "
                f"width; choose another teacher, or set {where}.replace.rate=null"
            )
        if ours.layers > theirs.layers:
            raise ConfigError(
                f"{what}: the student has {ours.layers} layers, more than the {theirs.layers} of its teacher that they "
                f"would stand in for; set {where}.student.layers to at most {theirs.layers}"
            )
        blocks_of(config, ours.layers, theirs.layers)

    def begin(self, scene: Scene) -> LossFunction:
        """Return the loss, the student now running as is drawn."""
        student, teacher = scene.student, scene.teacher()
        places = family(student.config.model_type)
        found = places.layer_list(teacher.requires_grad_(False))
        self._layers = list(places.layer_list(student))
        blocks = blocks_of(scene.config, len(self._layers), len(found))
        loss = scene.make(scene.matched)
        for number, (layer, numbers) in enumerate(zip(self._layers, blocks, strict=True)):
            block = [found[one] for one in numbers]
            layer.forward = self._either(number, layer, layer.forward, block)
            for kind in PROJECTIONS:
                # Terms about attention read the student's own modules, which are silent while its block runs.
                module = block[-1].get_submodule(getattr(places, kind))
                self._handles.append(loss.probe.also((kind, number), module))

        def of_batch(model: Any, batch: dict[str, Any], progress: float) -> torch.Tensor:
            self._chance = chance(self.config, progress)
            self._run = (scene.draws.next(progress).random(len(self._layers)) < self._chance).tolist()
            self._freeze(student)
            value = loss(model, batch, progress)
            # Where only predecessors were drawn nothing that learns has a part in the loss.
            return value if any(self._run) else value + 0 * sum(one.sum() for one in self._successors())

        return of_batch

    def end(self) -> None:
        """Let the student run its own layers, and all of it learn."""
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            layer.__dict__.pop("forward", None)
        self._thaw()
        self._layers, self._handles = [], []

    def _successors(self) -> Iterator[Any]:
        for layer in self._layers:
            yield from layer.parameters()

    def _freeze(self, student: Any) -> None:
        """Have embeddings and head learn only once the probability is 1.

        They are looked up with the first batch: until then the optimizer must see them, and only in training is the
        token table the one that is trained (`compress.training.read_rows`).
        """
        if self._chance >= 1:
            self._thaw()
        elif not self._frozen:
            inside = {id(parameter) for parameter in self._successors()}
            found = [one for one in student.parameters() if one.requires_grad and id(one) not in inside]
            self._frozen = [parameter.requires_grad_(False) for parameter in found]

    def _thaw(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []

    def _either(self, number: int, layer: Any, own: Any, block: Sequence[Any]) -> Any:
        """Return what runs in place of a layer's forward.

        It is set on the layer itself, so that the student's modules, their names and their hooks stay as they are.
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not layer.training or self._run[number]:
                return own(*args, **kwargs)
            output: Any = args[0] if args else kwargs["hidden_states"]
            for other in block:
                given = output[0] if isinstance(output, tuple) else output
                other.to(given.device).train()
                output = other(given, *args[1:], **kwargs) if args else other(**{**kwargs, "hidden_states": given})
            return output

        return forward
