"""What tables, plots and reports read off a record: each variant beside the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Timing", "VariantRow", "describe"]


@dataclass(frozen=True)
class Timing:
    """Latency of a variant at one shape.

    Attributes
    ----------
    key : str
        ``1x32``; ``1xnatural`` for texts at their natural lengths; ``cuda:1x32`` off the CPU.
    label : str
        ``1 × 32``.
    device, threads
        Where it ran.
    p50, p90, p95, p99, mean : float or None
        Milliseconds per batch.
    throughput : float or None
        Rows per second.
    speedup : float or None
        Baseline over this variant.
    low, high : float or None
        Interval of the speedup, where one was measured.
    verdict : str or None
        ``faster``, ``slower`` or ``inconclusive``.
    """

    key: str
    label: str
    device: str
    threads: int | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    mean: float | None
    throughput: float | None
    speedup: float | None
    low: float | None
    high: float | None
    verdict: str | None


@dataclass(frozen=True)
class VariantRow:
    """A measured variant beside the baseline.

    Attributes
    ----------
    name, step, format, runtime, precision : str
        What it is.
    role : str
        ``baseline``, ``artifact`` or nothing.
    metric : float or None
        The task's main metric on the test split.
    retained : float or None
        Share of the baseline's metric.
    timings : tuple of Timing
        One per shape, in the order measured.
    weights_bytes, embedding_bytes, artifact_bytes, parameters, macs, peak_rss_bytes, peak_device_bytes : int or None
        Sizes in bytes or counts.
    size_ratio, memory_ratio : float or None
        Baseline over this variant: larger is better.
    metrics : dict
        Every metric.
    """

    name: str
    step: str
    format: str
    runtime: str
    precision: str
    role: str
    metric: float | None
    retained: float | None
    timings: tuple[Timing, ...]
    weights_bytes: int | None
    embedding_bytes: int | None
    artifact_bytes: int | None
    parameters: int | None
    macs: int | None
    peak_rss_bytes: int | None
    peak_device_bytes: int | None
    size_ratio: float | None
    memory_ratio: float | None
    metrics: dict[str, float]


def describe(record: Mapping[str, Any]) -> list[VariantRow]:
    """Return a row per variant, in the order of the path."""
    baseline = record["variants"][record["baseline"]]
    return [_row(name, variant, baseline, record) for name, variant in record["variants"].items()]


def _row(name: str, variant: Mapping[str, Any], baseline: Mapping[str, Any], record: Mapping[str, Any]) -> VariantRow:
    metric = record["metric"]["name"]
    metrics = variant.get("metrics") or {}
    size, memory = variant.get("size") or {}, variant.get("memory") or {}
    value, reference = metrics.get(metric), (baseline.get("metrics") or {}).get(metric)
    is_candidate, is_baseline = name == record["candidate"], name == record["baseline"]
    comparison = record["comparison"] if is_candidate else (record.get("comparisons") or {}).get(name, {})
    role = ("artifact" if is_candidate else "") if not is_baseline else "baseline"
    return VariantRow(
        name=name,
        step=variant.get("step") or name,
        format=variant.get("format", ""),
        runtime=variant.get("runtime", ""),
        precision=variant.get("precision", ""),
        role=role,
        metric=value,
        retained=_first(comparison.get("metric_retained"), _ratio(value, reference)),
        timings=tuple(_timing(item, baseline, comparison, is_baseline) for item in variant.get("latency") or ()),
        weights_bytes=size.get("weights_bytes"),
        embedding_bytes=size.get("embedding_bytes"),
        artifact_bytes=size.get("artifact_bytes"),
        parameters=size.get("parameters"),
        macs=size.get("macs"),
        peak_rss_bytes=memory.get("peak_rss_bytes"),
        peak_device_bytes=memory.get("peak_device_bytes"),
        size_ratio=_first(
            comparison.get("size_ratio"),
            _ratio((baseline.get("size") or {}).get("weights_bytes"), size.get("weights_bytes")),
        ),
        memory_ratio=_first(
            comparison.get("memory_ratio"),
            _ratio((baseline.get("memory") or {}).get("peak_rss_bytes"), memory.get("peak_rss_bytes")),
        ),
        metrics=dict(metrics),
    )


def _timing(
    item: Mapping[str, Any], baseline: Mapping[str, Any], comparison: Mapping[str, Any], is_baseline: bool
) -> Timing:
    """Take the ratio from the comparison where it was measured with an interval, from the medians otherwise."""
    shape = _shape(item)
    reference: Mapping[str, Any] = next(
        (other for other in baseline.get("latency") or () if _shape(other) == shape), {}
    )
    measured: Mapping[str, Any] = next(
        (other for other in comparison.get("speedup") or () if _shape(other) == shape), {}
    )
    device, batch, length = shape
    kind = "natural" if length is None else str(length)
    speedup = _first(measured.get("value"), _ratio(reference.get("p50_ms"), item.get("p50_ms")))
    return Timing(
        key=f"{batch}x{kind}" if device == "cpu" else f"{device}:{batch}x{kind}",
        label=f"{batch} × {kind}" if device == "cpu" else f"{batch} × {kind} ({device})",
        device=device,
        threads=item.get("threads"),
        p50=item.get("p50_ms"),
        p90=item.get("p90_ms"),
        p95=item.get("p95_ms"),
        p99=item.get("p99_ms"),
        mean=item.get("mean_ms"),
        throughput=item.get("throughput_per_s"),
        speedup=1.0 if is_baseline else speedup,
        low=None if is_baseline else measured.get("low"),
        high=None if is_baseline else measured.get("high"),
        verdict=None if is_baseline else measured.get("verdict"),
    )


def _shape(item: Mapping[str, Any]) -> tuple[str, int, int | None]:
    return item.get("device", "cpu"), item.get("batch_size", 1), item.get("sequence_length")


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
