"""Label a file: ``python -m compress.predict ARTIFACT FILE``."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from compress.errors import CompressError, DataError

__all__ = ["main", "read_items"]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ROWS_AT_ONCE = 1024


def read_items(path: Path, text: str = "text", text_pair: str | None = None) -> Iterator[Any]:
    """Yield what is to be labelled, row by row.

    Parameters
    ----------
    path : pathlib.Path
        ``.txt`` with one text per line, ``.csv`` or ``.tsv`` with a header, or ``.jsonl``.
    text : str
        Column with the text; in jsonl it may also hold a list of words.
    text_pair : str, optional
        Column with the second text of a pair.

    Raises
    ------
    DataError
        Naming the file, the row and the column.
    """
    suffix = path.suffix.lower()
    if suffix not in {".txt", ".jsonl", *_SEPARATORS}:
        raise DataError(f"{path}: {suffix or 'no ending'}; readable are .txt (a text per line), .csv, .tsv and .jsonl")
    if suffix == ".txt" and text_pair is not None:
        raise DataError(f"{path}: a text file has no columns; --text-pair needs csv, tsv or jsonl")
    if not path.is_file():
        raise DataError(f"{path}: {'is no file' if path.exists() else 'there is no such file'}")
    try:
        with path.open(encoding="utf-8-sig", newline="" if suffix in _SEPARATORS else None) as stream:
            if suffix == ".txt":
                yield from (line.rstrip("\n") for line in stream)
            else:
                rows = (
                    _json_rows(path, stream) if suffix == ".jsonl" else _table_rows(path, stream, _SEPARATORS[suffix])
                )
                for number, row in rows:
                    first = _cell(path, number, row, text, "--text")
                    yield first if text_pair is None else (first, _cell(path, number, row, text_pair, "--text-pair"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def _table_rows(path: Path, stream: TextIO, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(10_000_000)
    reader = csv.DictReader(stream, delimiter=separator)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: {type(row).__name__}; needed is an object per line")
        yield number, row


def _cell(path: Path, number: int, row: dict[str, Any], column: str, flag: str) -> Any:
    if column not in row:
        names = ", ".join(str(name) for name in row if name is not None)
        raise DataError(f"{path}, line {number}: no column {column!r}; there are {names}; choose one with {flag}")
    value = row[column]
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(word, str) for word in value)):
        return value
    raise DataError(f"{path}, line {number}: column {column!r} holds {value!r:.60}; needed is a text")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compress.predict",
        description="Label a file with a checkpoint; writes one JSON object or list per row to standard output.",
    )
    parser.add_argument("artifact", help="a checkpoint's directory, or a Hugging Face checkpoint's")
    parser.add_argument("file", type=Path, help=".txt with one text per line, .csv, .tsv or .jsonl")
    parser.add_argument("--text", default="text", help="column with the text (default: text)")
    parser.add_argument("--text-pair", help="column with the second text of a pair")
    parser.add_argument("--batch-size", type=int, default=32, help="rows per batch (default: 32)")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 for an artifact or a file that cannot be used."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = _parser().parse_args(arguments)
    try:
        items = read_items(options.file, options.text, options.text_pair)
        first = list(itertools.islice(items, _ROWS_AT_ONCE))  # a wrong file is refused before the model is opened
        if not first:
            raise DataError(f"{options.file} has no rows")
        from compress.runtime import open_predictor

        with open_predictor(options.artifact, threads=options.threads, device=options.device) as predictor:
            while first:
                for prediction in predictor.predict(first, options.batch_size):
                    print(json.dumps(prediction, ensure_ascii=False, default=float))
                first = list(itertools.islice(items, _ROWS_AT_ONCE))
        sys.stdout.flush()
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
