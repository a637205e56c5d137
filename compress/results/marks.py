"""The two lines of a study's README between which its tables go."""

from __future__ import annotations

from pathlib import Path

from compress.errors import DataError

__all__ = ["BEGIN", "END", "filled", "marked"]

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def marked(readme: Path) -> str:
    """Return the text of a README that holds both marks once.

    Raises
    ------
    DataError
        If it does not.
    """
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{readme}: needed are the lines {BEGIN} and {END}, once each and in this order")
    return text


def filled(text: str, tables: str) -> str:
    """Return a text that `marked` accepts, with other tables between its marks."""
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{tables}\n\n{text[text.index(END) :]}"
