"""The report of a run: what was asked, what came out, on which machine, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.files import write_atomic
from compress.results import formats
from compress.results.record import RECORD, read
from compress.results.table import cells
from compress.results.variants import describe

__all__ = ["Section", "command_line", "sections", "to_markdown", "write"]

Section = tuple[str, str, Any]
"""``(title, kind, content)``: kind is ``text`` (paragraphs), ``list`` (strings), ``code`` (a string),
``table`` (header and rows) or ``plots`` (paths)."""

_ARCHIVE = ".hydra/config.yaml"


def write(run_dir: str | Path) -> list[Path]:
    """Write ``report.md``, ``report.html`` and ``plots/`` of a run from its record.

    Parameters
    ----------
    run_dir
        A directory that holds ``record.json``.

    Returns
    -------
    list of pathlib.Path
        What was written.

    Raises
    ------
    DataError
        If the record is missing, broken or of an unknown version.
    """
    from compress.results.plots import write_plots
    from compress.results.report_html import render

    directory = Path(run_dir)
    record = read(directory / RECORD)
    plots = write_plots(record, directory / "plots")
    content = sections(record, plots, _config(directory))
    title = f"{record['recipe']}: {record['baseline']} to {record['candidate']}"
    markdown, html = directory / "report.md", directory / "report.html"
    write_atomic(markdown, to_markdown(title, content).encode())
    write_atomic(html, render(title, content).encode())
    return [markdown, html, *plots]


def command_line(record: Mapping[str, Any]) -> str:
    """Return the command that repeats a run."""
    overrides = list(record.get("overrides", ()))
    if not any(item.startswith("recipe=") for item in overrides):
        overrides.insert(0, f"recipe={record['recipe']}")
    return shlex.join(["python", "-m", "compress", *overrides])


def sections(record: Mapping[str, Any], plots: Sequence[Path], config: str | None) -> list[Section]:
    """Return what a report says, in order, for whichever format it is written in."""
    training = _training(record)
    found: list[Section] = [("Result", "text", _verdict(record))]
    if record.get("warnings"):
        found.append(("Warnings", "list", list(record["warnings"])))
    found += [
        ("Variants", "table", cells(record)),
        ("", "text", [_reading(record)]),
        ("Plots", "plots", list(plots)),
        ("Metrics", "table", _metrics(record)),
        ("Latency", "table", _latency(record)),
        ("Size and memory", "table", _size(record)),
        ("Steps", "table", _steps(record)),
        *([("Training", "table", training)] if training[1] else []),
        ("Data", "table", _facts(_data(record))),
    ]
    cleaning = record.get("data", {}).get("cleaning")
    if cleaning:
        found.append(("Cleaning", "table", _facts(cleaning)))
    labels = record.get("data", {}).get("labels")
    if isinstance(labels, Mapping) and labels:
        found.append(("Labels per split", "table", _labels(labels)))
    found.append(("Environment", "table", _facts(record["environment"])))
    found.append(("To repeat it", "code", command_line(record)))
    if config:
        found.append(("Configuration", "code", config))
    return [section for section in found if section[1] == "text" or section[2]]


def _verdict(record: Mapping[str, Any]) -> list[str]:
    rows = {row.name: row for row in describe(record)}
    row, base = rows[record["candidate"]], rows[record["baseline"]]
    metric = record["metric"]["name"]
    lines = []
    if row.metric is not None and base.metric is not None:
        difference = record["comparison"].get("metric_difference") or {}
        span = ""
        if difference.get("low") is not None and difference.get("high") is not None:
            span = f", difference {difference['value']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
        lines.append(
            f"{row.name} reaches {metric} {row.metric:.4f} on the test split, the baseline {base.name} "
            f"{base.metric:.4f}: {formats.percent(row.retained)} retained{span}."
        )
    lines += [
        f"At {timing.label} (batch × tokens) on {timing.device} a batch takes {formats.milliseconds(timing.p50)} ms "
        f"with {timing.threads} {'thread' if timing.threads == 1 else 'threads'}, "
        f"a speedup of {formats.speedup(timing)}."
        for timing in row.timings
    ]
    if row.weights_bytes is not None:
        lines.append(
            f"Its weights take {formats.megabytes(row.weights_bytes)} MB, {formats.ratio(row.size_ratio)} smaller."
        )
    budget = record.get("budget", {})
    asked = ", ".join(f"{key}={limit:g}" for key, limit in (budget.get("asked") or {}).items())
    kept = f"The budget was met: {asked}." if asked else "No budget was set."
    lines += [item["message"] for item in budget.get("missed", [])] or [kept]
    return lines


def _reading(record: Mapping[str, Any]) -> str:
    return (
        f"Speedup and smaller are the baseline ({record['baseline']}) over the variant: larger is better. Brackets "
        "hold the interval of a speedup, where one was measured; a difference within the noise is inconclusive. "
        "p50 is the median time of a batch, thr the threads used. MB are 10^6 bytes. Every variant was read from "
        "disk and measured in the same run, interleaved."
    )


def _metrics(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = describe(record)
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if not names:
        return [], []
    validation = {row.name: record["variants"][row.name].get("validation_metrics") or {} for row in rows}
    splits = {"test": {row.name: row.metrics for row in rows}}
    if any(validation.values()):
        splits["validation"] = validation
    lines = [
        [row.name, *(formats.number(found[row.name].get(name)) for found in splits.values() for name in names)]
        for row in rows
    ]
    return ["variant", *(f"{name}, {split}" for split in splits for name in names)], lines


def _latency(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["variant", "device", "threads", "batch × tokens"]
    header += ["p50 ms", "p90 ms", "p95 ms", "p99 ms", "mean ms", "rows per s", "speedup"]
    lines = [
        [
            *(row.name, t.device, str(t.threads or formats.NOTHING), t.label),
            *(formats.number(value, 2) for value in (t.p50, t.p90, t.p95, t.p99, t.mean)),
            formats.number(t.throughput, 1),
            formats.speedup(t),
        ]
        for row in describe(record)
        for t in row.timings
    ]
    return header, lines


def _size(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["variant", "folder MB", "weights MB", "embeddings MB", "other MB", "smaller", "parameters", "MACs"]
    header += ["peak memory MB", "less memory"]
    lines = []
    for row in describe(record):
        other = None if row.weights_bytes is None else row.weights_bytes - (row.embedding_bytes or 0)
        shape = (record["variants"][row.name].get("size") or {}).get("macs_shape") or []
        at = f" at {' × '.join(map(str, shape))}" if shape and row.macs is not None else ""
        lines.append(
            [
                row.name,
                *(
                    formats.megabytes(value)
                    for value in (row.artifact_bytes, row.weights_bytes, row.embedding_bytes, other)
                ),
                formats.ratio(row.size_ratio),
                formats.NOTHING if row.parameters is None else f"{row.parameters:,}",
                formats.NOTHING if row.macs is None else f"{row.macs:,}{at}",
                formats.megabytes(row.peak_rss_bytes),
                formats.ratio(row.memory_ratio),
            ]
        )
    return header, lines


def _steps(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    lines = [
        [
            str(step.get("name")),
            "reused" if step.get("cached") else "run",
            formats.number(step.get("seconds"), 1),
            str(step.get("key") or "")[:16],
            "; ".join(f"{name} {text}" for name, text in _flatten("", _without_history(step))),
        ]
        for step in record["steps"]
    ]
    return ["step", "this time", "seconds", "key", "facts"], lines


def _without_history(step: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (step.get("facts") or {}).items() if name != "history"}


def _training(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return loss and validation metrics per epoch of the steps that trained."""
    entries = [
        (step["name"], entry) for step in record["steps"] for entry in (step.get("facts") or {}).get("history", ())
    ]
    names = list(dict.fromkeys(name for _, entry in entries for name in entry if name not in ("epoch", "loss")))
    lines = [
        [step, str(entry.get("epoch")), *(formats.number(entry.get(name)) for name in ("loss", *names))]
        for step, entry in entries
    ]
    return ["step", "epoch", "loss", *(f"{name}, validation" for name in names)], lines


def _data(record: Mapping[str, Any]) -> dict[str, Any]:
    data = record.get("data", {})
    facts = {key: value for key, value in data.items() if key not in ("labels", "cleaning")}
    return {"task": record["task"], "seed": record.get("seed"), **facts}


def _labels(labels: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    if not all(isinstance(counts, Mapping) for counts in labels.values()):
        return _facts(labels)
    names = list(dict.fromkeys(name for counts in labels.values() for name in counts))
    return ["label", *labels], [[name, *(str(counts.get(name, 0)) for counts in labels.values())] for name in names]


def _facts(value: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Flatten nested facts to a table of dotted names and values."""
    return ["fact", "value"], [[name, text] for name, text in _flatten("", value)]


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(item) for item in value)
    else:
        yield prefix, formats.NOTHING if value is None else str(value)


def _config(directory: Path) -> str | None:
    try:
        return (directory / _ARCHIVE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{directory / _ARCHIVE}: cannot be read ({error})") from error


def to_markdown(title: str, content: Sequence[Section]) -> str:
    """Return sections as Markdown."""
    lines = [f"# {title}", ""]
    for name, kind, item in content:
        if name:
            lines += [f"## {name}", ""]
        if kind == "table":
            lines += _markdown_table(*item)
        elif kind == "list":
            lines += [f"- {entry}" for entry in item]
        elif kind == "code":
            lines += ["```", item.rstrip("\n"), "```"]
        elif kind == "plots":
            lines += [f"![{path.stem}](plots/{path.name})" for path in item]
        else:
            lines += [text for entry in item for text in (entry, "")][:-1]
        lines.append("")
    return "\n".join(lines)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    # Names of labels and columns are the user's: they must be read as text, not as markup.
    escaped = [
        [escape(cell, quote=False).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]
    ]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]
