"""The tables of a run's report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compress.results import formats
from compress.results.markup import Table
from compress.results.rows import Span, Timing, describe, metric_of

__all__ = [
    "against_baseline",
    "cold_start",
    "data_facts",
    "facts",
    "labels",
    "latency",
    "measurement",
    "memory",
    "metrics",
    "noise_floor",
    "search",
    "size",
    "steps",
    "training",
    "vocabulary",
]

Record = Mapping[str, Any]


def metrics(record: Record) -> Table:
    """Return every metric of every variant, test and validation side by side."""
    rows = describe(record)
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if not names:
        return [], []
    splits = {"test": {row.name: row.metrics for row in rows}}
    if any(row.validation_metrics for row in rows):
        splits["validation"] = {row.name: row.validation_metrics for row in rows}
    lines = [
        [row.name, *(formats.number(found[row.name].get(name)) for found in splits.values() for name in names)]
        for row in rows
    ]
    return ["variant", *(f"{name}, {split}" for split in splits for name in names)], lines


def against_baseline(record: Record) -> Table:
    """Return how each variant's answers differ from the baseline's, row by row of the data."""
    metric, _ = metric_of(record)
    rows = [row for row in describe(record) if row.role != "baseline" and row.difference.value is not None]
    lines = [
        [
            row.name,
            *_difference(row.difference),
            *_difference(row.validation_difference),
            formats.percent(row.agreement),
            *(_count(row.mcnemar.get(name)) for name in ("only_baseline", "only_candidate")),
            _probability(row.mcnemar.get("p_value")),
        ]
        for row in rows
    ]
    header = ["variant", f"{metric} difference, test", "interval", "difference, validation", "interval", "agreement"]
    return [*header, "only baseline right", "only variant right", "McNemar p"], lines


def latency(record: Record) -> Table:
    """Return the times of every variant at every shape; columns that nothing fills are left out."""
    columns: dict[str, Callable[[Timing], str]] = {
        "device": lambda t: t.device,
        "threads": lambda t: _count(t.threads),
        "batch × tokens": lambda t: t.label,
        "p50 ms": lambda t: formats.milliseconds(t.p50),
        "p90 ms": lambda t: formats.milliseconds(t.p90),
        "p95 ms": lambda t: formats.milliseconds(t.p95),
        "p99 ms": lambda t: formats.milliseconds(t.p99),
        "mean ms": lambda t: formats.milliseconds(t.mean),
        "rows per s": lambda t: formats.number(t.throughput, 1),
        "speedup": formats.speedup,
        "device p50 ms": lambda t: formats.milliseconds(t.device_p50),
        "mJ per batch": lambda t: formats.NOTHING if t.energy_j is None else f"{1000 * t.energy_j:.3g}",
        "threads tried": _tried,
        "runs": lambda t: _count(t.runs),
        "rounds": lambda t: _count(t.rounds),
        "processes": lambda t: _count(t.launches),
    }
    timings = [(row.name, timing) for row in describe(record) for timing in row.timings]
    lines = [[name, *(write(timing) for write in columns.values())] for name, timing in timings]
    return _without_empty(["variant", *columns], lines)


def size(record: Record) -> Table:
    """Return bytes on disk, parameters and multiply-accumulates."""
    header = ["variant", "folder MB", "weights MB", "embeddings MB", "other MB", "smaller", "parameters", "MACs"]
    lines = []
    for row in describe(record):
        other = None if row.weights_bytes is None else row.weights_bytes - (row.embedding_bytes or 0)
        shape = (record["variants"][row.name].get("size") or {}).get("macs_shape") or []
        at = f" at {' × '.join(map(str, shape))}" if shape and row.macs is not None else ""
        parts = (row.artifact_bytes, row.weights_bytes, row.embedding_bytes, other)
        lines.append(
            [
                row.name,
                *map(formats.megabytes, parts),
                formats.ratio(row.size_ratio),
                formats.NOTHING if row.parameters is None else f"{row.parameters:,}",
                formats.NOTHING if row.macs is None else f"{row.macs:,}{at}",
            ]
        )
    return header, lines


def memory(record: Record) -> Table:
    """Return memory: the model's peaks while opening and answering, what it holds, and the peak of the process."""
    names = {
        "model MB": "model_bytes",
        "opening MB": "load_bytes",
        "answering MB": "inference_bytes",
        "after the first answer MB": "held_bytes",
        "empty process MB": "empty_rss_bytes",
        "whole process MB": "peak_rss_bytes",
        "device, torch MB": "peak_device_bytes",
        "device, driver MB": "driver_device_bytes",
    }
    lines = [
        [row.name, *(formats.megabytes(row.memory.get(key)) for key in names.values()), formats.ratio(row.memory_ratio)]
        for row in describe(record)
    ]
    return _without_empty(["variant", *names, "less memory"], lines)


def cold_start(record: Record) -> Table:
    """Return the time from a fresh process to its first answer."""
    names = {"imports": "import_ms", "opening": "open_ms", "first answer": "first_answer_ms", "total": "total_ms"}
    lines = [
        [row.name, *(formats.milliseconds(row.cold_start.get(key)) for key in names.values())]
        for row in describe(record)
        if row.cold_start
    ]
    return ["variant", *(f"{name}, ms" for name in names)], lines


def measurement(record: Record) -> Table:
    """Return how it was measured and what else the machine did meanwhile."""
    benchmark = record.get("benchmark") or {}
    noise = benchmark.get("noise") or {}
    energy = benchmark.get("energy") or {}
    load = noise.get("load_average", record["environment"].get("load_average"))
    found = {
        "variants measured in turns": benchmark.get("together_with"),
        "load average": load,
        "processor used by others before": _share(noise.get("busy_before")),
        "processor used by others meanwhile": _share(noise.get("others_share")),
        "taken by the hypervisor (steal)": _share(noise.get("steal_share")),
        "energy": energy.get("source") or energy.get("reason"),
        **{f"benchmark.{name}": text for name, text in _flatten("", benchmark.get("settings") or {})},
    }
    return ["fact", "value"], [[name, str(value)] for name, value in found.items() if value is not None]


def noise_floor(record: Record) -> Table:
    """Return the ratios of one artifact to itself: what no difference below can be told from nothing."""
    lines = [
        [
            f"{item.get('batch_size')} × {item.get('sequence_length') or 'natural'}",
            str(item.get("device")),
            _count(item.get("threads")),
            formats.number(item.get("value"), 3),
            f"[{item['low']:.3f}, {item['high']:.3f}]" if item.get("low") is not None else formats.NOTHING,
            formats.percent(item.get("half_width")),
            str(item.get("verdict")),
        ]
        for item in (record.get("benchmark") or {}).get("noise_floor") or ()
    ]
    return ["batch × tokens", "device", "threads", "ratio", "interval", "half-width", "verdict"], lines


def search(record: Record) -> Table:
    """Return what a search tried: each candidate after its short training and, where it got one, after its full one."""
    found = record.get("search") or {}
    lines = []
    for one in found.get("candidates") or ():
        trial, full = one.get("trial") or {}, one.get("full") or {}
        lines.append(
            [
                str(one.get("overrides")),
                *(formats.number(part.get("drop")) for part in (trial, full)),
                formats.ratio(trial.get("speedup")),
                formats.ratio(trial.get("size_ratio")),
                str(one.get("remark")),
            ]
        )
    header = ["candidate", "loss on validation, trial", "trained in full", "times faster", "times smaller", "remark"]
    return header, lines


def steps(record: Record) -> Table:
    """Return what each step did this time."""
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


def training(record: Record) -> Table:
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


def vocabulary(record: Record) -> Table:
    """Return what share of texts kept all their tokens after a vocabulary was pruned, by source of texts."""
    lines = [
        [
            name,
            f"{step['rows']} of {step['rows_before']}",
            f"{entry['name']}, {entry['source']}",
            _count(entry["texts"]),
            formats.percent(entry["whole"]),
            formats.percent(entry["tokens"]),
            f"{entry['pieces_before']:.1f}",
            f"{entry['pieces_after']:.1f}",
            _growth(entry["pieces_before"], entry["pieces_after"]),
            formats.percent(entry["unknown_after"]),
        ]
        for name, step in (record.get("vocabulary") or {}).items()
        for entry in step["texts"]
        if "missing" not in entry
    ]
    header = ["step", "tokens left", "texts", "how many", "kept all their tokens", "tokens kept"]
    return [*header, "tokens per text before", "after", "growth", "unknown after"], lines


def data_facts(record: Record) -> dict[str, Any]:
    """Return what the data was, less its cleaning and its labels."""
    data = {key: value for key, value in (record.get("data") or {}).items() if key not in ("labels", "cleaning")}
    return {"task": record["task"], "seed": record.get("seed"), **data}


def labels(counts: Mapping[str, Any]) -> Table:
    """Return rows per label and split."""
    if not all(isinstance(of_split, Mapping) for of_split in counts.values()):
        return facts(counts)
    names = list(dict.fromkeys(name for of_split in counts.values() for name in of_split))
    return ["label", *counts], [[name, *(str(part.get(name, 0)) for part in counts.values())] for name in names]


def facts(value: Mapping[str, Any]) -> Table:
    """Flatten nested facts to a table of dotted names and values."""
    return ["fact", "value"], [[name, text] for name, text in _flatten("", value)]


def _difference(span: Span) -> list[str]:
    if span.value is None:
        return [formats.NOTHING, formats.NOTHING]
    between = formats.NOTHING if span.low is None or span.high is None else f"[{span.low:+.4f}, {span.high:+.4f}]"
    return [f"{span.value:+.4f}", between]


def _probability(value: float | None) -> str:
    return formats.NOTHING if value is None else f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"


def _share(value: float | None) -> str | None:
    return None if value is None else formats.percent(value)


def _growth(before: float, after: float) -> str:
    return formats.NOTHING if not before else f"{100 * (after / before - 1):+.1f} %"


def _count(value: int | None) -> str:
    return formats.NOTHING if value is None else str(value)


def _tried(timing: Timing) -> str:
    tried = ", ".join(f"{threads}: {formats.milliseconds(value)}" for threads, value in timing.threads_tried.items())
    return tried or formats.NOTHING


def _without_empty(header: list[str], lines: list[list[str]]) -> Table:
    """Drop the columns that hold nothing in any line."""
    keep = [number for number in range(len(header)) if any(line[number] != formats.NOTHING for line in lines)]
    return [header[number] for number in keep], [[line[number] for number in keep] for line in lines]


def _without_history(step: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (step.get("facts") or {}).items() if name != "history"}


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield prefix, ", ".join(str(item) for item in value)
    else:
        yield prefix, formats.NOTHING if value is None else str(value)
