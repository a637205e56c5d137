"""Columns of csv, tsv, jsonl and parquet files, as strings or lists of strings."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.data.rows import TOKENS, Row, check_tags, decode, missing_column
from compress.errors import DataError, MachineError

__all__ = ["JSON_LINES", "PARQUET", "SEPARATED", "as_row", "read_columns", "read_table"]

SEPARATED = {".csv": ",", ".tsv": "\t"}
JSON_LINES = frozenset({".jsonl", ".ndjson"})
PARQUET = frozenset({".parquet", ".pq"})

_Numbered = list[tuple[int, list[Any]]]


def read_table(path: Path, columns: dict[str, str], task: str) -> list[Row]:
    """Read rows of the wanted columns.

    Parameters
    ----------
    path
        A file whose suffix is in `SEPARATED`, `JSON_LINES` or `PARQUET`.
    columns
        Config key to column name, inputs first and ``label`` last.
    task
        Name of the task; for token classification both columns hold lists of strings.
    """
    unit, found = read_columns(path, columns)
    return [as_row(number, values, list(columns), task, f"{path}, {unit} {number}") for number, values in found]


def read_columns(path: Path, columns: dict[str, str]) -> tuple[str, list[tuple[int, list[Any]]]]:
    """Return the values of the wanted columns as they are: what numbers count (``line``, ``row``), and the rows."""
    suffix = path.suffix.lower()
    if suffix in SEPARATED:
        return "line", _separated(path, SEPARATED[suffix], columns)
    if suffix in JSON_LINES:
        return "line", _json_lines(path, columns)
    return "row", _parquet(path, columns)


def as_row(number: int, values: Sequence[Any], keys: Sequence[str], task: str, place: str) -> Row:
    """Return a row from the values of its columns, label last; `place` is what an error calls it."""
    if task == TOKENS:
        words = _words(values[0], keys[0], place)
        tags = _words(values[-1], keys[-1], place)
        if len(words) != len(tags):
            raise DataError(f"{place}: {len(words)} tokens but {len(tags)} tags; there must be one tag per token")
        check_tags(tags, place)
        return Row(number, words, tags)
    texts = tuple(_text(value, key, place) for value, key in zip(values, keys, strict=True))
    return Row(number, texts[:-1], texts[-1:])


def _text(value: Any, key: str, place: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | bytes | tuple | set):
        raise DataError(f"{place}: data.{key} holds a {type(value).__name__}, not text; choose another column")
    return str(value)


def _words(value: Any, key: str, place: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(
            f"{place}: data.{key} must hold a list of strings for task=token_classification, not {str(value)[:40]!r}"
        )
    return tuple(value)


def _separated(path: Path, separator: str, columns: dict[str, str]) -> _Numbered:
    text = decode(path.read_bytes(), str(path))
    try:
        return _parse_separated(text, path, separator, columns, csv.QUOTE_MINIMAL)
    except (csv.Error, DataError):
        if separator != "\t" or '"' not in text:
            raise
    # Many tsv files quote nothing, so that a quotation mark is an ordinary character.
    return _parse_separated(text, path, separator, columns, csv.QUOTE_NONE)


def _parse_separated(text: str, path: Path, separator: str, columns: dict[str, str], quoting: int) -> _Numbered:
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
    rows: _Numbered = []
    try:
        header = next((row for row in reader if row), [])
        indices = _indices(str(path), header, columns)
        start = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {start}: {len(row)} fields where the header has {len(header)}; "
                        f"put a text with a {'comma' if separator == ',' else 'tab'} or a line break in double quotes"
                    )
                rows.append((start, [row[index] for index in indices]))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}; close every quoted text, and double the quotes inside it"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _indices(origin: str, header: Sequence[str], columns: dict[str, str]) -> list[int]:
    names = [name.strip() for name in header]
    for key, column in columns.items():
        if column not in names:
            raise missing_column(origin, key, column, names)
        if names.count(column) > 1:
            raise DataError(f"{origin}: {names.count(column)} columns are called {column!r} (data.{key}); rename one")
    return [names.index(column) for column in columns.values()]


def _json_lines(path: Path, columns: dict[str, str]) -> _Numbered:
    rows: _Numbered = []
    for number, line in enumerate(decode(path.read_bytes(), str(path)).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: broken JSON ({error.msg} at column {error.colno}); "
                f"each line must be one JSON object"
            ) from error
        except RecursionError as error:
            raise DataError(f"{path}, line {number}: JSON nested too deeply to be a row") from error
        if not isinstance(item, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(item).__name__}; each line must be one JSON object")
        for key, column in columns.items():
            if column not in item:
                raise missing_column(f"{path}, line {number}", key, column, item)
        rows.append((number, [item[column] for column in columns.values()]))
    return rows


def _parquet(path: Path, columns: dict[str, str]) -> _Numbered:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MachineError(f"{path}: reading parquet needs pyarrow; pip install pyarrow") from error
    try:
        names = parquet.read_schema(path).names
        _indices(str(path), names, columns)
        table = parquet.read_table(path, columns=list(dict.fromkeys(columns.values())), partitioning=None)
        found = [table.column(column).to_pylist() for column in columns.values()]
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: not a readable parquet file ({reason}); write it anew") from error
    return [(number, list(values)) for number, values in enumerate(zip(*found, strict=True), start=1)]
