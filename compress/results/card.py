"""The model card that goes with an artifact: what it is, how it was made, what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.files import write_atomic
from compress.results.report import command_line
from compress.results.table import cells
from compress.results.variants import describe

__all__ = ["render", "write"]

_PIPELINE_TAGS = {"text_classification": "text-classification", "token_classification": "token-classification"}


def write(record: Mapping[str, Any], artifact: Path) -> Path:
    """Write the card as ``README.md`` into an artifact's folder; loading never reads it."""
    path = artifact / "README.md"
    write_atomic(path, render(record).encode())
    return path


def render(record: Mapping[str, Any]) -> str:
    """Return the card: front matter as the Hugging Face hub reads it, then text for people."""
    row = next(row for row in describe(record) if row.name == record["candidate"])
    base = record["baseline"]
    data, metric = record.get("data", {}), record["metric"]["name"]
    steps = [step["name"] for step in record["steps"]]
    header, rows = cells(record)
    table = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    table += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows]
    rows_used = ", ".join(f"{count} {split}" for split, count in data.get("rows", {}).items()) or "not stated"
    truncated = data.get("truncated")
    truncated = truncated.get("test") if isinstance(truncated, Mapping) else truncated
    cpu = record["environment"].get("cpu") or {}
    lines = [
        *_front_matter(record, row.metric, row.runtime, row.precision),
        "",
        f"# {record['recipe']} on {data.get('name', record['task'])}",
        "",
        f"A {record['task'].replace('_', ' ')} model in {row.format} format, {row.precision}, made by "
        f"{' → '.join(steps) or 'one step'}.",
        "",
        "## Use",
        "",
        "```python",
        "import compress",
        "",
        'model = compress.load("path/to/this/folder")',
        f"model.predict({_example(record['task'])})",
        "```",
        "",
        "## Measured",
        "",
        *table,
        "",
        f"The baseline is {base}; {metric} is that of the test split. Latencies are medians per batch of the stated "
        f"shape (batch × tokens) on {cpu.get('model', 'an unnamed CPU')}, {cpu.get('cores', '?')} cores; ratios "
        "with brackets carry an interval. Other machines give other numbers.",
        "",
        "## Data",
        "",
        f"{data.get('name', 'not stated')}: {rows_used} rows; fingerprint `{str(data.get('fingerprint', ''))[:16]}`. "
        f"Test rows cut at the length limit: {'unknown' if truncated is None else truncated}.",
        "",
        "## Made by",
        "",
        "```",
        command_line(record),
        "```",
        "",
    ]
    if record.get("warnings"):
        lines += ["## Warnings", "", *(f"- {warning}" for warning in record["warnings"]), ""]
    lines += [
        "## Limits",
        "",
        "The licences of the base model and of the data hold for this model too. It was judged on the data named above "
        "and knows nothing of other languages, domains or labels.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(record: Mapping[str, Any], value: float | None, runtime: str, precision: str) -> list[str]:
    """Return YAML; every string is written as JSON, which YAML reads."""
    text, data = json.dumps, record.get("data", {})
    tag = _PIPELINE_TAGS.get(record["task"], record["task"].replace("_", "-"))
    library = "onnx" if runtime == "onnxruntime" else "transformers"
    tags = list(dict.fromkeys(tag for tag in ("compress", record["recipe"], runtime, precision) if tag))
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {text(tag)}", "tags:"]
    lines += [f"- {text(tag)}" for tag in tags]
    if value is not None:
        name = record["metric"]["name"]
        lines += [
            "metrics:",
            f"- {text(name)}",
            "model-index:",
            f"- name: {text(record['recipe'])}",
            "  results:",
            "  - task:",
            f"      type: {text(tag)}",
            "    dataset:",
            f"      name: {text(str(data.get('name', 'unknown')))}",
            f"      type: {text(str(data.get('name', 'unknown')))}",
            "      split: test",
            "    metrics:",
            f"    - type: {text(name)}",
            f"      value: {value:.6f}",
        ]
    return [*lines, "---"]


def _example(task: str) -> str:
    return '[["Ada", "Lovelace", "lived", "in", "London"]]' if task == "token_classification" else '["some text"]'
