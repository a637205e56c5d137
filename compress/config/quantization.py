"""Schemas of the group ``quantize``, one per method."""

from __future__ import annotations

from dataclasses import dataclass

from compress.config.options import option

__all__ = ["DynamicQuantization"]


@dataclass
class DynamicQuantization:
    """ONNX Runtime dynamic INT8: weights stored as integers, activations quantized as they come."""

    weight_type: str = option("int8", "integer type of the weights", choices=["int8", "uint8"])
    per_channel: bool = option(True, "one scale per output channel instead of one per matrix")
    reduce_range: str = option(
        "auto", "7-bit weights: without VNNI 8-bit products can saturate", choices=["auto", "true", "false"]
    )
    embeddings: bool = option(True, "quantize the token embeddings too")
    head: bool = option(False, "quantize the task head too")
    max_metric_drop: float | None = option(
        0.05, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )
