"""A report as one HTML file: plots inside, nothing fetched, tables that sort by a click."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.88rem; }
th, td { border-bottom: 1px solid #8884; padding: 0.3rem 0.7rem; text-align: left; vertical-align: top; }
th { cursor: pointer; user-select: none; border-bottom-width: 2px; }
th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; }
td.number { text-align: right; white-space: nowrap; }
pre { background: #8881; padding: 0.8rem; overflow-x: auto; font-size: 0.82rem; }
img { max-width: 100%; background: #fff; margin: 0.3rem 0; }
.warning { border-left: 4px solid #d55e00; padding-left: 0.8rem; }
"""

_SCRIPT = """
const value = cell => { const n = parseFloat(cell.textContent.replace(/,/g, "")); return isNaN(n) ? null : n; };
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const index = head.cellIndex, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...body.rows].sort((a, b) => {
    const x = value(a.cells[index]), y = value(b.cells[index]);
    const order = x !== null && y !== null ? x - y
      : x !== null ? -1 : y !== null ? 1
      : a.cells[index].textContent.localeCompare(b.cells[index].textContent);
    return up ? order : -order;
  });
  body.append(...rows);
});
"""


def render(title: str, sections: Sequence[tuple[str, str, Any]]) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Its heading.
    sections
        See `compress.results.report.Section`.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    for name, kind, content in sections:
        if name:
            parts.append(f"<h2>{escape(name)}</h2>")
        if kind == "table":
            parts.append(_table(*content))
        elif kind == "list":
            parts.append('<ul class="warning">' + "".join(f"<li>{escape(item)}</li>" for item in content) + "</ul>")
        elif kind == "code":
            parts.append(f"<pre>{escape(content)}</pre>")
        elif kind == "plots":
            parts += [_image(path) for path in content]
        else:
            parts += [f"<p>{escape(item)}</p>" for item in content]
    parts.append(f"<script>{_SCRIPT}</script></body></html>")
    return "\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
        if rows
        else ""
    )


def _cell(text: str) -> str:
    number = len(text) < 60 and (text[:1].isdigit() or text[:1] in "+-–")
    return f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"


def _image(path: Path) -> str:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{encoded}">'
