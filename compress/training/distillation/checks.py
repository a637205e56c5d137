"""What a teacher cannot teach, said before any work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.errors import ConfigError
from compress.training.distillation.layer_maps import Matching, asks_inside, matching

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.training import Taught
    from compress.models.structure import Structure

__all__ = [
    "asks_inside",
    "asks_teacher",
    "check_attention",
    "check_teacher",
    "check_terms",
    "reads_alike",
    "relation_heads",
    "structure_at",
    "tokenizer_digest",
]

_ANSWERS = ("task", "task_end", "logits", "logits_mse", "decoupled")
_INSIDE = ("hidden", "embeddings", "tokens", "cosine", "attention", "minilm", "relations", "contrastive")


def asks_teacher(config: Taught) -> bool:
    """Return whether the loss has a term that a teacher is needed for."""
    weights = config.weights
    return weights.logits > 0 or weights.logits_mse > 0 or weights.decoupled > 0 or asks_inside(config)


def check_terms(config: Taught, where: str) -> None:
    """Refuse a loss without terms, rows that nobody answers, files that are not there, options that nothing reads.

    Parameters
    ----------
    config
        The terms.
    where
        Its node, for messages: ``distill``.
    """
    from compress.data.unlabelled import check_unlabelled

    weights = config.weights
    if not any(getattr(weights, name) for name in (*_ANSWERS, *_INSIDE)):
        raise ConfigError(
            "weights: task, logits and all others are 0, so there is nothing to learn from; set one of them above 0 "
            "(rdrop alone compares the student with itself)"
        )
    taught = asks_teacher(config)
    if config.unlabelled is not None and not taught:
        raise ConfigError(
            f"unlabelled={config.unlabelled}: no term of the loss asks a teacher, who alone could label these texts; "
            f"set weights.logits above 0, or leave unlabelled out"
        )
    if config.unlabelled is not None:
        check_unlabelled(config.unlabelled, where)
    if config.augment.share > 0 and not taught:
        raise ConfigError(
            f"augment.share={config.augment.share:g}: no term of the loss asks a teacher, who alone could say what "
            f"changed rows mean; set weights.logits above 0, or augment.share=0"
        )
    if config.teacher_layers is not None and config.layer_map != "uniform":
        raise ConfigError(
            f"teacher_layers={list(config.teacher_layers)} lists the layers that layer_map={config.layer_map} would "
            f"choose; set one of the two"
        )


def check_teacher(
    teacher: Checkpoint,
    source: Checkpoint,
    config: Taught,
    labels: Sequence[str],
    *,
    layers: int,
    named: str,
    where: str,
    several: bool = False,
) -> None:
    """Refuse, before any work, a teacher that cannot teach a student.

    Parameters
    ----------
    teacher
        Its checkpoint.
    source
        The checkpoint whose tokenizer the student has.
    config
        The terms of the loss.
    labels
        The task's.
    layers
        The student's.
    named
        The key that names the teacher, and its value, for messages: ``distill.teacher=finetune``.
    where
        The node of `config`, for messages: ``distill``.
    several
        Whether it is one of several.
    """
    if not asks_teacher(config):
        return
    if teacher.format != "torch" or teacher.precision != "fp32":
        raise ConfigError(
            f"{named}: its checkpoint is {teacher.format} {teacher.precision}; "
            f"a teacher must be a torch fp32 checkpoint, such as that of finetune"
        )
    if tuple(teacher.labels) != tuple(labels):
        raise ConfigError(
            f"{named}: its labels are {list(teacher.labels)[:8]}, the task's are "
            f"{list(labels)[:8]}; a teacher must know the same labels in the same order"
        )
    if several and asks_inside(config):
        raise ConfigError(
            f"{where}.weights.{_inside_term(config)}: several teachers agree on logits only, not on what is inside "
            f"them; name one teacher, or leave that weight at 0"
        )
    if not reads_alike(teacher, source):
        _check_tokens(config, named.partition("=")[2], where, several)
    matching(config, layers, teacher.layers)


def _inside_term(config: Taught) -> str:
    """Return the first term about the inside of models, as ``hidden=0.5``."""
    name = next(name for name in _INSIDE if getattr(config.weights, name) > 0)
    return f"{name}={getattr(config.weights, name):g}"


def _check_tokens(config: Taught, teacher: str, where: str, several: bool) -> None:
    """Refuse what needs the same tokens on both sides."""
    other = f"the tokenizer of the teacher {teacher} is not the student's"
    if asks_inside(config):
        raise ConfigError(
            f"{where}.weights.{_inside_term(config)}: {other}, so states cannot be matched token by token; leave that "
            f"weight at 0 and learn from logits, or choose a teacher of the same tokenizer"
        )
    if config.augment.share > 0:
        raise ConfigError(
            f"{where}.augment.share={config.augment.share:g}: {other}, so it cannot read what is changed token by "
            f"token; set augment.share=0, or choose a teacher of the same tokenizer"
        )
    if several:
        raise ConfigError(f"{where}.teachers: {other}; several teachers must have the student's tokenizer")


def check_attention(
    student_type: str,
    teacher_type: str,
    student: Structure,
    teacher: Structure,
    matched: Matching,
    config: Taught,
    where: str,
) -> None:
    """Refuse terms about attention that the two models cannot serve.

    Parameters
    ----------
    student_type, teacher_type
        Their ``model_type``.
    student, teacher
        Their sizes.
    matched
        What is compared with what.
    config, where
        As of `check_teacher`.
    """
    weights = config.weights
    pairs = [*(matched.layers if weights.attention > 0 else ()), *([matched.relations] if weights.minilm > 0 else ())]
    term = "attention" if weights.attention > 0 else "minilm"
    for side, kind in (("student", student_type), ("teacher", teacher_type)) if pairs else ():
        if reason := _no_scores(kind):
            raise ConfigError(
                f"{where}.weights.{term}={getattr(weights, term):g}: the {side} is a {kind} model, whose attention "
                f"{reason}; use weights.relations, which compares queries, keys and values themselves"
            )
    for ours, theirs in pairs:
        if student.heads[ours] != teacher.heads[theirs]:
            raise ConfigError(
                f"{where}.weights.{term}={getattr(weights, term):g}: layer {ours} of the student has "
                f"{student.heads[ours]} heads, layer {theirs} of the teacher {teacher.heads[theirs]}, and attention is "
                f"compared head by head; use weights.relations, for which they need not be equal"
            )


def relation_heads(student: Structure, teacher: Structure, matched: Matching, config: Taught, where: str) -> int:
    """Return how many relation heads queries, keys and values are cut into.

    Raises
    ------
    ConfigError
        The number that is asked for does not divide a width.
    """
    widths = {}
    for side, sizes, layer in (("student", student, matched.relations[0]), ("teacher", teacher, matched.relations[1])):
        size = sizes.head_size or sizes.hidden_size // sizes.heads[layer]
        for count in (sizes.heads[layer], sizes.key_value_heads_or_heads[layer]):
            widths[count * size] = f"layer {layer} of the {side} has {count} heads of {size}"
    heads = config.relations.heads
    if heads is None:
        most = teacher.heads[matched.relations[1]]
        return max(number for number in range(1, most + 1) if not any(width % number for width in widths))
    for width, whose in widths.items():
        if width % heads:
            raise ConfigError(
                f"{where}.relations.heads={heads}: {whose}, {width} wide, which cannot be cut into {heads} relation "
                f"heads; choose a divisor of it, or null"
            )
    return heads


def _no_scores(kind: str) -> str | None:
    """Return why attention scores do not follow from queries and keys alone; None where they do."""
    from compress.models.families import family

    places = family(kind)
    if places.head_bias is not None:
        return "adds a bias by position"
    if places.config_key_value_heads is not None:
        return "rotates queries and keys by position"
    return None


def structure_at(checkpoint: Checkpoint) -> Structure:
    """Return the sizes of a torch checkpoint's model, from its files."""
    from compress.models.families import family
    from compress.models.structure import Structure, read_structure

    known = read_structure(checkpoint.path / "structure.json")
    if known is not None:
        return known
    places = family(checkpoint.architecture)
    content = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    layers = int(content[places.config_layers])
    return Structure(
        layers,
        (int(content[places.config_heads]),) * layers,
        (int(content[places.config_intermediate]),) * layers,
        int(content[places.config_hidden]),
    )


def reads_alike(teacher: Checkpoint, source: Checkpoint) -> bool:
    """Whether two checkpoints split every text into the same tokens, numbered alike."""
    return teacher.digest == source.digest or tokenizer_digest(teacher) == tokenizer_digest(source)


def tokenizer_digest(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of its tokenizer.json."""
    return str(checkpoint.manifest.files["tokenizer.json"])
