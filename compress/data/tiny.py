"""A few dozen generated rows of either task, the same on every machine: for tests and newcomers."""

from __future__ import annotations

from collections.abc import Iterator

from compress.config.schemas import TinyData
from compress.data.rows import TOKENS, Raw, Row

__all__ = ["content", "read"]

_TOPICS = {
    "food": ("soup", "bread", "cheese", "apple", "dinner", "salad"),
    "travel": ("train", "airport", "ticket", "hotel", "journey", "bridge"),
    "weather": ("rain", "storm", "sunshine", "cloud", "snow", "wind"),
}
_OPENINGS = ("today", "yesterday", "this week", "last month", "again", "as always", "for once")
_VERBS = ("we liked", "they forgot", "she described", "he missed", "you praised")
_ENDINGS = ("near the river", "with friends", "at noon", "before work", "all day", "in spring", "at home", "by chance")

_PEOPLE = ("Anna", "Boris", "Clara", "David", "Emma", "Felix")
_FAMILIES = ("Keller", "Lopez", "Mason", "Novak")
_PLACES = ("Berlin", "Lima", "Oslo", "Porto", "Turin")
_ACTIONS = ("visited", "left", "reached", "remembered", "painted", "praised", "mapped")


def content(config: TinyData, task: str) -> dict[str, str]:
    """Return what identifies the rows beyond the config: nothing, they are made by this module."""
    return {}


def read(config: TinyData, task: str) -> Raw:
    """Generate ``config.rows`` distinct rows; every word of a topic or name decides its label."""
    make = _sentences() if task == TOKENS else _texts()
    rows = [Row(number, *next(make)) for number in range(1, config.rows + 1)]
    return Raw({"train": rows}, {"train": "tiny"})


def _texts() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    topics = list(_TOPICS)
    index = 0
    while True:
        topic = topics[index % 3]
        word = _TOPICS[topic][index // 3 % 6]
        text = f"{_OPENINGS[index % 7]} {_VERBS[index % 5]} the {word} {_ENDINGS[index % 8]} number {index}"
        yield (text,), (topic,)
        index += 1


def _sentences() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    index = 0
    while True:
        words = [*_OPENINGS[index % 7].split(), _PEOPLE[index % 6]]
        tags = ["O"] * (len(words) - 1) + ["B-PER"]
        if index % 3:
            words.append(_FAMILIES[index % 4])
            tags.append("I-PER")
        words += [_ACTIONS[index // 7 % 7], _PLACES[index % 5], "number", str(index)]
        tags += ["O", "B-LOC", "O", "O"]
        yield tuple(words), tuple(tags)
        index += 1
