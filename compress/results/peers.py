"""Ours beside theirs: one table over the records of several seeds, for a study's README and as results.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.files import write_atomic
from compress.results import formats
from compress.results.marks import filled, marked
from compress.results.rows import describe, metric_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["markdown", "over_records", "write_study"]


def over_records(records: Sequence[Mapping[str, Any]], data: str, titles: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per variant, medians over the records of several seeds.

    Parameters
    ----------
    records
        As in record.json, with the same variants and shapes.
    data
        What to call the data.
    titles
        What to call a variant; by default its name.

    Returns
    -------
    pandas.DataFrame
        ``data``, ``variant``, ``title``, ``role`` (``baseline``, ``peer`` or ``ours``), ``runtime``, ``precision``,
        ``metric`` (its name), ``seeds``, ``test`` with ``_low`` and ``_high`` (the worst and the best seed),
        ``validation``; per shape such as ``1x32`` ``p50_ms.SHAPE``, ``threads.SHAPE`` (of each seed, where they
        differ), ``speedup.SHAPE``, and ``speedup_low.SHAPE`` and ``speedup_high.SHAPE``: of one seed its interval, of
        several from the lowest end of theirs to the highest; ``weights_bytes``, ``held_bytes`` (resident after the
        first answer, less the runtime), ``size_ratio``.

    Raises
    ------
    DataError
        If there is no record, or their variants differ.
    """
    import pandas as pd

    if not records:
        raise DataError("there is no record to make a table of")
    described = [{row.name: row for row in describe(record)} for record in records]
    if any(set(rows) != set(described[0]) for rows in described):
        raise DataError("the records hold different variants; measure the same ones with every seed")
    table = []
    for name in described[0]:
        rows = [found[name] for found in described]
        first = rows[0]
        entry: dict[str, Any] = {
            "data": data,
            "variant": name,
            "title": titles.get(name, name),
            "role": "baseline" if first.role == "baseline" else "peer" if name in titles else "ours",
            "runtime": first.runtime,
            "precision": first.precision,
            "metric": metric_of(records[0])[0],
            "seeds": len(rows),
            "test": _median([row.metric for row in rows]),
            "test_low": min((row.metric for row in rows if row.metric is not None), default=None),
            "test_high": max((row.metric for row in rows if row.metric is not None), default=None),
            "validation": _median([row.validation for row in rows]),
        }
        for number, timing in enumerate(first.timings):
            found = [row.timings[number] for row in rows]
            lows, highs = ([getattr(one, end) for one in found] for end in ("low", "high"))
            entry |= {
                f"p50_ms.{timing.key}": _median([one.p50 for one in found]),
                f"threads.{timing.key}": ", ".join(dict.fromkeys(str(one.threads) for one in found)),
                f"speedup.{timing.key}": _median([one.speedup for one in found]),
                f"speedup_low.{timing.key}": min((low for low in lows if low is not None), default=None),
                f"speedup_high.{timing.key}": max((high for high in highs if high is not None), default=None),
            }
        entry |= {
            "weights_bytes": _median([row.weights_bytes for row in rows]),
            "held_bytes": _median([row.memory.get("held_bytes") for row in rows]),
            "size_ratio": _median([row.size_ratio for row in rows]),
        }
        table.append(entry)
    return pd.DataFrame(table)


def markdown(table: pd.DataFrame) -> str:
    """Return the table of one data set in Markdown, ours in bold."""
    shapes = [str(name).removeprefix("p50_ms.") for name in table if str(name).startswith("p50_ms.")]
    shapes = [shape for shape in shapes if table[f"p50_ms.{shape}"].notna().any()]
    metric = table["metric"].iloc[0]
    heads = [
        "variant",
        "quality" if _none(metric) else str(metric),
        *(f"{shape}: ms (threads), times" for shape in shapes),
    ]
    heads += ["weights, MB", "resident, MB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in table.to_dict("records"):
        cells = [
            f"**{row['title']}**" if row["role"] == "ours" else str(row["title"]),
            _quality(row),
            *(_latency(row, shape) for shape in shapes),
            *(formats.megabytes(None if _none(row[name]) else row[name]) for name in ("weights_bytes", "held_bytes")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_study(study: Path, table: pd.DataFrame) -> list[Path]:
    """Put a data set's rows into a study's results.csv and the tables of all its data sets into its README.

    Rows of the same data set that stood there go.

    Parameters
    ----------
    study
        Folder with a README.md that holds the two marks between which the tables go.
    table
        As `over_records` returns it.

    Raises
    ------
    DataError
        If the README lacks a mark.
    """
    import pandas as pd

    readme, results = study / "README.md", study / "results.csv"
    text = marked(readme)
    data = table["data"].iloc[0]
    if results.is_file():
        kept = pd.read_csv(results, dtype={"data": str})
        table = pd.concat([kept[kept["data"] != data], table], ignore_index=True)
    write_atomic(results, table.to_csv(index=False, float_format="%.6g").encode())
    # Read back, so that the tables hold what results.csv holds.
    table = pd.read_csv(results, dtype={"data": str})
    parts = []
    for name, rows in table.groupby("data", sort=True):
        seeds = int(rows["seeds"].iloc[0])
        parts.append(f"### {name}, {seeds} seed{'s' if seeds > 1 else ''}\n\n{markdown(rows)}")
    write_atomic(readme, filled(text, "\n\n".join(parts)).encode())
    return [results, readme]


def _quality(row: Mapping[Any, Any]) -> str:
    if _none(row["test"]):
        return formats.NOTHING
    several = row["seeds"] > 1
    return f"{row['test']:.4f}" + (f" [{row['test_low']:.4f}, {row['test_high']:.4f}]" if several else "")


def _latency(row: Mapping[Any, Any], shape: str) -> str:
    if _none(row[f"p50_ms.{shape}"]):
        return formats.NOTHING
    shown = f"{formats.milliseconds(row[f'p50_ms.{shape}'])} ({row[f'threads.{shape}']})"
    if row["role"] == "baseline":
        return shown
    value, low, high = (row[f"speedup{end}.{shape}"] for end in ("", "_low", "_high"))
    return f"{shown}, {value:.2f}x" + ("" if _none(low) else f" [{low:.2f}, {high:.2f}]")


def _median(values: Sequence[float | int | None]) -> float | None:
    from statistics import median

    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _none(value: Any) -> bool:
    """Whether a cell holds nothing: None, or the nan that pandas has in its place."""
    return value is None or value != value
