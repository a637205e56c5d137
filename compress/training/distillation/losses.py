"""The terms of the distillation loss: functions of tensors, each a scalar mean over what is no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = [
    "attention_distribution_loss",
    "attention_score_loss",
    "attention_scores",
    "contrastive_loss",
    "cosine_loss",
    "decoupled_loss",
    "hidden_loss",
    "logits_loss",
    "logits_mse_loss",
    "mean_over_tokens",
    "relation_loss",
    "symmetric_divergence",
    "token_loss",
]

_FAR = -1e9
"""Score of a padded token, which no softmax then sees."""


# --- logits -----------------------------------------------------------------------------------


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
    answer = F.log_softmax(student / temperature, dim=-1)
    target = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True) * temperature**2


def logits_mse_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean-squared error of logits ``[rows, classes]`` (Ba & Caruana, arXiv 1312.6184, equation 1).

    A constant added to all logits of a row changes no probability, so each row's mean is taken off first. Of no rows
    it is 0.
    """
    if not len(student):
        return student.sum()
    difference = student - teacher
    return (difference - difference.mean(dim=-1, keepdim=True)).square().mean()


def decoupled_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    target: torch.Tensor,
    temperature: float,
    *,
    alpha: float,
    beta: float,
) -> torch.Tensor:
    """Return ``T^2 (alpha TCKD + beta NCKD)``, averaged over rows (Zhao et al., arXiv 2203.08679, equation 7).

    TCKD is the divergence of the two probabilities (target class, all others together), NCKD that of the others among
    themselves. Where every class but one is left out NCKD is 0: of two classes it is always 0. Of no rows it is 0.

    Parameters
    ----------
    student, teacher
        Logits ``[rows, classes]``.
    target
        The target class of each row, ``[rows]``: the gold label, or where there is none the teacher's answer.
    temperature
        Softens both distributions; above 0.
    alpha, beta
        Weights of the two parts.
    """
    import torch
    import torch.nn.functional as F

    if not len(student):
        return student.sum()
    chosen = F.one_hot(target, student.shape[-1]).bool()

    def parts(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = logits / temperature
        whole = torch.logsumexp(scores, dim=-1)
        of_others = torch.logsumexp(scores.masked_fill(chosen, _FAR), dim=-1)
        pair = torch.stack([scores.masked_fill(~chosen, 0).sum(-1) - whole, of_others - whole], dim=-1)
        among = F.log_softmax(scores.masked_fill(chosen, _FAR), dim=-1)
        return pair, among

    answer_pair, answer_among = parts(student)
    target_pair, target_among = parts(teacher)
    of_target = F.kl_div(answer_pair, target_pair, reduction="batchmean", log_target=True)
    of_others = F.kl_div(answer_among, target_among, reduction="none", log_target=True).masked_fill(chosen, 0)
    return (alpha * of_target + beta * of_others.sum(-1).mean()) * temperature**2


def symmetric_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return ``(KL(p || q) + KL(q || p)) / 2`` of logits ``[rows, classes]``, averaged over rows.

    The consistency of two passes that differ by dropout (R-Drop, Liang et al., arXiv 2106.14448, equation 1).
    """
    return (logits_loss(first, second, 1.0) + logits_loss(second, first, 1.0)) / 2


# --- hidden states ----------------------------------------------------------------------------


def hidden_loss(student: Sequence[torch.Tensor], teacher: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean-squared error over layers, tokens and hidden units (TinyBERT, arXiv 1909.10351, equation 8).

    Parameters
    ----------
    student
        Per layer ``[batch, sequence, hidden]``, projected to the teacher's width where theirs differ.
    teacher
        ``[batch, layers, sequence, hidden]``, the matched layers in the same order.
    attention_mask
        ``[batch, sequence]``, 1 for tokens and 0 for padding.
    """
    squared, tokens = _squared_distances(student, teacher, attention_mask)
    return squared.sum() / (tokens * squared.shape[1] * student[0].shape[-1])


def token_loss(student: Sequence[torch.Tensor], teacher: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distance of each token's states, averaged over layers and tokens.

    Token-wise distillation of ZipLM (Kurtic et al., arXiv 2302.04089, section 4). A distance and not its square:
    tokens that are far off count no more than their distance. Relative to the square root of the width, so that its
    size does not depend on that. Parameters as of `hidden_loss`.
    """
    squared, tokens = _squared_distances(student, teacher, attention_mask)
    # Below the noise of half precision a distance has no direction, and the square root no gradient.
    distance = (squared / student[0].shape[-1] + 1e-12).sqrt() * attention_mask[:, None, :]
    return distance.sum() / (tokens * squared.shape[1])


def cosine_loss(student: Sequence[torch.Tensor], teacher: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return ``1 - cos(s, t)`` averaged over layers and tokens (DistilBERT, Sanh et al., arXiv 1910.01108).

    Parameters as of `hidden_loss`.
    """
    import torch
    import torch.nn.functional as F

    answer = torch.stack(list(student), dim=1)
    apart = 1 - F.cosine_similarity(answer, teacher.to(answer.dtype), dim=-1)
    mask = attention_mask[:, None, :].to(apart.dtype)
    return (apart * mask).sum() / (attention_mask.sum() * apart.shape[1])


def mean_over_tokens(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``[batch, sequence, hidden]`` over tokens that are no padding, ``[batch, hidden]``."""
    mask = attention_mask[..., None].to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1).clamp_min(1)


def contrastive_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``-log(exp(cos(s_i, t_i) / T) / sum_j exp(cos(s_i, t_j) / T))``, averaged over rows i.

    InfoNCE (van den Oord et al., arXiv 1807.03748, equation 4) between representations of student and teacher, the
    other texts of the batch as negatives, as in contrastive distillation (CoDIR, Sun et al., arXiv 2009.14167).

    Parameters
    ----------
    student, teacher
        One representation per text, ``[batch, hidden]``.
    temperature
        Of the similarities; above 0.
    """
    import torch
    import torch.nn.functional as F

    similarity = F.normalize(student, dim=-1) @ F.normalize(teacher.to(student.dtype), dim=-1).T
    return F.cross_entropy(similarity / temperature, torch.arange(len(student), device=student.device))


# --- attention --------------------------------------------------------------------------------


def attention_scores(queries: torch.Tensor, keys: torch.Tensor, heads: int) -> torch.Tensor:
    """Return ``q k^T / sqrt(d)`` before the softmax, ``[batch, heads, sequence, sequence]``.

    Parameters
    ----------
    queries, keys
        ``[batch, sequence, heads * d]``.
    heads
        How many heads the width is cut into; any number that divides it.
    """
    asking, asked = (value.view(*value.shape[:2], heads, -1).transpose(1, 2) for value in (queries, keys))
    scores: torch.Tensor = asking @ asked.transpose(-1, -2) / asking.shape[-1] ** 0.5
    return scores


def attention_score_loss(student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean-squared error of attention scores before the softmax (TinyBERT, arXiv 1909.10351, equation 7).

    Over heads and pairs of tokens neither of which is padding.

    Parameters
    ----------
    student, teacher
        ``[batch, heads, sequence, sequence]``.
    attention_mask
        ``[batch, sequence]``.
    """
    mask = attention_mask.to(student.dtype)
    pairs = mask[:, None, :, None] * mask[:, None, None, :]
    return ((student - teacher) * pairs).square().sum() / (pairs.sum() * student.shape[1])


def attention_distribution_loss(
    student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return ``KL(softmax(t) || softmax(s))`` of scores, averaged over heads and tokens that attend.

    Between attention distributions it is the attention transfer of MiniLM (Wang et al., arXiv 2002.10957, equation 6).
    Parameters as of `attention_score_loss`.
    """
    import torch.nn.functional as F

    seen = attention_mask[:, None, None, :].bool()
    answer = F.log_softmax(student.masked_fill(~seen, _FAR), dim=-1)
    target = F.log_softmax(teacher.masked_fill(~seen, _FAR), dim=-1)
    apart = F.kl_div(answer, target, reduction="none", log_target=True).masked_fill(~seen, 0).sum(-1)
    attends = attention_mask[:, None, :].to(apart.dtype)
    return (apart * attends).sum() / (attends.sum() * apart.shape[1])


def relation_loss(
    student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor, heads: int
) -> torch.Tensor:
    """Return the divergence of relations ``softmax(x x^T / sqrt(d))``, averaged over relation heads and tokens.

    With values and the model's own heads it is the value-relation transfer of MiniLM (arXiv 2002.10957, equations 7 and
    8); with queries, keys and values, each cut into as many relation heads on both sides, MiniLMv2 (Wang et al., arXiv
    2012.15828, equations 5 to 7). Widths may differ, `heads` must divide both.

    Parameters
    ----------
    student, teacher
        Queries, keys or values, ``[batch, sequence, width]``.
    attention_mask
        ``[batch, sequence]``.
    heads
        Relation heads.
    """
    return attention_distribution_loss(
        attention_scores(student, student, heads), attention_scores(teacher, teacher, heads), attention_mask
    )


def _squared_distances(
    student: Sequence[torch.Tensor], teacher: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distances ``[batch, layers, sequence]``, 0 at padding, and the number of tokens."""
    import torch

    answer = torch.stack(list(student), dim=1)
    squared = (answer - teacher.to(answer.dtype)).square().sum(-1)
    return squared * attention_mask[:, None, :].to(answer.dtype), attention_mask.sum()
