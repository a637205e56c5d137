"""Which of its source's layers a student begins with, by a quick search; the test split has no part in it.

First every choice is ranked without training, by how far the cut model's logits are from the source's; then the best
few are trained for a while with the losses of the step, and validation decides. Fan et al., LayerDrop (arXiv
1909.11556), and Sajjad et al. (arXiv 2004.03844) compare fixed choices: which is best depends on model and task.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.console import Progress, progress_of
from compress.errors import StepError

if TYPE_CHECKING:
    import pandas as pd

    from compress.config.schemas import Distill, StudentSearch
    from compress.data.base import Data
    from compress.steps.base import Context
    from compress.tasks.base import Features
    from compress.training.distillation import Lesson

__all__ = ["Found", "search_layers", "short_training"]

log = logging.getLogger(__name__)

_ALL = 200
"""Choices up to which each is ranked; of more, layers are taken away one by one."""
_BEAM = 4
"""Choices of each depth that go on, where layers are taken away one by one."""

Layers = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    layers : tuple of int
        The best choice, counted from 0.
    facts : dict
        ``ranked``: every choice of the wanted depth that was looked at, nearest first, with its ``divergence``;
        ``trained``: the candidates with what ``updates`` of training made of them, best first.
    """

    layers: Layers
    facts: dict[str, Any]


def search_layers(
    source: Any,
    make: Callable[[Layers], Any],
    learn: Callable[[Any, Data, Distill, str], Lesson],
    tokenizer: Any,
    uniform: Layers,
    config: Distill,
    context: Context,
) -> Found:
    """Return the layers whose student is best after a short training.

    Parameters
    ----------
    source : transformers.PreTrainedModel
        Unchanged.
    make
        Makes the student of given layers, as the step will.
    learn
        Trains a student in place: given it, the data, the training and a name for it.
    tokenizer
        The source's.
    uniform
        The choice that is always among the candidates; as deep as the student.
    config, context
        Of the step.

    Raises
    ------
    StepError
        If there are no rows to rank on.
    """
    search = config.student.search
    ranked = _ranked(source, tokenizer, uniform, search.rows, context)
    candidates = _candidates(ranked, uniform, search)
    brief, rows = short_training(config, len(context.data.train))
    data = replace(context.data, train=_drawn(context.data.train, rows, context.seed))
    trained: list[dict[str, Any]] = []
    for number, layers in enumerate(candidates, 1):
        name = "-".join(map(str, layers))
        log.info("%s: candidate %d/%d, layers %s", context.name, number, len(candidates), name)
        lesson = learn(make(layers), data, brief, name)
        loss = lesson.result.history[-1]["loss"]
        trained.append({"layers": list(layers), context.task.metric: round(lesson.result.metric, 6), "loss": loss})
    sign = -1 if context.task.higher_is_better else 1
    trained.sort(key=lambda one: (sign * one[context.task.metric], one["loss"]))  # stable: then the better ranked
    best: Layers = tuple(trained[0]["layers"])
    log.info("%s: layers %s are best on validation", context.name, ", ".join(map(str, best)))
    updates = brief.epochs * -(-rows // (brief.batch_size * brief.gradient_accumulation))
    facts = {
        "ranked": [{"layers": list(layers), "divergence": round(far, 6)} for layers, far in ranked],
        "trained": trained,
        "updates": updates,
        "rows": rows,
    }
    return Found(best, facts)


def short_training(config: Distill, rows: int) -> tuple[Distill, int]:
    """Return the training of a candidate and the rows that it sees, so that it takes ``search.updates`` or a few less.

    Parameters
    ----------
    config
        Of the step: losses, learning rate, schedule and batches are its own.
    rows
        Training rows that there are.
    """
    batch = config.batch_size * config.gradient_accumulation
    wanted = config.student.search.updates
    epochs = -(-wanted // max(1, rows // batch))
    seen = min(rows, wanted // epochs * batch)
    return replace(config, epochs=epochs, min_updates=None, patience=None), seen


def _candidates(ranked: Sequence[tuple[Layers, float]], uniform: Layers, search: StudentSearch) -> list[Layers]:
    """Return the best choices, ``uniform`` in place of the last where it is not among them."""
    best = [layers for layers, _ in ranked[: search.candidates]]
    return best if uniform in best else [*best[: search.candidates - 1], uniform]


def _ranked(source: Any, tokenizer: Any, uniform: Layers, most: int, context: Context) -> list[tuple[Layers, float]]:
    """Return the choices of the wanted depth that were looked at, with their divergence, nearest first."""
    from compress.training import reproducible

    split = context.data.validation if len(context.data.validation) else context.data.train
    if not len(split):
        raise StepError(f"step {context.name}: student.layer_choice=search needs rows, and there are none; give data")
    features = context.task.encode(_drawn(split, most, context.seed), tokenizer, context.max_length)
    depth, wanted = len(_places(source)), len(uniform)
    total = _count(depth, wanted)
    with (
        reproducible(context.seed, context.threads),
        progress_of(f"{context.name}: ranking layers", total=total, unit="choices") as shown,
    ):
        far = _Divergence(source, tokenizer, features, context, shown)
        if comb(depth, wanted) <= _ALL:
            for layers in itertools.combinations(range(depth), wanted):
                far(layers)
        else:
            _take_away(depth, wanted, far)
            far(uniform)
    source.to("cpu")
    found = [(layers, value) for layers, value in far.known.items() if len(layers) == wanted]
    return sorted(found, key=lambda one: (one[1], one[0]))


class _Divergence:
    """The mean over rows or labelled tokens of ``KL(source || student)``, of a student that is not trained.

    Parameters
    ----------
    source
        Moved to the context's device.
    tokenizer, features, context
        What it reads, and where.
    shown
        Told of each choice.
    """

    def __init__(self, source: Any, tokenizer: Any, features: Features, context: Context, shown: Progress) -> None:
        from compress.tasks.padding import padding_of

        self.source = source.to(context.device)
        self.features = features
        self.padding = padding_of(tokenizer)
        self.context = context
        self.shown = shown
        self.known: dict[Layers, float] = {}
        self.expected = self._answers(self.source)

    def __call__(self, layers: Layers) -> float:
        """Return the divergence of the student of these layers; each is asked once."""
        from compress.models.torch_io import student_of

        if layers not in self.known:
            found = self._answers(student_of(self.source, layers))
            self.known[layers] = float((np.exp(self.expected) * (self.expected - found)).sum(-1).mean())
            self.shown.advance()
        return self.known[layers]

    def _answers(self, model: Any) -> np.ndarray:
        """Return the logarithms of probabilities ``[units, classes]`` of what a student must match."""
        import torch

        from compress.training import logits_of

        task, features = self.context.task, self.features
        logits = logits_of(model, task, features, self.padding, device=self.context.device)
        kept = []
        for row, answer in enumerate(logits):
            label = torch.as_tensor(features.labels[row])[None]
            mask = torch.ones(1, features.lengths[row], dtype=torch.int64)
            kept.append(task.distillation_rows(torch.from_numpy(answer)[None], mask, label))
        found: np.ndarray = torch.log_softmax(torch.cat(kept).double(), -1).numpy()
        return found


def _count(depth: int, wanted: int) -> int:
    """Return how many choices are looked at, at most."""
    if comb(depth, wanted) <= _ALL:
        return comb(depth, wanted)
    sizes = range(depth - 1, wanted - 1, -1)
    return 1 + sum(min(_BEAM * (size + 1), comb(depth, size)) for size in sizes)


def _take_away(depth: int, wanted: int, far: Callable[[Layers], float]) -> None:
    """Look at choices of ever fewer layers: each of the nearest of one depth, without one of its layers."""
    beam: list[Layers] = [tuple(range(depth))]
    for size in range(depth - 1, wanted - 1, -1):
        fewer = sorted({one for layers in beam for one in itertools.combinations(layers, size)})
        beam = sorted(fewer, key=lambda layers: (far(layers), layers))[:_BEAM]


def _drawn(frame: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Return rows drawn by the seed, in their order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(frame))[:most])
    return frame.iloc[chosen].reset_index(drop=True)


def _places(model: Any) -> Any:
    from compress.models.families import family

    return family(model.config.model_type).layer_list(model)
