"""What a report is made of, and how it is written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

__all__ = ["Section", "Table", "to_markdown"]

Section = tuple[str, str, Any]
"""``(title, kind, content)``: kind is ``text`` (paragraphs), ``list`` (strings), ``figures`` (name, value and remark
of what matters most), ``code`` or ``folded`` (a string, the second behind a click), ``table`` (header and rows) or
``plots`` (paths). A section without a title carries on the one before."""

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def to_markdown(title: str, content: Sequence[Section]) -> str:
    """Return sections as Markdown."""
    lines = [f"# {_plain(title)}", ""]
    for name, kind, item in content:
        if name:
            lines += [f"## {_plain(name)}", ""]
        if kind == "table":
            lines += _table(*item)
        elif kind == "list":
            lines += [f"- {_plain(entry)}" for entry in item]
        elif kind == "figures":
            lines += [
                f"- **{_plain(value)}** {_plain(what)}" + (f" ({_plain(remark)})" if remark else "")
                for what, value, remark in item
            ]
        elif kind in ("code", "folded"):
            lines += ["```", item.rstrip("\n"), "```"]
        elif kind == "plots":
            lines += [f"![{path.stem}](plots/{path.name})" for path in item]
        else:
            lines += [text for entry in item for text in (_plain(entry), "")][:-1]
        lines.append("")
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = ["| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in row) + " |" for row in [header, *rows]]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def _plain(text: str) -> str:
    """Return text as it must be read: names of labels, files and columns are the user's and no markup."""
    return escape(text, quote=False).replace("\n", " ")
