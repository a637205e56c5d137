"""The report of a run: what was asked, what came out, on which machine, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.files import write_atomic
from compress.results import formats
from compress.results import report_tables as tables
from compress.results.config_diff import differences
from compress.results.markup import Section, to_markdown
from compress.results.record import RECORD, read
from compress.results.rows import VariantRow, describe, metric_of
from compress.results.table import cells

__all__ = ["command_line", "sections", "write"]

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
    content = sections(record, plots, _config(directory), differences(directory))
    title = f"{record['recipe']}: {record['baseline']} to {record['candidate']}"
    markdown, html = directory / "report.md", directory / "report.html"
    write_atomic(markdown, to_markdown(title, content).encode())
    write_atomic(html, render(title, content).encode())
    return [markdown, html, *plots]


def command_line(record: Mapping[str, Any]) -> str:
    """Return the command that repeats a run: the recipe with its overrides, or the benchmark of its ``artifacts``."""
    overrides = list(record.get("overrides") or ())
    if record.get("artifacts"):
        own = [item for item in overrides if not item.startswith("recipe=")]
        measured = map(str, record["artifacts"].values())
        return shlex.join(["python", "-m", "compress.benchmark", *measured, *(["--", *own] if own else [])])
    if not any(item.startswith("recipe=") for item in overrides):
        overrides.insert(0, f"recipe={record['recipe']}")
    return shlex.join(["python", "-m", "compress", *overrides])


def sections(
    record: Mapping[str, Any],
    plots: Sequence[Path],
    config: str | None,
    changed: Sequence[tuple[str, str, str]] | None = None,
) -> list[Section]:
    """Return what a report says, in order, for whichever format it is written in.

    Parameters
    ----------
    record
        As in record.json.
    plots
        Files of figures.
    config
        The composed config as text, where it was kept.
    changed
        What it changes against the recipe as shipped, from `compress.results.config_diff.differences`; None where
        that is not known.
    """
    data = record.get("data") or {}
    counts = data.get("labels")
    found: list[Section] = [
        ("Result", "figures", _figures(record)),
        ("", "text", _verdict(record)),
        ("Warnings", "list", list(record.get("warnings") or ())),
        ("Variants", "table", cells(record)),
        ("", "text", [_reading(record)]),
        ("Search", "table", tables.search(record)),
        ("", "text", _searched(record)),
        ("Plots", "plots", list(plots)),
        ("Metrics", "table", tables.metrics(record)),
        ("Against the baseline", "table", tables.against_baseline(record)),
        ("Vocabulary", "table", tables.vocabulary(record)),
        ("", "text", _missing_texts(record)),
        ("Latency", "table", tables.latency(record)),
        ("Size", "table", tables.size(record)),
        ("Memory", "table", tables.memory(record)),
        ("Cold start", "table", tables.cold_start(record)),
        ("Noise floor", "table", tables.noise_floor(record)),
        ("Measurement", "table", tables.measurement(record)),
        ("Changed against the recipe", *_changed(record, changed)),
        ("Steps", "table", tables.steps(record)),
        ("Training", "table", tables.training(record)),
        ("Data", "table", tables.facts(tables.data_facts(record))),
        ("Cleaning", "table", tables.facts(data.get("cleaning") or {})),
        ("Labels per split", "table", tables.labels(counts) if isinstance(counts, Mapping) else ([], [])),
        ("Environment", "table", tables.facts(record["environment"])),
        ("To repeat it", "code", command_line(record)),
        ("Configuration", "folded", config or ""),
    ]
    return [section for section in found if (section[2][1] if section[1] == "table" else section[2])]


def _missing_texts(record: Mapping[str, Any]) -> list[str]:
    """Return which texts the table of the vocabulary lacks, and why; nothing where it has all."""
    entries = [entry for step in (record.get("vocabulary") or {}).values() for entry in step["texts"]]
    missing = dict.fromkeys(entry["missing"] for entry in entries if "missing" in entry)
    return [f"No texts of another domain: {reason}" for reason in missing]


def _searched(record: Mapping[str, Any]) -> list[str]:
    """Return what a search chose and why, and how to run that alone."""
    found = record.get("search")
    if not found:
        return []
    own = ("recipe=", "auto=", "auto.", "hydra", "+auto")
    shared = [item for item in record.get("overrides") or () if not item.startswith(own)]
    command = shlex.join(["python", "-m", "compress", *shlex.split(str(found["chosen"])), *shared])
    return [
        f"The search took {found['seconds'] / 60:.0f} minutes: {found['verdict']}. Losses are on validation, which "
        f"chooses; the test split, above, was read for the one that is left.",
        f"To make it again without a search: `{command}`.",
    ]


def _changed(record: Mapping[str, Any], changed: Sequence[tuple[str, str, str]] | None) -> tuple[str, Any]:
    if changed is None:
        return "text", []
    if not changed:
        return "text", [f"Nothing: the recipe {record['recipe']} with its defaults."]
    return "table", (["key", "recipe's default", "here"], [list(line) for line in changed])


def _sides(record: Mapping[str, Any]) -> tuple[VariantRow, VariantRow]:
    rows = {row.name: row for row in describe(record)}
    return rows[record["candidate"]], rows[record["baseline"]]


def _figures(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and remark of what matters most."""
    row, base = _sides(record)
    metric, _ = metric_of(record)
    found = []
    if row.metric is not None and base.metric is not None:
        found.append(
            (f"of {metric} kept", formats.percent(row.retained), f"{base.metric:.4f} → {row.metric:.4f}, test split")
        )
    for timing in row.timings[:2]:
        remark = f"{formats.milliseconds(timing.p50)} ms" + (f", {formats.interval(timing)}" if timing.low else "")
        found.append((f"speedup at {timing.label}", formats.ratio(timing.speedup), remark))
    if row.weights_bytes is not None:
        found.append(
            ("smaller", formats.ratio(row.size_ratio), f"{formats.megabytes(row.weights_bytes)} MB of weights")
        )
    used = row.memory.get("model_bytes")
    if used is not None:
        found.append(("less memory", formats.ratio(row.memory_ratio), f"{formats.megabytes(used)} MB at its peak"))
    return found


def _verdict(record: Mapping[str, Any]) -> list[str]:
    row, base = _sides(record)
    metric, _ = metric_of(record)
    lines = []
    if row.metric is not None and base.metric is not None:
        lines.append(
            f"{row.name} reaches {metric} {row.metric:.4f} on the test split, the baseline {base.name} "
            f"{base.metric:.4f}: {formats.percent(row.retained)} retained{_span(record, row)}."
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
    budget = record.get("budget") or {}
    asked = ", ".join(f"{key}={limit:g}" for key, limit in (budget.get("asked") or {}).items())
    kept = f"The budget was met: {asked}." if asked else "No budget was set."
    lines += [item["message"] for item in budget.get("missed", [])] or [kept]
    return lines


def _span(record: Mapping[str, Any], row: VariantRow) -> str:
    """Return the difference with its interval, and what McNemar's test says of it."""
    difference = row.difference
    if row.role == "baseline" or difference.value is None or difference.low is None or difference.high is None:
        return ""
    text = f", difference {difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    if row.mcnemar.get("p_value") is None:
        return text
    return (
        f"{text}; {row.mcnemar['only_baseline']} rows only {record['baseline']} gets right, "
        f"{row.mcnemar['only_candidate']} only {row.name} (McNemar's exact test: p = {row.mcnemar['p_value']:.2g})"
    )


def _reading(record: Mapping[str, Any]) -> str:
    confidence = ((record.get("benchmark") or {}).get("settings") or {}).get("confidence")
    interval = f"the {100 * confidence:g} % interval" if confidence else "the interval"
    return (
        f"Speedup and smaller are the baseline ({record['baseline']}) over the variant: larger is better. Brackets "
        f"hold {interval} of a speedup, where one was measured; a difference within the noise is inconclusive. "
        "p50 is the median time of a batch, thr the threads used. MB are 10^6 bytes. Every variant was read from "
        "disk and measured in the same run, interleaved."
    )


def _config(directory: Path) -> str | None:
    try:
        return (directory / _ARCHIVE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{directory / _ARCHIVE}: cannot be read ({error})") from error
