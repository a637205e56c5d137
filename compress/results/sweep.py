"""The report over every run below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.files import write_atomic
from compress.results.frame import load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write"]


def write(directory: Path) -> list[Path]:
    """Write ``results.parquet``, ``report.md`` and ``report.html`` over all runs below a folder, failed ones included.

    Raises
    ------
    DataError
        If there is no run below it.
    """
    from compress.results.report import to_markdown
    from compress.results.report_html import render

    frame = load(directory)
    frame["run"] = [str(Path(run).relative_to(directory)) for run in frame["run"]]
    parquet, markdown, html = (directory / name for name in ("results.parquet", "report.md", "report.html"))
    temporary = directory / ".results.parquet"
    frame.to_parquet(temporary, index=False)
    temporary.replace(parquet)
    failed = frame[frame["status"] == "failed"]
    measured = frame[frame["variant"].notna()] if "variant" in frame else frame.iloc[:0]
    content: list[tuple[str, str, Any]] = [
        ("Result", "text", [f"{frame['run'].nunique()} jobs, {failed['run'].nunique()} failed{_equal(frame)}."]),
    ]
    if len(measured):
        artifacts = measured[measured["role"] == "artifact"]
        content.append(("Artifacts", "table", _table(artifacts)))
        content.append(("Every variant", "table", _table(measured)))
    if len(failed):
        lines = [[run, str(reason)] for run, reason in zip(failed["run"], failed["reason"], strict=True)]
        content.append(("Failed", "table", (["run", "reason"], lines)))
    title = f"{directory.name}: {frame['run'].nunique()} runs"
    write_atomic(markdown, to_markdown(title, content).encode())
    write_atomic(html, render(title, content).encode())
    return [parquet, markdown, html]


def _equal(frame: pd.DataFrame) -> str:
    """Return how many jobs were equal to another and so not run again."""
    count = frame.loc[frame["status"] == "equal", "run"].nunique()
    return f", {count} equal to another and not run again" if count else ""


def _table(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the columns that tell runs apart, then quality, time and size."""
    overrides = [name for name in frame if str(name).startswith("override.") and frame[name].nunique(dropna=False) > 1]
    times = [name for name in frame if str(name).startswith(("p50_ms.", "speedup."))]
    names = ["run", *overrides, "seed", "variant", "precision", "metric_value", "metric_retained", *times]
    names += ["weights_bytes", "size_ratio", "status"]
    rows = [[_text(value) for value in row] for row in frame[names].itertuples(index=False)]
    return [str(name) for name in names], rows


def _text(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e5 else str(value)
