"""A record as the benchmark of the main job writes it, with made-up numbers."""

from __future__ import annotations

from typing import Any


def latency(batch: int, length: int | None, p50: float, threads: int) -> dict[str, Any]:
    return {
        "device": "cpu",
        "threads": threads,
        "batch_size": batch,
        "sequence_length": length,
        "p50_ms": p50,
        "p90_ms": p50 * 1.1,
        "p95_ms": p50 * 1.2,
        "p99_ms": p50 * 1.5,
        "mean_ms": p50 * 1.02,
        "throughput_per_s": batch / p50 * 1000,
    }


def variant(
    name: str, runtime: str, precision: str, accuracy: float, one: float, eight: float, weights: int
) -> dict[str, Any]:
    return {
        "step": name,
        "format": "torch" if runtime == "torch" else "onnx",
        "runtime": runtime,
        "precision": precision,
        "metrics": {"accuracy": accuracy, "f1_macro": accuracy - 0.01},
        "latency": [latency(1, 32, one, 1), latency(8, 128, eight, 2)],
        "memory": {"peak_rss_bytes": 400_000_000 + weights, "peak_device_bytes": None},
        "size": {
            "artifact_bytes": weights + 1_000_000,
            "weights_bytes": weights,
            "embedding_bytes": weights // 2,
            "parameters": weights // 4,
            "macs": 340_000_000,
            "macs_shape": [1, 32],
        },
    }


def speedup(length: int, batch: int, value: float) -> dict[str, Any]:
    return {
        "device": "cpu",
        "threads": 1,
        "batch_size": batch,
        "sequence_length": length,
        "value": value,
        "low": value * 0.97,
        "high": value * 1.03,
        "verdict": "faster",
    }


MEASUREMENT: dict[str, Any] = {
    "variants": {
        "finetune": variant("finetune", "torch", "fp32", 0.86, 9.0, 120.0, 90_000_000),
        "distill": variant("distill", "torch", "fp32", 0.85, 5.0, 62.0, 69_000_000),
        "export": variant("export", "onnxruntime", "fp32", 0.85, 2.5, 40.0, 69_000_000),
        "quantize": variant("quantize", "onnxruntime", "int8", 0.845, 1.25, 24.0, 17_500_000),
    },
    "comparison": {
        "metric_retained": 0.845 / 0.86,
        "metric_difference": {"value": -0.015, "low": -0.024, "high": -0.006},
        "speedup": [speedup(32, 1, 7.1), speedup(128, 8, 5.0)],
        "size_ratio": 90 / 17.5,
        "memory_ratio": 490 / 417.5,
    },
    "warnings": ["load average 1.7 during the measurement"],
    "load_average": 1.7,
    "truncated": 3,
}

STEPS: list[dict[str, Any]] = [
    {"name": name, "kind": name, "key": name[0] * 64, "cached": name == "finetune", "seconds": 12.5, "facts": {}}
    for name in ("finetune", "distill", "export", "quantize")
]

DATA: dict[str, Any] = {
    "name": "tweets",
    "fingerprint": "f" * 64,
    "rows": {"train": 800, "validation": 100, "test": 200},
    "labels": {split: {"negative": 1, "neutral|odd": 2, "<positive>": 3} for split in ("train", "validation", "test")},
    "cleaning": {"rows_read": 1200, "duplicates_dropped": 100},
}

ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "cpu": {"model": "a processor", "isa": ["avx512_vnni"], "cores": 2},
    "gpu": None,
    "load_average": 0.2,
}
