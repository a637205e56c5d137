"""Records as the benchmark writes them, with made-up numbers: of one run, and of a sweep measured together."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from compress.results.record import build, write_json


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


def speedup(length: int, batch: int, value: float, width: float = 0.03) -> dict[str, Any]:
    low, high = value * (1 - width), value * (1 + width)
    return {
        "device": "cpu",
        "threads": 1,
        "batch_size": batch,
        "sequence_length": length,
        "value": value,
        "low": low,
        "high": high,
        "verdict": "faster" if low > 1 else "slower" if high < 1 else "inconclusive",
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

HISTORY = [{"epoch": 1, "loss": 0.9, "accuracy": 0.8}, {"epoch": 2, "loss": 0.4, "accuracy": 0.86}]


def full_measurement() -> dict[str, Any]:
    """Return `MEASUREMENT` with all that the benchmark adds: validation, distributions, cold start, noise, tests."""
    found = copy.deepcopy(MEASUREMENT)
    base = found["variants"]["finetune"]
    found["comparisons"] = {}
    for number, (name, variant) in enumerate(found["variants"].items()):
        accuracy = variant["metrics"]["accuracy"]
        variant["validation_metrics"] = {"accuracy": accuracy + 0.01, "f1_macro": accuracy}
        for item in variant["latency"]:
            item.update(more(item["p50_ms"], number))
        weights = variant["size"]["weights_bytes"]
        variant["cold_start"] = {"import_ms": 900.0, "open_ms": 210.0, "first_answer_ms": 31.0, "total_ms": 1141.0}
        variant["memory"].update(
            driver_device_bytes=None,
            empty_rss_bytes=280_000_000,
            load_bytes=int(1.3 * weights),
            inference_bytes=int(1.1 * weights),
            model_bytes=int(1.3 * weights),
        )
        drop = accuracy - base["metrics"]["accuracy"]
        found["comparisons"][name] = {
            "metric_retained": accuracy / base["metrics"]["accuracy"],
            "metric_difference": {"value": drop, "low": drop - 0.009, "high": drop + 0.009},
            "validation_difference": {"value": drop, "low": drop - 0.012, "high": drop + 0.012},
            "speedup": [
                {**speedup(32, 1, base["latency"][0]["p50_ms"] / variant["latency"][0]["p50_ms"]), "rounds": 30},
                {**speedup(128, 8, base["latency"][1]["p50_ms"] / variant["latency"][1]["p50_ms"]), "rounds": 30},
            ],
            "agreement": 1.0 - 0.01 * number,
            "mcnemar": {"only_baseline": 5 * number, "only_candidate": 2 * number, "p_value": 0.5 / (1 + number)},
            "size_ratio": base["size"]["weights_bytes"] / weights,
            "memory_ratio": base["size"]["weights_bytes"] / weights,
        }
    found["comparison"] = found["comparisons"]["quantize"]
    found["benchmark"] = {
        "settings": {"shapes": ["1x32", "8x128"], "confidence": 0.95, "seconds": 10.0},
        "noise": {"load_average": 1.7, "busy_before": 0.01, "others_share": 0.02, "steal_share": 0.0},
        "noise_floor": None,
        "together_with": 4,
        "energy": {"source": None, "reason": "the kernel shows no energy counter"},
    }
    return found


def full_record() -> dict[str, Any]:
    """Return a record with every key."""
    steps = copy.deepcopy(STEPS)
    steps[0]["facts"] = {"history": HISTORY}
    return build(
        recipe="distill_int8",
        task="text_classification",
        seed=0,
        metric="accuracy",
        steps=steps,
        measurement=full_measurement(),
        baseline="finetune",
        candidate="quantize",
        data=DATA,
        overrides=["recipe=distill_int8", "distill.temperature=4"],
        warnings=["no VNNI <here>"],
        environment=ENVIRONMENT,
    )


def more(p50: float, seed: int) -> dict[str, Any]:
    """Return what a latency row holds besides its percentiles: a distribution around the median."""
    share = np.linspace(-1, 1, 41)
    spread = np.where(share < 0, 0.06 * share, 0.05 * share + 0.5 * np.maximum(share, 0) ** 8)
    return {
        "runs": 400,
        "rounds": 30,
        "launches": 2,
        "quantiles_ms": [float(f"{value:.6g}") for value in p50 * (1 + spread * (1 + 0.1 * seed))],
        "threads_tried": {"1": p50, "2": p50 * 1.2},
        "context_switches": {"voluntary": 0.1, "involuntary": 0.01},
        "device_p50_ms": None,
        "energy_j": None,
    }


def sweep_records(
    layers: tuple[int, ...] = (2, 3, 4),
    options: tuple[str, ...] = ("int8", "uint8", "per_tensor"),
    *,
    key: str | None = "g",
) -> list[dict[str, Any]]:
    """Return the records of jobs ``layers × options`` whose shared steps have equal keys, measured together."""
    records = []
    for count, option in itertools.product(layers, options):
        found = full_measurement()
        number = options.index(option)
        quality = {"distill": 0.865 - 0.03 / count, "export": 0.865 - 0.03 / count}
        quality["quantize"] = quality["export"] - 0.002 * (1 + number)
        times = {"distill": 1.5 * count + 0.5, "export": 0.8 * count + 0.2}
        times["quantize"] = times["export"] * (0.5 + 0.07 * number)
        weights = {"distill": 48_000_000 + 7_000_000 * count}
        weights["export"] = weights["distill"] + 100_000
        weights["quantize"] = int(weights["distill"] / (3.9 - 0.2 * number))
        for name in ("distill", "export", "quantize"):
            _reshape(found, name, quality[name], times[name], weights[name])
        found["comparison"] = found["comparisons"]["quantize"]
        found["benchmark"]["together_with"] = 1 + 2 * len(layers) + len(layers) * len(options)
        if key is not None:
            found["group"] = {"key": key, "baseline_run": "0"}
        steps = copy.deepcopy(STEPS)
        steps[0]["facts"] = {"history": HISTORY}
        for step, tail in zip(steps, ("", f"{count}", f"{count}", f"{count}{option}"), strict=True):
            step["key"] = (step["name"][0] + tail + "0" * 64)[:64]
        records.append(
            build(
                recipe="distill_int8",
                task="text_classification",
                seed=0,
                metric="accuracy",
                steps=steps,
                measurement=found,
                baseline="finetune",
                candidate="quantize",
                data=DATA,
                overrides=["recipe=distill_int8", f"distill.student.layers={count}", f"quantize.option={option}"],
                environment=ENVIRONMENT,
            )
        )
    return records


def _reshape(found: dict[str, Any], name: str, accuracy: float, one: float, weights: int) -> None:
    base, variant = found["variants"]["finetune"], found["variants"][name]
    comparison = found["comparisons"][name]
    drop = accuracy - base["metrics"]["accuracy"]
    variant["metrics"] = {"accuracy": accuracy, "f1_macro": accuracy - 0.01}
    variant["validation_metrics"] = {"accuracy": accuracy + 0.01, "f1_macro": accuracy}
    for item, p50 in zip(variant["latency"], (one, 16 * one), strict=True):
        item.update(latency(item["batch_size"], item["sequence_length"], p50, 1), **more(p50, 1))
    variant["size"].update(weights_bytes=weights, embedding_bytes=weights // 2)
    comparison.update(
        metric_retained=accuracy / base["metrics"]["accuracy"],
        metric_difference={"value": drop, "low": drop - 0.006, "high": drop + 0.006},
        validation_difference={"value": drop, "low": drop - 0.008, "high": drop + 0.008},
        speedup=[
            {**speedup(item["sequence_length"], item["batch_size"], before["p50_ms"] / item["p50_ms"]), "rounds": 30}
            for item, before in zip(variant["latency"], base["latency"], strict=True)
        ],
        size_ratio=base["size"]["weights_bytes"] / weights,
    )


def write_sweep(directory: Path, records: list[dict[str, Any]]) -> Path:
    """Write a sweep's directory: a run per record, done."""
    for number, record in enumerate(records):
        run = directory / str(number)
        run.mkdir(parents=True)
        write_json(run / "record.json", record)
        write_json(run / "status.json", {"status": "done", "exit_status": 0, "missed": []})
    return directory


def full_sweep(directory: Path) -> Path:
    """Write 3 × 3 jobs that were measured together, beside a failed, an equal, an unmeasured and a killed one."""
    write_sweep(directory, sweep_records())
    for name, status in (
        ("9", {"status": "failed", "exit_status": 1, "reason": "no space"}),
        ("10", {"status": "equal", "exit_status": 0, "equal_to": "2"}),
        ("11", {"status": "built", "exit_status": 0}),
    ):
        write_json(directory / name / "status.json", status)
    (directory / "12" / ".hydra").mkdir(parents=True)
    overrides = "- recipe=distill_int8\n- distill.student.layers=9\n"
    (directory / "12" / ".hydra" / "overrides.yaml").write_text(overrides, encoding="utf-8")
    return directory
