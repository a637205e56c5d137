"""Schemas of the student that `distill` trains: which of its source's parts it has, or what else it is made from."""

from __future__ import annotations

from dataclasses import dataclass

from compress.config.options import option

__all__ = ["Student", "StudentSearch"]


@dataclass
class StudentSearch:
    """How layer_choice=search looks for layers."""

    candidates: int = option(4, "choices of layers that are trained for a while, uniform among them", minimum=1)
    updates: int = option(100, "updates that each of them is trained for at most", minimum=1)
    rows: int = option(256, "validation rows on which choices are ranked before any is trained", minimum=1)


@dataclass
class Student:
    """The student's architecture and where its weights come from."""

    layers: int | None = option(3, "transformer layers of the student; null keeps all of its source's", minimum=1)
    initialise_from: list[int] | None = option(
        None, "teacher layers copied into the student, in order; null picks by layer_choice", minimum=0
    )
    layer_choice: str = option(
        "uniform",
        "which teacher layers where none are listed; search ranks choices by the source's logits and trains the best",
        choices=["uniform", "first", "last", "search"],
    )
    search: StudentSearch = option(StudentSearch(), "how layer_choice=search looks")
    # A share fits any model, debug=tiny's too.
    hidden: float | None = option(
        None, "hidden width of the student; below 1 a share of the source's; null keeps it", above=0
    )
    heads: float | None = option(
        None, "attention heads of each layer; below 1 a share of the source's; null keeps them", above=0
    )
    neurons: float | None = option(
        None, "feed-forward width of each layer; below 1 a share of the source's; null keeps it", above=0
    )
    narrow: str = option(
        "pruned",
        "how weights fit a smaller hidden width: pruned keeps the units that matter most, svd projects onto the "
        "principal directions; heads and neurons are pruned",
        choices=["pruned", "svd"],
    )
    # Its content is in the key (DistillStep.resolve), wherever it lies.
    path: str | None = option(
        None,
        "a Hugging Face checkpoint of the source's tokenizer to begin from, under a fresh head; set layers=null too",
        in_key=False,
    )
    fresh: bool = option(False, "random weights in the source's architecture, of layers, hidden, heads and neurons")
