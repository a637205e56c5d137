"""The one table that a run ends with on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.results import formats
from compress.results.variants import describe

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["cells", "print_table"]


def cells(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table's header and rows as text: a row per variant, two columns per shape."""
    rows = describe(record)
    labels = list(dict.fromkeys(timing.label for row in rows for timing in row.timings))
    header = ["variant", "runtime", "precision", record["metric"]["name"], "retained"]
    for label in labels:
        header += [f"p50 ms {label}", f"speedup {label}"]
    header += ["weights MB", "smaller", "peak MB"]
    lines = []
    for row in rows:
        line = [
            f"{row.name} ({row.role})" if row.role else row.name,
            row.runtime,
            row.precision,
            formats.number(row.metric),
            formats.percent(row.retained),
        ]
        timings = {timing.label: timing for timing in row.timings}
        for label in labels:
            timing = timings.get(label)
            line += [formats.latency(timing), formats.speedup(timing)] if timing else [formats.NOTHING] * 2
        line += [
            formats.megabytes(row.weights_bytes),
            formats.ratio(row.size_ratio),
            formats.megabytes(row.peak_rss_bytes),
        ]
        lines.append(line)
    return header, lines


def print_table(record: Mapping[str, Any], *, artifact: Path | None = None, console: Console | None = None) -> None:
    """Print what was measured, whether the budget was met and where the artifact is.

    Parameters
    ----------
    record
        As in record.json.
    artifact
        The final checkpoint's folder, named in the last line.
    console
        Where to print; by default standard output.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console if console is not None else Console(highlight=False)
    header, rows = cells(record)
    data, rows_per_split = record.get("data", {}), record.get("data", {}).get("rows", {})
    on = f"{data.get('name', record['task'])}, {rows_per_split.get('test', '?')} test rows, seed {record.get('seed')}"
    table = Table(title=escape(f"{record['recipe']} on {on}"), title_justify="left", pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(escape(name), justify="left" if index < 3 else "right", overflow="fold")
    candidate = list(record["variants"]).index(record["candidate"])
    for index, row in enumerate(rows):
        table.add_row(*(escape(cell) for cell in row), style="bold" if index == candidate else None)
    console.print(table)
    console.print(
        "speedup: median over rounds of baseline time / variant time, with its interval; thr: threads",
        style="dim",
        soft_wrap=True,
    )
    for warning in record.get("warnings", ()):
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    for missed in record.get("budget", {}).get("missed", ()):
        console.print(missed["message"], style="red", markup=False, soft_wrap=True)
    if artifact is not None:
        console.print(f"artifact: {artifact}", markup=False, soft_wrap=True)
