"""CoNLL columns: one token a line with its tag, a blank line between sentences."""

from __future__ import annotations

from pathlib import Path

from compress.data.rows import Row, check_tags, decode
from compress.errors import DataError

__all__ = ["SUFFIXES", "read_conll"]

SUFFIXES = frozenset({".conll", ".bio", ".iob", ".iob2"})


def read_conll(path: Path, token_column: int = 0, tag_column: int = -1) -> list[Row]:
    """Read the sentences of a file.

    Columns are separated by tabs where a line has one, by any white space otherwise; ``-DOCSTART-``
    lines are skipped. Tags are checked here and left as written.

    Raises
    ------
    DataError
        With the line, for too few columns, a tag that is not O, B-TYPE or I-TYPE, or broken UTF-8.
    """
    rows: list[Row] = []
    tokens: list[str] = []
    tags: list[str] = []
    start = 1
    text = decode(path.read_bytes(), str(path))
    # str.splitlines would also cut at U+0085 and U+2028, which occur inside tokens.
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens:
                rows.append(Row(start, tuple(tokens), tuple(tags)))
                tokens, tags = [], []
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        last = len(fields) - 1
        tag_index = last if tag_column == -1 else tag_column
        if token_column > last or tag_index > last or token_column == tag_index:
            raise DataError(
                f"{path}, line {number}: {len(fields)} column{'s' if last else ''}, but a token is read from column "
                f"{token_column} and another column must hold its tag (data.token_column={token_column}, "
                f"data.tag_column={tag_column}); a blank line, not a lone word, separates sentences"
            )
        tag = fields[tag_index].strip()
        check_tags([tag], f"{path}, line {number}")
        if not tokens:
            start = number
        tokens.append(fields[token_column])
        tags.append(tag)
    return rows
