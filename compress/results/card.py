"""The model card that goes with an artifact: what it is, how it was made, what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.files import write_atomic
from compress.results.report import command_line
from compress.results.rows import VariantRow, describe, metric_of
from compress.results.table import cells

__all__ = ["render", "write"]

_PIPELINE_TAGS = {"text_classification": "text-classification", "token_classification": "token-classification"}

_LIBRARIES = {"onnxruntime": "onnx", "openvino": "openvino"}
"""What the hub calls the library of a runtime; transformers for others."""

_METRICS = {"f1_macro": ("f1", "macro F1", {"average": "macro"})}
"""Type, name and arguments of metrics that the hub knows under another name."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""What a model or a data set of the hub is called; a path or a package is none."""


def write(record: Mapping[str, Any], artifact: Path) -> Path:
    """Write the card as ``README.md`` into an artifact's folder; loading never reads it."""
    path = artifact / "README.md"
    write_atomic(path, render(record).encode())
    return path


def render(record: Mapping[str, Any]) -> str:
    """Return the card: front matter as the Hugging Face hub reads it, then text for people."""
    row = next(row for row in describe(record) if row.name == record["candidate"])
    base = record["baseline"]
    data, metric = record.get("data") or {}, metric_of(record)[0] or "quality"
    steps = [step["name"] for step in record["steps"]]
    header, rows = cells(record)
    table = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    table += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows]
    rows_used = ", ".join(f"{count} {split}" for split, count in data.get("rows", {}).items()) or "not stated"
    truncated = data.get("truncated")
    truncated = truncated.get("test") if isinstance(truncated, Mapping) else truncated
    cpu = record["environment"].get("cpu") or {}
    lines = [
        *_front_matter(record, row),
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


def _front_matter(record: Mapping[str, Any], row: VariantRow) -> list[str]:
    """Return YAML; every string is written as JSON, which YAML reads."""
    text, model = json.dumps, record.get("model") or {}
    tag = _PIPELINE_TAGS.get(record["task"], str(record["task"]).replace("_", "-"))
    lines = ["---", f"library_name: {_LIBRARIES.get(str(row.runtime), 'transformers')}"]
    lines.append(f"pipeline_tag: {text(tag)}")
    if model.get("license"):
        lines.append(f"license: {text(str(model['license']).lower())}")
    if _HUB_ID.fullmatch(str(model.get("name", ""))):
        relation = "finetune" if row.precision == "fp32" else "quantized"
        lines += [f"base_model: {text(model['name'])}", f"base_model_relation: {relation}"]
    tags = dict.fromkeys(tag for tag in ("compress", record["recipe"], row.runtime, row.precision) if tag)
    lines += ["tags:", *(f"- {text(tag)}" for tag in tags)]
    return [*lines, *_results(record, row, tag), "---"]


def _results(record: Mapping[str, Any], row: VariantRow, tag: str) -> list[str]:
    """Return the metrics of the test split as the hub's index of models reads them."""
    text, (name, _) = json.dumps, metric_of(record)
    if name is None or row.metric is None:
        return []
    kind, called, arguments = _METRICS.get(name, (name, name.replace("_", " "), {}))
    data = str((record.get("data") or {}).get("name") or "unknown")
    lines = [
        "metrics:",
        f"- {text(kind)}",
        "model-index:",
        f"- name: {text(record['recipe'])}",
        "  results:",
        "  - task:",
        f"      type: {text(tag)}",
        "    dataset:",
        f"      name: {text(data)}",
        f"      type: {text(data)}",
        "      split: test",
        "    metrics:",
        f"    - type: {text(kind)}",
        f"      name: {text(called)}",
        f"      value: {row.metric:.6f}",
    ]
    return [
        *lines,
        *(["      args:", *(f"        {key}: {value}" for key, value in arguments.items())] if arguments else []),
    ]


def _example(task: str) -> str:
    return '[["Ada", "Lovelace", "lived", "in", "London"]]' if task == "token_classification" else '["some text"]'
