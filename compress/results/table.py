"""The one table that a run ends with on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.results import formats
from compress.results.rows import Timing, describe, metric_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["cells", "print_table"]


def cells(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table's header and rows as text: a row per variant, two columns per shape."""
    rows = describe(record)
    labels = list(dict.fromkeys(timing.label for row in rows for timing in row.timings))
    header = ["variant", "runtime", "precision", metric_of(record)[0] or "quality", "retained"]
    for label in labels:
        header += [f"p50 ms {label}", f"speedup {label}"]
    header += ["weights MB", "smaller", "memory MB"]
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
            formats.megabytes(row.memory.get("model_bytes") or row.peak_rss_bytes),
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
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console if console is not None else Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    rows = describe(record)
    labels = list(dict.fromkeys(timing.label for row in rows for timing in row.timings))
    table = Table(
        title=escape(_title(record)),
        title_justify="left",
        box=box.HORIZONTALS,
        show_lines=True,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("variant", "format"):
        table.add_column(name)
    for name in (metric_of(record)[0] or "quality", *labels, "weights", "memory"):
        table.add_column(escape(name), justify="right", no_wrap=True)
    for row in rows:
        timings = {timing.label: timing for timing in row.timings}
        line = [
            f"{row.name}\n{row.role}",
            f"{row.format}\n{row.precision}",
            f"{formats.number(row.metric)}\n{formats.percent(row.retained)}",
            *(_timing(timings.get(label)) for label in labels),
            f"{formats.megabytes(row.weights_bytes)} MB\n{formats.ratio(row.size_ratio)}",
            f"{formats.megabytes(row.memory.get('model_bytes') or row.peak_rss_bytes)} MB\n"
            f"{formats.ratio(row.memory_ratio)}",
        ]
        table.add_row(*(escape(cell) for cell in line), style="bold" if row.role == "artifact" else None)
    console.print(table)
    console.print(
        "batch × tokens: median per batch; ratios are baseline / variant, with the interval where one was measured",
        style="dim",
        soft_wrap=True,
    )
    for warning in record.get("warnings", ()):
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    for missed in record.get("budget", {}).get("missed", ()):
        console.print(missed["message"], style="red", markup=False, soft_wrap=True)
    if artifact is not None:
        console.print(f"artifact: {artifact}", markup=False, soft_wrap=True)


def _title(record: Mapping[str, Any]) -> str:
    data = record.get("data") or {}
    if not data.get("name"):
        return f"{record['recipe']}, without data"
    rows = (data.get("rows") or {}).get("test", "?")
    return f"{record['recipe']} on {data['name']}, {rows} test rows, seed {record.get('seed')}"


def _timing(timing: Timing | None) -> str:
    """Write median and threads, the speedup, and its interval or verdict, one below the other."""
    if timing is None:
        return formats.NOTHING
    threads = "" if timing.threads is None else f", {timing.threads} thr"
    lines = [f"{formats.milliseconds(timing.p50)} ms{threads}", formats.ratio(timing.speedup)]
    lines.append(formats.interval(timing))
    if timing.verdict not in (None, "faster"):
        lines.append(str(timing.verdict))
    return "\n".join(line for line in lines if line)
