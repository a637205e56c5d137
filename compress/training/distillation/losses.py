"""The terms of the distillation loss, each a scalar mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compress.config.schemas import Taught
from compress.tasks.base import IGNORED, Task

if TYPE_CHECKING:
    import torch

__all__ = ["HIDDEN", "LOGITS", "MATCHED", "distillation_loss", "hidden_loss", "logits_loss"]

LOGITS = "teacher_logits"
"""Batch entry with the teacher's logits, padded as the student's: float32."""
HIDDEN = "teacher_hidden"
"""Batch entry with the teacher's hidden states: float16 ``[batch, layers, sequence, hidden]``."""
MATCHED = "teacher_matched"
"""Batch entry that says for which tokens a teacher of another tokenizer has logits: bool ``[batch, sequence]``."""


def logits_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``T^2 KL(softmax(t / T) || softmax(s / T))``, averaged over rows (Hinton et al., arXiv 1503.02531).

    ``T^2`` keeps the size of the gradient independent of the temperature. Of no rows it is 0.

    Parameters
    ----------
    student, teacher
        Logits ``[rows, classes]``.
    temperature
        Softens both distributions; above 0.
    """
    import torch.nn.functional as F

    if not len(student):
        return student.sum()
    answer = F.log_softmax(student.float() / temperature, dim=-1)
    target = F.log_softmax(teacher.float() / temperature, dim=-1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True) * temperature**2


def hidden_loss(student: Sequence[torch.Tensor], teacher: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean-squared error over layers, tokens that are no padding, and hidden units.

    Parameters
    ----------
    student
        Per layer ``[batch, sequence, hidden]``.
    teacher
        ``[batch, layers, sequence, hidden]``, the matched layers in the same order.
    attention_mask
        ``[batch, sequence]``, 1 for tokens and 0 for padding.
    """
    import torch

    answer = torch.stack([states.float() for states in student], dim=1)
    mask = attention_mask[:, None, :, None].to(answer.dtype)
    squared = ((answer - teacher.to(answer.dtype)) * mask).square()
    return squared.sum() / (attention_mask.sum() * answer.shape[1] * answer.shape[3])


def distillation_loss(task: Task, config: Taught) -> Callable[[Any, dict[str, Any], float], torch.Tensor]:
    """Return the loss of a batch.

    ``weights.task CE(labels) + weights.logits T^2 KL + weights.hidden MSE``; a term of weight 0 is not computed,
    and the batch need not hold what it compares with. Tokens that the batch says are not `MATCHED` have no part in the
    second term.
    """
    weights = config.weights
    not_inputs = {"labels", LOGITS, HIDDEN, MATCHED}

    def loss(model: Any, batch: dict[str, Any], progress: float) -> torch.Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name not in not_inputs}
        output = model(**inputs, output_hidden_states=weights.hidden > 0)
        logits, labels, mask = output.logits.float(), batch["labels"], batch["attention_mask"]
        terms: list[torch.Tensor] = []
        if weights.task > 0:
            terms.append(weights.task * task.loss(logits, labels))
        if weights.logits > 0:
            judged = labels.masked_fill(~batch[MATCHED], IGNORED) if MATCHED in batch else labels
            answer = task.distillation_rows(logits, mask, judged)
            target = task.distillation_rows(batch[LOGITS], mask, judged)
            terms.append(weights.logits * logits_loss(answer, target, config.temperature))
        if weights.hidden > 0:
            terms.append(weights.hidden * hidden_loss(output.hidden_states[1:], batch[HIDDEN], mask))
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    return loss
