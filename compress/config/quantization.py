"""Schemas of the group ``quantize``, one per method."""

from __future__ import annotations

from dataclasses import dataclass

from compress.config.options import option
from compress.config.training import Taught

__all__ = [
    "BitsAndBytes",
    "DynamicQuantization",
    "MixedQuantization",
    "OpenVINOQuantization",
    "QuantizationAwareTraining",
    "StaticQuantization",
    "TrainedQuantization",
    "WeightOnlyQuantization",
]

_KERNELS = (
    "fused: biases inside the integer kernels of ONNX Runtime, bit-equal and faster; qdq: operators of the ONNX "
    "standard alone, for other runtimes"
)


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


@dataclass
class StaticQuantization:
    """ONNX Runtime static INT8: the range of every quantized activation is fixed beforehand, on training rows."""

    calibration: str = option(
        "percentile",
        "how the range of an activation is found",
        choices=["min_max", "percentile", "mse", "entropy"],
    )
    percentile: float = option(99.999, "per cent of an activation's numbers that stay inside", above=50, maximum=100)
    calibration_rows: int = option(512, "training rows that are looked at", minimum=1)
    batch_size: int = option(16, "rows per batch of calibration; bounds its memory", minimum=1)
    symmetric: bool = option(False, "activations symmetric around 0 (zero point 128)")
    per_channel: bool = option(True, "one scale per output channel instead of one per matrix")
    weight_range: str = option(
        "mse", "range of a channel's weights: up to the largest, or of least squared error", choices=["max", "mse"]
    )
    reduce_range: str = option(
        "auto", "7-bit weights: without VNNI 8-bit products can saturate", choices=["auto", "true", "false"]
    )
    rounding: str = option(
        "gptq",
        "how weights are rounded: each to its nearest level, learned (AdaRound), or with the errors made up for (GPTQ)",
        choices=["nearest", "adaround", "gptq"],
    )
    bias_correction: bool = option(True, "add what quantization takes from the mean of each output to its bias")
    smooth: bool = option(False, "SmoothQuant: outliers of activations move into weights")
    alpha: float | None = option(None, "migration strength of smooth; null searches it per value", minimum=0, maximum=1)
    embeddings: bool = option(True, "quantize the token embeddings too")
    head: bool = option(False, "quantize the task head too")
    kernels: str = option("fused", _KERNELS, choices=["fused", "qdq"])
    max_metric_drop: float | None = option(
        0.05, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )


@dataclass
class WeightOnlyQuantization:
    """Weights of 2, 4 or 8 bits in blocks that share a scale, multiplied as floats (ONNX Runtime's MatMulNBits)."""

    bits: int = option(4, "bits per weight: 2, 4 or 8", minimum=2, maximum=8)
    block_size: int = option(64, "weights that share a scale, along the input; a power of two", minimum=16, maximum=256)
    rounding: str = option(
        "gptq",
        "how weights are rounded: each to its nearest level, by half-quadratic zero points (HQQ), or with the errors "
        "made up for on training rows (GPTQ)",
        choices=["nearest", "hqq", "gptq"],
    )
    symmetric: bool = option(False, "no zero points: a little smaller, a little less accurate")
    activations: str = option(
        "int8", "what the kernel makes of activations while it multiplies", choices=["float32", "int8"]
    )
    calibration_rows: int = option(512, "training rows that rounding=gptq looks at", minimum=1)
    batch_size: int = option(16, "rows per batch of calibration; bounds its memory", minimum=1)
    embeddings: bool = option(True, "quantize the token embeddings too")
    head: bool = option(False, "quantize the task head too")
    max_metric_drop: float | None = option(
        0.05, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )


@dataclass
class QuantizationAwareTraining(Taught):
    """Train with weights, for INT8 activations too, rounded as kernels do; ``quantize=trained`` follows export."""

    epochs: int = option(2, "passes over the training split", minimum=1)
    learning_rate: float = option(5e-5, "peak learning rate", above=0)
    teacher: str | None = option(None, "earlier step whose checkpoint teaches; null is the step's own source")
    bits: str = option(
        "auto",
        "of weights; auto is 8, or 7 without VNNI, where 8-bit products can saturate; 2 and 4 in blocks, inputs float",
        choices=["auto", "2", "4", "7", "8"],
    )
    block_size: int = option(64, "bits=2 and 4: weights that share a scale, a power of two", minimum=16, maximum=256)
    calibration: str = option(
        "percentile",
        "where the ranges of activations begin, on training rows",
        choices=["min_max", "percentile", "mse", "entropy"],
    )
    percentile: float = option(99.999, "per cent of an activation's numbers that stay inside", above=50, maximum=100)
    calibration_rows: int = option(256, "training rows that are looked at before training", minimum=1)
    embeddings: bool = option(True, "round the token embeddings too, as quantize=trained stores them")
    head: bool = option(False, "quantize the task head too")


@dataclass
class TrainedQuantization:
    """The integers that quantization-aware training found; nothing is calibrated."""

    bits: str = option("8", "those that training saw: 8 (or the 7 of its auto), 4 or 2", choices=["2", "4", "8"])
    activations: str = option(
        "int8", "bits=2 and 4: what the kernel makes of activations while it multiplies", choices=["float32", "int8"]
    )
    kernels: str = option("fused", f"for bits=8: {_KERNELS}", choices=["fused", "qdq"])
    embeddings: bool = option(True, "quantize the token embeddings too")
    max_metric_drop: float | None = option(
        0.05, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )


@dataclass
class MixedQuantization:
    """Few bits where they cost little, more where they cost much: searched on validation rows, verified end to end."""

    bits: str = option(
        "8/32",
        "of most products and of those that are spared: 8/32 is static INT8 and fp32, 4/8 weights in blocks",
        choices=["8/32", "4/8"],
    )
    max_metric_drop: float | None = option(
        None,
        "validation metric that may be lost against the source; null is budget.max_metric_drop, else 0.005",
        minimum=0,
    )
    calibration: str = option(
        "percentile",
        "how the range of an activation is found, for 8/32",
        choices=["min_max", "percentile", "mse", "entropy"],
    )
    percentile: float = option(99.999, "per cent of an activation's numbers that stay inside", above=50, maximum=100)
    block_size: int = option(64, "weights that share a scale, for 4/8; a power of two", minimum=16, maximum=256)
    rounding: str = option(
        "gptq",
        "how weights are rounded: to the nearest level, or with the errors made up for",
        choices=["nearest", "gptq"],
    )
    calibration_rows: int = option(512, "training rows that are looked at", minimum=1)
    batch_size: int = option(16, "rows per batch of calibration; bounds its memory", minimum=1)
    embeddings: bool = option(True, "quantize the token embeddings too: 8 bits, or 4 where they are not spared")
    head: bool = option(False, "quantize the task head too, if the search does not spare it")
    kernels: str = option("fused", f"for 8/32: {_KERNELS}", choices=["fused", "qdq"])


@dataclass
class OpenVINOQuantization:
    """OpenVINO INT8 by NNCF: weights and activations are integers, activation ranges come from training rows."""

    weights: str = option("int8", "int8, or fp32: the format alone, to compare with", choices=["int8", "fp32"])
    calibration_rows: int = option(300, "training rows, one by one, that activation ranges are read from", minimum=1)
    preset: str = option(
        "mixed", "mixed: activations with a zero point; performance: without", choices=["mixed", "performance"]
    )
    activation_range: str = option(
        "mean",
        "of activations: mean of the rows' extremes, the extremes of all rows, or a quantile of each row",
        choices=["mean", "extremes", "quantile"],
    )
    smooth_quant: float | None = option(
        0.95,
        "share of activation outliers that moves into weights (SmoothQuant's alpha); null is off",
        minimum=0,
        maximum=1,
    )
    bias_correction: str = option(
        "fast", "move biases by the mean error: fast, full (sequential, slow), off", choices=["fast", "full", "off"]
    )
    reduce_range: str = option(
        "auto", "7-bit weights: without VNNI 8-bit products can saturate", choices=["auto", "true", "false"]
    )
    attention: bool = option(True, "quantize products of activations too: scores, and scores by values")
    embeddings: bool = option(True, "store the token embeddings as INT8, a scale per row, in memory too")
    head: bool = option(False, "quantize the task head too")
    ignored: list[str] = option([], "patterns of products that stay fp32, e.g. encoder.layer.0.*")
    accuracy_control: float | None = option(
        None,
        "products go back to fp32 until the validation metric has fallen by at most this; null is off",
        minimum=0,
    )
    inference_precision: str = option(
        "f32", "what the runtime computes floats in; bf16 needs such a processor", choices=["f32", "bf16"]
    )
    max_metric_drop: float | None = option(
        0.05, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )


@dataclass
class BitsAndBytes:
    """bitsandbytes: weights of 4 or 8 bits in a torch checkpoint; it stands where export would."""

    method: str = option(
        "nf4", "4 bits by quantiles of a normal distribution, 4-bit floats, LLM.int8", choices=["nf4", "fp4", "int8"]
    )
    double_quant: bool = option(True, "nf4 and fp4: the scales of the blocks in 8 bits too")
    block_size: int = option(64, "nf4 and fp4: weights that share a scale, a power of two", minimum=32, maximum=4096)
    compute: str = option("fp32", "nf4 and fp4: type of the products", choices=["fp32", "bf16", "fp16"])
    threshold: float = option(6.0, "int8: input columns beyond it are multiplied in float; 0 is off", minimum=0)
    embeddings: bool = option(True, "quantize the tables of tokens and positions too")
    head: bool = option(False, "quantize the product that makes the logits too")
    max_metric_drop: float | None = option(
        0.05, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )
