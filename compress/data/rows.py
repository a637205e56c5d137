"""Rows as every source reads them, and what messages about rows, columns and files have in common."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from compress.errors import DataError

__all__ = [
    "TEXT",
    "TOKENS",
    "Raw",
    "Row",
    "check_file",
    "check_tags",
    "decode",
    "missing_column",
    "name_rows",
    "start_spans",
]

TEXT = "text_classification"
TOKENS = "token_classification"

_TAG = re.compile(r"O|[BI]-\S+")


class Row(NamedTuple):
    """One example.

    ``inputs`` is ``(text,)``, ``(text, text_pair)`` or the words of a sentence; ``targets`` is
    ``(label,)`` or one BIO tag per word; ``number`` is where it stands in its source, from 1.
    """

    number: int
    inputs: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass
class Raw:
    """What a source read, before cleaning.

    Attributes
    ----------
    splits : dict
        Rows of ``train`` and, where the source has them, ``validation`` and ``test``.
    origins : dict
        What a message calls each split: a file name or the name of a packaged dataset.
    unit : str
        What `Row.number` counts: ``line`` or ``row``.
    facts : dict
        What the source itself left out or mended, for the record.
    """

    splits: dict[str, list[Row]]
    origins: dict[str, str]
    unit: str = "row"
    facts: dict[str, Any] = field(default_factory=dict)


def name_rows(numbers: Sequence[int], unit: str = "row") -> str:
    """Return ``rows 3, 7, 12 and 5 more``."""
    shown = ", ".join(str(number) for number in numbers[:5])
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"{unit}{'s' if len(numbers) > 1 else ''} {shown}{more}"


def missing_column(origin: str, key: str, column: str, columns: Iterable[str]) -> DataError:
    """Return the error for a column that is not there: lists those that are, and the nearest."""
    known = [str(name) for name in columns]
    folded = {name.strip().casefold(): name for name in known}
    near = difflib.get_close_matches(column.strip().casefold(), folded, n=1, cutoff=0.6)
    hint = f"; did you mean data.{key}={folded[near[0]]!r}?" if near else f"; set data.{key} to one of them"
    return DataError(
        f"{origin}: no column {column!r} (data.{key}); its columns are {', '.join(map(repr, known))}{hint}"
    )


def check_file(key: str, value: str, suffixes: Collection[str] = (), node: str = "data") -> Path:
    """Return the path of a readable, non-empty file; `node` and `key` are what a message calls it.

    Raises
    ------
    DataError
        If nothing was given, or it is missing, a directory, of an unknown suffix, or empty.
    """
    if not value or value == "???":
        raise DataError(f"{node}.{key} is not set: give the file to read, as in {node}.{key}=rows.csv")
    path = Path(value).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(path.name, _siblings(path), n=1, cutoff=0.6)
        hint = (
            f"; did you mean {str(path.parent / near[0])!r}?" if near else "; check the path and the working directory"
        )
        raise DataError(f"{node}.{key}={value}: no such file{hint}")
    if path.is_dir():
        raise DataError(f"{node}.{key}={value} is a directory: name one file in it")
    if suffixes and path.suffix.lower() not in suffixes:
        shown = path.suffix or "none"
        raise DataError(
            f"{node}.{key}={value}: unsupported suffix ({shown}); readable are {', '.join(sorted(suffixes))}"
        )
    try:
        empty = path.stat().st_size == 0
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{node}.{key}={value} cannot be read: {error.strerror}") from error
    if empty:
        raise DataError(f"{node}.{key}={value} is empty: it has no rows to read")
    return path


def _siblings(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return []


def decode(raw: bytes, origin: str) -> str:
    """Return UTF-8 bytes (with or without a byte order mark) as text, or say where they are not UTF-8."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{origin}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; "
            f"save the file as UTF-8, for example with: iconv -f latin1 -t utf-8"
        ) from error


def check_tags(tags: Sequence[str], place: str) -> None:
    """Raise `DataError` for a tag that is neither O, B-TYPE nor I-TYPE."""
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise DataError(
                f"{place}: tag {tag!r} is not O, B-TYPE or I-TYPE; turn the tags into BIO, "
                f"or set data.tag_column / data.label to where the tags are"
            )


def start_spans(tags: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Turn IOB1 or I-only tags into BIO: a span starts with B. Returns the tags and how many were changed."""
    fixed: list[str] = []
    changed = 0
    previous = "O"
    for tag in tags:
        if tag.startswith("I-") and previous[2:] != tag[2:]:
            tag = "B-" + tag[2:]
            changed += 1
        fixed.append(tag)
        previous = tag
    return tuple(fixed), changed
