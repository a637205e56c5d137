"""A report as one HTML file: plots inside, nothing fetched, tables that sort by click and by key."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from compress.results.markup import Section

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0072b2; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; max-width: 80rem;
  margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 0.6rem; padding-bottom: 0.2rem; border-bottom: 1px solid var(--line); }
p { margin: 0.5rem 0; max-width: 60rem; }
nav { font-size: 0.85rem; margin: 0.8rem 0 1.2rem; }
nav a { margin-right: 0.9rem; white-space: nowrap; color: inherit; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.7rem; margin: 1rem 0;
  padding: 0; list-style: none; }
.figures li { background: var(--soft); border-left: 3px solid var(--accent); padding: 0.5rem 0.8rem; }
.figures b { display: block; font-size: 1.35rem; line-height: 1.3; }
.figures small { display: block; opacity: 0.75; }
.scroll { overflow-x: auto; max-width: 100%; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.84rem; margin: 0.4rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: 0.28rem 0.65rem; text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; vertical-align: bottom; padding: 0; }
th button { all: unset; box-sizing: border-box; display: block; width: 100%; padding: 0.28rem 0.65rem; cursor: pointer;
  font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
th button::after { content: "\\a0\\2195"; opacity: 0.35; font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; opacity: 1; }
td.number, th.number { text-align: right; } td.number, td.short { white-space: nowrap; }
td:first-child, th:first-child { position: sticky; left: 0; background: Canvas; }
@media (min-width: 40rem) { td:first-child { white-space: nowrap; } }
tbody tr:hover td { background: color-mix(in srgb, Canvas 92%, CanvasText); }
tr.strong td { font-weight: 600; }
pre { background: var(--soft); padding: 0.8rem; overflow-x: auto; font-size: 0.82rem; }
summary { cursor: pointer; font-size: 0.9rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; align-items: flex-start; }
figure { margin: 0.4rem 0; } figure img { display: block; max-width: none; background: #fff; }
.warning { border-left: 4px solid #d55e00; padding-left: 1.6rem; }
@media (max-width: 40rem) { body { padding: 1rem 0.7rem 3rem; } h1 { font-size: 1.25rem; }
  th button, td { padding-left: 0.45rem; padding-right: 0.45rem; }
  td:first-child, th:first-child { max-width: 10rem; min-width: 7.5rem; }
  figure::before { content: "\\2190 the plot scrolls sideways \\2192"; font-size: 0.75rem; opacity: 0.7; } }
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentNode, index = head.cellIndex, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const numeric = head.classList.contains("number");
  const key = row => {
    const cell = row.cells[index], text = cell.textContent;
    if (text === "\\u2013" || text === "") return null;
    return numeric ? Number(cell.dataset.value) : text;
  };
  const rows = [...body.rows].map((row, place) => ({row, place, key: key(row)}));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
    const order = numeric ? a.key - b.key : a.key.localeCompare(b.key, undefined, {numeric: true});
    return (up ? order : -order) || a.place - b.place;
  });
  body.append(...rows.map(item => item.row));
});
"""

_NUMBER = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?(?=$|[\s%x\[])")
_NOTHING = "–"
_SHORT = 22
"""Cells of so many characters are not broken: an interval, a date, the half of a key."""

_PIXELS_PER_CSS_PIXEL = 2.3
"""Plots are drawn at 200 dots per inch and shown at 87: sharp on fine screens, two beside each other on wide ones."""


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Its heading.
    sections
        See `compress.results.markup.Section`.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _contents([name for name, _, _ in sections if name]),
    ]
    number = 0
    for name, kind, content in sections:
        if name:
            number += 1
            parts.append(f'<h2 id="s{number}">{escape(name)}</h2>')
        parts.append(_WRITE[kind](content))
    parts.append(f"<script>{_SCRIPT}</script></body></html>")
    return "\n".join(part for part in parts if part) + "\n"


def _contents(names: Sequence[str]) -> str:
    links = "\n".join(f'<a href="#s{number}">{escape(name)}</a>' for number, name in enumerate(names, 1))
    return f"<nav>{links}</nav>" if len(names) > 3 else ""


def _figures(items: Sequence[tuple[str, str, str]]) -> str:
    tiles = [
        f"<li><b>{escape(value)}</b>{escape(what)}" + (f"<small>{escape(remark)}</small>" if remark else "") + "</li>"
        for what, value, remark in items
    ]
    return '<ul class="figures">' + "".join(tiles) + "</ul>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    columns = list(zip(*rows, strict=True))
    numeric = [_is_numeric(column) for column in columns]
    head = "".join(
        f'<th scope="col" aria-sort="none"{" class=number" if number else ""}>'
        f'<button type="button">{escape(name).replace(" × ", "&nbsp;×&nbsp;")}</button></th>'
        for name, number in zip(header, numeric, strict=True)
    )
    body = "".join(f"<tr{_emphasis(row)}>" + "".join(map(_cell, row, numeric)) + "</tr>\n" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _emphasis(row: Sequence[str]) -> str:
    return ' class="strong"' if row[0].endswith("(artifact)") else ""


def _is_numeric(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell not in ("", _NOTHING)]
    return bool(filled) and all(len(cell) < 60 and _NUMBER.match(cell) for cell in filled)


def _cell(text: str, numeric: bool) -> str:
    found = _NUMBER.match(text) if numeric else None
    value = f' data-value="{found.group().replace(",", "")}"' if found else ""
    kind = " class=number" if numeric else " class=short" if len(text) <= _SHORT else ""
    return f"<td{kind}{value}>{escape(text)}</td>"


def _image(path: Path) -> str:
    content = path.read_bytes()
    width, height = (round(side / _PIXELS_PER_CSS_PIXEL) for side in struct.unpack(">II", content[16:24]))
    encoded = base64.b64encode(content).decode()
    return (
        f'<figure class="scroll" tabindex="0"><img alt="{escape(path.stem)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{encoded}"></figure>'
    )


_WRITE: Mapping[str, Callable[[Any], str]] = {
    "table": lambda item: _table(*item),
    "list": lambda item: '<ul class="warning">' + "".join(f"<li>{escape(line)}</li>" for line in item) + "</ul>",
    "figures": _figures,
    "code": lambda item: f"<pre>{escape(item)}</pre>",
    "folded": lambda item: f"<details><summary>show</summary><pre>{escape(item)}</pre></details>",
    "plots": lambda item: '<div class="plots">' + "\n".join(map(_image, item)) + "</div>",
    "text": lambda item: "\n".join(f"<p>{escape(line)}</p>" for line in item),
}
"""How each kind of section is written."""
