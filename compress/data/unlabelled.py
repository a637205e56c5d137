"""Texts without labels, for a teacher to answer on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.cleaning import normalise
from compress.data.conll import SUFFIXES as CONLL
from compress.data.conll import read_conll
from compress.data.files import hash_file
from compress.data.rows import check_file, decode
from compress.data.tables import JSON_LINES, PARQUET, SEPARATED, read_columns
from compress.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from compress.data.base import Data

__all__ = ["check_unlabelled", "read_unlabelled", "unlabelled_file"]

_LINES = frozenset({".txt"})
_TABLES = frozenset(SEPARATED) | JSON_LINES | PARQUET


def check_unlabelled(value: str, node: str) -> Path:
    """Return the file that a key ``unlabelled`` names, which is not read.

    Raises
    ------
    DataError
        If it is missing, empty or of another kind.
    """
    return check_file("unlabelled", value, _LINES | _TABLES | CONLL, node)


def unlabelled_file(value: str, node: str) -> tuple[Path, str]:
    """Return the file that a key ``unlabelled`` names, and the SHA-256 of its bytes.

    Raises
    ------
    DataError
        If it is missing, empty or of another kind.
    """
    path = check_unlabelled(value, node)
    return path, hash_file(path)


def read_unlabelled(value: str, node: str, data: Data) -> list[Any]:
    """Return texts, pairs of texts or lists of words, cleaned as labelled rows are; none of train or validation.

    Parameters
    ----------
    value
        A ``.txt`` file with a text on each line, a table (csv, tsv, jsonl, parquet) with a column ``text`` (and
        ``text_pair``, where the data has pairs), or CoNLL columns, of which the first is read.
    node
        The config node whose ``unlabelled`` it is, for messages.
    data
        The labelled rows.

    Raises
    ------
    DataError
        If no text is left.
    """
    path, _ = unlabelled_file(value, node)
    words = path.suffix.lower() in CONLL
    pairs = "text_pair" in data.train.columns
    found = _read(path, pairs, f"{node}.unlabelled={value}")
    seen = {_key(row) for frame in (data.train, data.validation) for row in _rows(frame)}
    kept: list[tuple[str, ...]] = []
    for parts in found:
        row = tuple(text for text, _ in map(normalise, parts))
        if words:
            row = tuple(filter(None, row))
        if row and all(row) and _key(row) not in seen:
            seen.add(_key(row))
            kept.append(row)
    if not kept:
        raise DataError(
            f"{node}.unlabelled={value}: none of its {len(found)} texts is left beside empty ones and those that train "
            f"and validation have"
        )
    return [list(row) for row in kept] if words else kept if pairs else [row[0] for row in kept]


def _read(path: Path, pairs: bool, asked: str) -> list[tuple[str, ...]]:
    """Return the parts of each row of a file, as they stand there."""
    suffix = path.suffix.lower()
    if pairs and suffix not in _TABLES:
        raise DataError(
            f"{asked}: the data has pairs of texts; give a table with the columns text and text_pair "
            f"({', '.join(sorted(_TABLES))})"
        )
    if suffix in CONLL:
        return [tuple(row.inputs) for row in read_conll(path, 0, -1)]
    if suffix in _LINES:
        return [(line,) for line in decode(path.read_bytes(), str(path)).splitlines()]
    names = ["text", "text_pair"] if pairs else ["text"]
    unit, rows = read_columns(path, {name: name for name in names})
    for number, values in rows:
        for name, value in zip(names, values, strict=True):
            if value is not None and not isinstance(value, str):
                raise DataError(f"{path}, {unit} {number}: the column {name} holds a {type(value).__name__}, not text")
    return [tuple(value or "" for value in values) for _, values in rows]


def _rows(frame: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    if "tokens" in frame.columns:
        yield from map(tuple, frame["tokens"])
    else:
        names = [name for name in ("text", "text_pair") if name in frame.columns]
        yield from frame[names].itertuples(index=False, name=None)


def _key(row: Sequence[str]) -> str:
    return " ".join(row).casefold()
