"""Rows from the user's own files: csv, tsv, jsonl, parquet, or CoNLL columns."""

from __future__ import annotations

import hashlib
from pathlib import Path

from compress.config.schemas import FilesData
from compress.data.conll import SUFFIXES as CONLL
from compress.data.conll import read_conll
from compress.data.rows import TEXT, TOKENS, Raw, Row, check_file
from compress.data.tables import JSON_LINES, PARQUET, SEPARATED, read_table
from compress.errors import DataError

__all__ = ["content", "hash_file", "read"]

_TABLES = frozenset(SEPARATED) | JSON_LINES | PARQUET


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(config: FilesData, task: str) -> dict[str, str]:
    """Return what identifies the bytes to be read; checks the files on the way, without parsing them."""
    return {key: path.suffix.lower() + ":" + hash_file(path) for key, path in _files(config, task).items()}


def read(config: FilesData, task: str) -> Raw:
    """Read every file that the config names.

    Raises
    ------
    DataError
        Naming the file, the line or row, and what to change.
    """
    splits: dict[str, list[Row]] = {}
    origins: dict[str, str] = {}
    line_numbers = True
    for key, path in _files(config, task).items():
        origins[key] = str(path)
        suffix = path.suffix.lower()
        line_numbers &= suffix not in PARQUET
        if suffix in CONLL:
            splits[key] = read_conll(path, config.token_column, config.tag_column)
        else:
            columns = {"text": config.text, "text_pair": config.text_pair, "label": config.label}
            splits[key] = read_table(path, {name: column for name, column in columns.items() if column}, task)
        if not splits[key]:
            raise DataError(f"{path} has no rows (data.{key}); it needs at least one below the header")
    return Raw(splits, origins, unit="line" if line_numbers else "row")


def _files(config: FilesData, task: str) -> dict[str, Path]:
    used = [config.text, config.label] + ([config.text_pair] if config.text_pair else [])
    if len(set(used)) < len(used):
        raise DataError(
            f"data.text={config.text}, data.text_pair={config.text_pair}, data.label={config.label}: "
            f"each must be a column of its own"
        )
    if task == TOKENS and config.text_pair:
        raise DataError(
            f"data.text_pair={config.text_pair}: task={TOKENS} reads one sentence a row; remove data.text_pair"
        )
    found = {}
    for key, value in (("train", config.train), ("validation", config.validation), ("test", config.test)):
        if value is None:
            continue
        path = check_file(key, value, _TABLES | CONLL)
        suffix = path.suffix.lower()
        if task == TEXT and suffix in CONLL:
            raise DataError(
                f"data.{key}={value}: task={TEXT} cannot read CoNLL columns; "
                f"set task={TOKENS}, or give a {', '.join(sorted(_TABLES))} file"
            )
        if task == TOKENS and suffix in SEPARATED:
            raise DataError(
                f"data.{key}={value}: task={TOKENS} cannot read {suffix} files; give CoNLL columns "
                f"({', '.join(sorted(CONLL))}), or .jsonl or .parquet with lists of words and tags"
            )
        found[key] = path
    return found
