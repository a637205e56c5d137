"""The report over every run below a folder: a front per group, the artifacts, what failed and why."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.files import write_atomic
from compress.results import formats
from compress.results.frame import load, shapes_of
from compress.results.front import default_objectives, latency_column, pareto
from compress.results.markup import Section, Table, to_markdown
from compress.results.plots import write_sweep_plots
from compress.results.selection import artifacts, failed, names, variants, varying

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write"]

_FINISHED = ("done", "budget missed")


def write(directory: Path) -> list[Path]:
    """Write ``results.parquet``, ``report.md``, ``report.html`` and ``plots/`` over all runs below a folder.

    ``plots/pareto.png`` is the front of the group with the most variants, ``pareto_2.png`` that of the next.

    Returns
    -------
    list of pathlib.Path
        What was written.

    Raises
    ------
    DataError
        If there is no run below it.
    """
    from compress.results.report_html import render

    frame = load(directory)
    frame["run"] = [Path(run).relative_to(directory).as_posix() for run in frame["run"]]
    parquet, markdown, html = (directory / name for name in ("results.parquet", "report.md", "report.html"))
    temporary = directory / ".results.parquet"
    frame.to_parquet(temporary, index=False)
    temporary.replace(parquet)
    groups = _groups(frame)
    content: list[Section] = [("Result", "text", [_counts(frame), *_sentences(groups)])]
    plots = []
    for number, rows in enumerate(groups, 1):
        drawn = write_sweep_plots(rows, directory / "plots", suffix="" if number == 1 else f"_{number}")
        plots += drawn
        content += _front(rows, drawn, f": {_title(rows)}" if len(groups) > 1 else "")
    content += [
        ("Artifacts", "table", _artifacts(frame)),
        ("Every variant", "table", _measured(_called(variants(frame)))),
        ("What differs between the jobs", "table", _jobs(frame)),
        *_left_out(frame),
        ("To repeat it", "code", _command(directory)),
    ]
    title = f"{directory.resolve().name}: {frame['run'].nunique()} runs"
    shown = [section for section in content if (section[2][1] if section[1] == "table" else section[2])]
    write_atomic(markdown, to_markdown(title, shown).encode())
    write_atomic(html, render(title, shown).encode())
    return [parquet, markdown, html, *plots]


def _groups(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Return each variant once, by group, the largest group first."""
    rows = variants(frame)
    parts = [_called(part) for _, part in rows.groupby("group", sort=False)]
    return sorted(parts, key=len, reverse=True)


def _called(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(called=names(rows))


def _title(rows: pd.DataFrame) -> str:
    """Return what tells a group from others: its data, its baseline and, where that is one, the seed."""
    first = rows.iloc[0]
    seeds = rows["seed"].dropna().unique()
    seed = f", seed {int(seeds[0])}" if len(seeds) == 1 else ""
    jobs = rows["run"].nunique()
    return f"{first['data']}{seed}, {jobs} {'job' if jobs == 1 else 'jobs'}"


def _counts(frame: pd.DataFrame) -> str:
    """Return how the jobs ended."""
    by_status = frame.drop_duplicates("run")["status"].value_counts()
    known = {
        "done": "done",
        "budget missed": "missed a budget",
        "failed": "failed",
        "equal": "equal to another and not run again",
        "built": "built and not measured",
        "unfinished": "cut off",
    }
    parts = [f"{by_status[status]} {text}" for status, text in known.items() if status in by_status]
    jobs = int(by_status.sum())
    return f"{jobs} {'job' if jobs == 1 else 'jobs'}: {', '.join(parts)}."


def _sentences(groups: list[pd.DataFrame]) -> list[str]:
    """Return for each group how many of its variants are on the front, and what its ends are."""
    return [
        f"{_title(rows)}: {sentence}" if len(groups) > 1 else sentence for rows in groups for sentence in _ends(rows)
    ]


def _ends(rows: pd.DataFrame) -> list[str]:
    objectives = default_objectives(rows)
    if not objectives:
        return []
    front = pareto(rows, objectives)
    phrases = []
    wording = {
        "validation_value": "the best on validation",
        "weights_bytes": "the smallest",
        latency_column(rows): "the fastest",
    }
    for column, way in objectives.items():
        ordered = front.sort_values(column, ascending=way == "min", kind="stable")
        if not ordered.empty:
            first = ordered.iloc[0]
            phrases.append(f"{wording[column]} is {first['called']} ({_figure(rows, column, first[column])})")
    text = f"{len(front)} of {len(rows)} variants are on the front of {_listed(list(map(_objective, objectives)))}"
    return [f"{text}; {_listed(phrases)}." if phrases else f"{text}."]


def _objective(column: str) -> str:
    stem = column.partition(".")[0]
    return {
        "validation_value": "quality on validation",
        "weights_bytes": "bytes of weights",
        "p50_ms": "median latency",
        "speedup": "speedup",
    }[stem]


def _figure(rows: pd.DataFrame, column: str, value: float) -> str:
    stem = column.partition(".")[0]
    if stem == "weights_bytes":
        return f"{formats.megabytes(value)} MB"
    return {"p50_ms": f"{formats.milliseconds(value)} ms", "speedup": formats.ratio(value)}.get(
        stem, f"{rows['metric'].dropna().iloc[0]} {formats.number(value)}" if rows["metric"].notna().any() else ""
    )


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _front(rows: pd.DataFrame, plots: list[Path], title: str) -> list[Section]:
    """Return the table and the plots of a group's front."""
    objectives = default_objectives(rows)
    if not objectives:
        return []
    latency = latency_column(rows)
    front = pareto(rows, objectives)
    front = front.sort_values(latency or "weights_bytes", ascending=latency is not None and latency.startswith("p50"))
    together = latency is None or latency.startswith("p50")
    note = (
        "Nothing else is at least as good in all of them and better in one. The front is picked on the validation "
        "split; the test split is shown and picks nothing. Ratios are to the one baseline of the group."
    )
    if not together:
        note += (
            " The jobs measured themselves at different times: latencies are compared by each job's own speedup, and "
            "medians of different jobs are not."
        )
    return [
        (f"Pareto front{title}", "table", _measured(front)),
        ("", "text", [note]),
        ("", "plots", plots),
    ]


def _artifacts(frame: pd.DataFrame) -> Table:
    rows = _called(artifacts(frame))
    header, lines = _measured(rows)
    return [*header, "status"], [[*line, str(text)] for line, text in zip(lines, rows["status"], strict=True)]


def _measured(rows: pd.DataFrame) -> Table:
    """Return rows of variants as text, named as the column ``called`` says: quality on both splits, times, sizes."""
    if rows.empty:
        return [], []
    metric = next((str(name) for name in rows["metric"].dropna()), "metric")
    shapes = [shape for shape in shapes_of(rows) if rows[f"p50_ms.{shape}"].notna().any()]
    header = ["variant", "run", f"{metric}, validation", f"{metric}, test", "retained", "interval of the difference"]
    for shape in shapes:
        header += [f"p50 ms {shape.replace('x', ' × ', 1)}", f"speedup {shape.replace('x', ' × ', 1)}"]
    header += ["weights MB", "smaller", "model in memory MB"]
    lines = []
    for _, row in rows.iterrows():
        line = [
            str(row["called"]),
            str(row["run"]),
            formats.number(_value(row["validation_value"])),
            formats.number(_value(row["metric_value"])),
            formats.percent(_value(row["metric_retained"])),
            formats.NOTHING
            if row["role"] == "baseline"
            else _interval(row, "metric_difference_low", "metric_difference_high", "+.4f"),
        ]
        for shape in shapes:
            parts = [
                formats.ratio(_value(row[f"speedup.{shape}"])),
                _interval(row, f"speedup_low.{shape}", f"speedup_high.{shape}", ".2f").replace(formats.NOTHING, ""),
                str(row[f"verdict.{shape}"]) if row[f"verdict.{shape}"] in ("slower", "inconclusive") else "",
            ]
            line += [formats.milliseconds(_value(row[f"p50_ms.{shape}"])), " ".join(part for part in parts if part)]
        line += [
            formats.megabytes(_value(row["weights_bytes"])),
            formats.ratio(_value(row["size_ratio"])),
            formats.megabytes(_value(row["model_bytes"])),
        ]
        lines.append(line)
    keep = [number for number in range(len(header)) if any(line[number] != formats.NOTHING for line in lines)]
    return [header[number] for number in keep], [[line[number] for number in keep] for line in lines]


def _interval(row: pd.Series[Any], low: str, high: str, form: str) -> str:
    ends = (_value(row[low]), _value(row[high]))
    return formats.NOTHING if ends[0] is None or ends[1] is None else f"[{ends[0]:{form}}, {ends[1]:{form}}]"


def _value(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _jobs(frame: pd.DataFrame) -> Table:
    """Return the overrides in which the jobs differ, and how each ended."""
    columns = varying(frame)
    runs = frame.drop_duplicates("run")
    header = ["run", *(name.removeprefix("override.") for name in columns), "status"]
    lines = [
        [
            str(row["run"]),
            *(formats.NOTHING if _absent(row[name]) else str(row[name]) for name in columns),
            str(row["status"]),
        ]
        for _, row in runs.iterrows()
    ]
    return (header, lines) if len(runs) > 1 else ([], [])


def _absent(value: Any) -> bool:
    return value is None or value != value


def _left_out(frame: pd.DataFrame) -> list[Section]:
    """Return what has no numbers, and why."""
    runs = frame.drop_duplicates("run")
    broken = failed(frame)
    equal = runs[runs["status"] == "equal"]
    waiting = runs[~runs["status"].isin([*_FINISHED, "failed", "equal"])]
    reasons = {
        "built": "its steps are done; it was not measured: run the sweep again",
        "unfinished": "cut off: run the sweep again",
    }
    return [
        (
            "Failed",
            "table",
            (["run", "reason"], [[str(row["run"]), str(row["reason"])] for _, row in broken.iterrows()]),
        ),
        (
            "Equal to another job",
            "table",
            (["run", "equal to"], [[str(row["run"]), str(row["equal_to"])] for _, row in equal.iterrows()]),
        ),
        (
            "Not measured",
            "table",
            (
                ["run", "status", "what it means"],
                [
                    [str(row["run"]), str(row["status"]), reasons.get(str(row["status"]), "")]
                    for _, row in waiting.iterrows()
                ],
            ),
        ),
    ]


def _command(directory: Path) -> str:
    """Return the command of a sweep from what Hydra kept of it; nothing for a folder of single runs."""
    import yaml

    file = directory / "multirun.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        overrides = content["hydra"]["overrides"]["task"]
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); remove it, the report does without") from error
    return shlex.join(["python", "-m", "compress", "-m", *map(str, overrides)])
