"""What a quantized model may lose, judged on the validation split."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compress.checkpoint import Checkpoint
    from compress.runtime import Predictor
    from compress.steps.base import Context

__all__ = ["judge", "metric_of", "source_metric", "torch_validation_metric", "validation_metric"]

_ADVICE = ("per_channel=true", "reduce_range=true", "embeddings=false")


def validation_metric(directory: Path, context: Context) -> float:
    """Return the task's main metric of an ONNX model over the whole validation split."""
    from compress.runtime import open_onnx

    predictor = open_onnx(directory, task=context.task, threads=context.threads)
    try:
        return metric_of(predictor, context)
    finally:
        predictor.close()


def metric_of(predictor: Predictor, context: Context) -> float:
    """Return the task's main metric of an open model over the whole validation split."""
    features = context.task.encode(context.data.validation, predictor.tokenizer, context.max_length)
    logits = predictor.logits_of(features)
    return round(float(context.task.metrics(logits, features)[context.task.metric]), 6)


def torch_validation_metric(directory: Path, context: Context) -> float:
    """Return the task's main metric of a torch model over the whole validation split, on the CPU."""
    from transformers import AutoConfig

    from compress.models.families import family
    from compress.models.pruned import load_weights
    from compress.models.torch_io import load_tokenizer, quiet
    from compress.runtime import TorchPredictor

    with quiet():
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        how = {"attn_implementation": family(config.model_type).attention}
        model = load_weights(lambda: context.task.model_class().from_config(config, **how), directory)
    tokenizer = load_tokenizer(directory)
    predictor = TorchPredictor(model, task=context.task, tokenizer=tokenizer, threads=context.threads)
    try:
        return metric_of(predictor, context)
    finally:
        predictor.close()


def source_metric(source: Checkpoint, context: Context) -> float:
    """Return the source's validation metric, computed once for all quantizations of that source."""
    from compress.files import canonical_json
    from compress.keys import source_digest
    from compress.machine import isa, package_version

    torch = source.format == "torch"
    runtime = ("torch", "transformers") if torch else ("onnxruntime",)
    content = {
        "source": source.digest,
        "data": context.data.fingerprint,
        "task": [context.task.name, context.task.metric, list(context.task.labels), context.max_length],
        "modules": {name: source_digest(name) for name in ("compress.runtime", "compress.tasks")},
        "packages": {name: package_version(name) for name in (*runtime, "tokenizers")},
        "isa": isa(),
    }
    name = hashlib.sha256(canonical_json(content)).hexdigest()
    path = context.cache / "validation_metrics" / f"{name}.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["value"])
    except (OSError, ValueError, KeyError, TypeError):
        value = (torch_validation_metric if torch else validation_metric)(source.path, context)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{name}.{os.getpid()}")
    temporary.write_text(json.dumps({"value": value}), encoding="utf-8")
    temporary.replace(path)
    return value


def judge(before: float, after: float, allowed: float, context: Context, advice: Sequence[str] = _ADVICE) -> None:
    """Raise StepError if the metric fell by more than `allowed` (absolute) or is no number.

    `advice` is what may lose less, each as KEY=VALUE of the step's config.
    """
    lost = before - after if context.task.higher_is_better else after - before
    if math.isfinite(lost) and lost <= allowed + 1e-9:
        return
    raise StepError(
        f"step {context.name}: validation {context.task.metric} went from {before:.4f} to {after:.4f} on quantization, "
        f"a loss of {lost:.4f}; {context.name}.max_metric_drop allows {allowed:g}. "
        f"Try {' or '.join(f'{context.name}.{item}' for item in advice)}, or raise the gate"
    )
