"""The distillation loss of a batch: the terms that a config weighs, summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from compress.config.training import Taught
from compress.tasks.base import IGNORED, Task
from compress.training.distillation import losses
from compress.training.distillation.entries import ANSWERED, GOLD, LOGITS, MATCHED, PARTNER, SHARE, part_name
from compress.training.distillation.inside import EMBEDDINGS, PROJECTIONS, Part, Probe
from compress.training.distillation.layer_maps import Matching

if TYPE_CHECKING:
    from compress.training.distillation.live import LiveTeacher

__all__ = ["DistillationLoss", "Projections", "Sizes", "mixed"]


class Projections(torch.nn.Module):
    """Learned linear maps from a student's hidden states to its teacher's width, thrown away after training.

    TinyBERT (arXiv 1909.10351), equations 8 and 9. There are none where the widths are equal.

    Parameters
    ----------
    layers
        Of the student, counted from 0, `EMBEDDINGS` among them.
    student, teacher
        Widths.
    """

    def __init__(self, layers: list[int], student: int, teacher: int) -> None:
        super().__init__()
        needed = layers if student != teacher else []
        self.maps = torch.nn.ModuleDict({str(layer): torch.nn.Linear(student, teacher, bias=False) for layer in needed})

    def forward(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """Return the states of a layer at the teacher's width, float32."""
        name = str(layer)
        projected: torch.Tensor = self.maps[name](states.float()) if name in self.maps else states.float()
        return projected


@dataclass(frozen=True)
class Sizes:
    """Heads that attention terms compare.

    Attributes
    ----------
    student, teacher : tuple of int
        Attention heads of each layer.
    relations : int
        Relation heads.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    relations: int = 1


class DistillationLoss:
    """The loss of a batch: ``sum of weight x term`` over the terms whose weight is not 0.

    Parameters
    ----------
    task
        Says which logits are compared, and what the labels cost.
    config
        The weights.
    student
        The model in training; its `Projections` are its submodule ``distillation``.
    matching
        Which parts are compared.
    sizes
        Heads, for attention terms.
    live
        Answers rows that the batch has no outputs for.
    """

    def __init__(
        self,
        task: Task,
        config: Taught,
        student: Any,
        matching: Matching,
        sizes: Sizes | None = None,
        live: LiveTeacher | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self.student = student
        self.matching = matching
        self.sizes = sizes
        self.live = live
        self.probe = Probe(student, matching.student)
        weights = config.weights
        self.asks_logits = weights.logits > 0 or weights.logits_mse > 0 or weights.decoupled > 0

    def close(self) -> None:
        """Leave the student as it was."""
        self.probe.close()

    def answered(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch with the answers of live teachers in it, so that several losses of one batch ask them once."""
        if self.live is None:
            return dict(batch)
        rows = torch.ones_like(batch["attention_mask"][:, 0], dtype=torch.bool)
        return {**batch, **self.live.answers(batch, _inputs(batch)), ANSWERED: rows}

    def __call__(self, model: Any, batch: Mapping[str, Any], progress: float) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar.

        Parameters
        ----------
        model
            The student, or what wraps it for several processes.
        batch
            Inputs, ``labels`` and the entries that this package names, on the student's device.
        progress
            Share of the updates that are done, 0 to 1.
        """
        known = dict(batch)
        inputs = _inputs(known)
        if self.live is not None:
            known.update(self.live.answers(known, inputs))
        if SHARE in known:
            inputs = mixed(inputs, known, self.student.get_input_embeddings())
        twice = self.config.weights.rdrop > 0 and model.training
        if twice:
            inputs = {name: torch.cat([value, value]) for name, value in inputs.items()}
            known = {name: torch.cat([value, value]) for name, value in known.items()}
        logits, inside = self.probe(model, inputs)
        terms = [
            *self._of_labels(logits, known, progress),
            *self._of_logits(logits, known),
            *self._of_hidden(inside, known),
            *self._of_attention(inside, known),
        ]
        if twice:
            first, second = self._rows(logits, known).chunk(2)
            terms.append(self.config.weights.rdrop * losses.symmetric_divergence(first, second))
        return torch.stack(terms).sum()

    def _rows(self, logits: torch.Tensor, known: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits that are compared, ``[rows, classes]``."""
        return self.task.distillation_rows(logits, known["attention_mask"], _judged(known))

    def _of_labels(self, logits: torch.Tensor, known: Mapping[str, torch.Tensor], progress: float) -> Any:
        weights = self.config.weights
        end = weights.task if weights.task_end is None else weights.task_end
        weight = weights.task + (end - weights.task) * progress
        if weights.task == 0 and end == 0:
            return
        gold = known.get(GOLD)
        if gold is None or bool(gold.all()):
            yield weight * self.task.loss(logits, known["labels"])
        elif bool(gold.any()):
            yield weight * self.task.loss(logits[gold], known["labels"][gold])

    def _of_logits(self, logits: torch.Tensor, known: Mapping[str, torch.Tensor]) -> Any:
        weights, config = self.config.weights, self.config
        yield logits.sum() * 0  # so that a batch in which no term has a part gives a loss too
        if not self.asks_logits:
            return
        answer, target = self._rows(logits, known), self._rows(known[LOGITS], known)
        if weights.logits > 0:
            yield weights.logits * losses.logits_loss(answer, target, config.temperature)
        if weights.logits_mse > 0:
            yield weights.logits_mse * losses.logits_mse_loss(answer, target)
        if weights.decoupled > 0:
            yield weights.decoupled * losses.decoupled_loss(
                answer,
                target,
                self._targets(target, known),
                config.temperature,
                alpha=config.decoupled.alpha,
                beta=config.decoupled.beta,
            )

    def _targets(self, teacher: torch.Tensor, known: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the class of each compared row: the gold label, or the teacher's where there is none."""
        labels, judged = known["labels"], _judged(known)
        gold = known.get(GOLD)
        has = torch.ones(len(labels), dtype=torch.bool, device=labels.device) if gold is None else gold
        if labels.dim() == 2:
            units = judged != IGNORED
            labels, has = labels[units], has[:, None].expand_as(units)[units]
        return torch.where(has, labels, teacher.argmax(-1))

    def _projected(self, layer: int, inside: Mapping[Part, torch.Tensor]) -> torch.Tensor:
        projected: torch.Tensor = self.student.distillation(layer, inside["hidden", layer])
        return projected

    def _of_hidden(self, inside: Mapping[Part, torch.Tensor], known: Mapping[str, torch.Tensor]) -> Any:
        weights, mask = self.config.weights, known["attention_mask"]
        if weights.hidden > 0 or weights.tokens > 0 or weights.cosine > 0:
            theirs = torch.stack([known[part_name(("hidden", layer))] for _, layer in self.matching.layers], 1).float()
            ours = self._mapped(inside, theirs, mask)
            if weights.hidden > 0:
                yield weights.hidden * losses.hidden_loss(ours, theirs, mask)
            if weights.tokens > 0:
                yield weights.tokens * losses.token_loss(ours, theirs, mask)
            if weights.cosine > 0:
                yield weights.cosine * losses.cosine_loss(ours, theirs, mask)
        if weights.embeddings > 0:
            states = known[part_name(("hidden", EMBEDDINGS))][:, None].float()
            yield weights.embeddings * losses.hidden_loss([self._projected(EMBEDDINGS, inside)], states, mask)
        if weights.contrastive > 0:
            ours_last, theirs_last = self.matching.student_last, self.matching.teacher_last
            texts = losses.mean_over_tokens(self._projected(ours_last, inside), mask)
            target = losses.mean_over_tokens(known[part_name(("hidden", theirs_last))].float(), mask)
            yield weights.contrastive * losses.contrastive_loss(texts, target, self.config.contrastive_temperature)

    def _mapped(
        self, inside: Mapping[Part, torch.Tensor], theirs: torch.Tensor, mask: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return the student's states that stand for each of the teacher's layers."""
        pairs = self.matching.layers
        if not self.matching.nearest:
            return [self._projected(layer, inside) for layer, _ in pairs]
        ours = [self._projected(layer, inside) for layer, _ in pairs]
        with torch.no_grad():
            apart = [[losses.hidden_loss([one], theirs[:, k : k + 1], mask) for one in ours] for k in range(len(pairs))]
            chosen = torch.stack([torch.stack(row) for row in apart]).argmin(1).tolist()
        return [ours[layer] for layer in chosen]

    def _of_attention(self, inside: Mapping[Part, torch.Tensor], known: Mapping[str, torch.Tensor]) -> Any:
        weights, mask = self.config.weights, known["attention_mask"]
        if weights.attention > 0 and self.sizes is not None:
            apart = []
            for layer, other in self.matching.layers:
                heads = self.sizes.student[layer]
                ours = {kind: inside[kind, layer].float() for kind in ("query", "key")}
                theirs = {kind: known[part_name((kind, other))].float() for kind in ("query", "key")}
                found, target = (losses.attention_scores(v["query"], v["key"], heads) for v in (ours, theirs))
                apart.append(losses.attention_score_loss(found, target, mask))
            yield weights.attention * torch.stack(apart).mean()
        if not (weights.minilm > 0 or weights.relations > 0):
            return
        layer, other = self.matching.relations
        ours_last = {kind: inside[kind, layer].float() for kind in PROJECTIONS}
        theirs_last = {kind: known[part_name((kind, other))].float() for kind in PROJECTIONS}
        if weights.minilm > 0 and self.sizes is not None:
            heads = self.sizes.student[layer]
            found, target = (losses.attention_scores(v["query"], v["key"], heads) for v in (ours_last, theirs_last))
            transfer = losses.attention_distribution_loss(found, target, mask)
            values = losses.relation_loss(ours_last["value"], theirs_last["value"], mask, heads)
            yield weights.minilm * (transfer + values)
        if weights.relations > 0 and self.sizes is not None:
            heads = self.sizes.relations
            each = [losses.relation_loss(ours_last[kind], theirs_last[kind], mask, heads) for kind in PROJECTIONS]
            yield weights.relations * torch.stack(each).mean()


def mixed(inputs: Mapping[str, Any], known: Mapping[str, Any], embedding: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a model's inputs with tokens mixed in pairs after the embedding (mixup, arXiv 1710.09412, equation 1).

    Parameters
    ----------
    inputs
        ``input_ids``, ``attention_mask`` and so on, ``[batch, sequence]``.
    known
        Has `PARTNER` and `SHARE`; a share of 1 leaves a row as it is.
    embedding
        The model's own table of tokens.
    """
    share, partner = known[SHARE], known[PARTNER]
    states = embedding(inputs["input_ids"])
    weight = share[:, None, None].to(states.dtype)
    mask = inputs["attention_mask"]
    seen = torch.where(share[:, None] < 1, torch.maximum(mask, mask[partner]), mask)
    rest = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    return {**rest, "inputs_embeds": weight * states + (1 - weight) * states[partner], "attention_mask": seen}


def _inputs(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a batch the model reads."""
    return {name: known[name] for name in known if name not in _NOT_INPUTS and not name.startswith("teacher_")}


def _judged(known: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the labels, `IGNORED` where a teacher of another tokenizer says nothing."""
    labels = known["labels"]
    return labels.masked_fill(~known[MATCHED], IGNORED) if MATCHED in known else labels


_NOT_INPUTS = frozenset({"labels", GOLD, PARTNER, SHARE})
