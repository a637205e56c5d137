"""What tables, plots and reports read off a record: each variant beside the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Span", "Timing", "VariantRow", "describe", "metric_of"]


@dataclass(frozen=True)
class Span:
    """A figure and its interval; None is what was not measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


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
    runs, rounds, launches : int or None
        How often it ran, in how many interleaved rounds, in how many processes.
    quantiles : tuple of float
        Quantiles 0, 2.5, ..., 100 % of single runs in milliseconds; empty where they were not kept.
    threads_tried : mapping of str to float
        Median milliseconds of each number of threads that was tried.
    device_p50 : float or None
        Median milliseconds on the GPU's own clock.
    energy_j : float or None
        Joule per batch.
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
    runs: int | None = None
    rounds: int | None = None
    launches: int | None = None
    quantiles: tuple[float, ...] = ()
    threads_tried: Mapping[str, float] = field(default_factory=dict)
    device_p50: float | None = None
    energy_j: float | None = None


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
    validation : float or None
        The same on the validation split.
    retained : float or None
        Share of the baseline's metric.
    difference, validation_difference : Span
        Metric less the baseline's on test and on validation, with the paired interval.
    agreement : float or None
        Share of the test rows on which it decides as the baseline does.
    mcnemar : mapping
        ``only_baseline``, ``only_candidate`` and ``p_value``; empty where it was not computed.
    timings : tuple of Timing
        One per shape, in the order measured.
    weights_bytes, embedding_bytes, artifact_bytes, parameters, macs, peak_rss_bytes, peak_device_bytes : int or None
        Sizes in bytes or counts.
    size_ratio, memory_ratio : float or None
        Baseline over this variant: larger is better.
    memory : mapping
        Every figure of memory in bytes.
    cold_start : mapping
        ``import_ms``, ``open_ms``, ``first_answer_ms``, ``total_ms``; empty where it was not measured.
    metrics, validation_metrics : dict
        Every metric.
    checkpoint : str or None
        Key of the step that wrote it: equal keys are equal files.
    path : tuple of str
        Names of the steps that led to it, itself last.
    """

    name: str
    step: str
    format: str
    runtime: str
    precision: str
    role: str
    metric: float | None
    validation: float | None
    retained: float | None
    difference: Span
    validation_difference: Span
    agreement: float | None
    mcnemar: Mapping[str, Any]
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
    memory: Mapping[str, Any]
    cold_start: Mapping[str, Any]
    metrics: dict[str, float]
    validation_metrics: dict[str, float]
    checkpoint: str | None
    path: tuple[str, ...]


def metric_of(record: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the name of the main metric, None where no data was judged, and whether higher is better."""
    metric = record.get("metric") or {}
    name = metric.get("name")
    return None if name == "none" else name, bool(metric.get("higher_is_better", True))


def describe(record: Mapping[str, Any]) -> list[VariantRow]:
    """Return a row per variant, in the order of the path."""
    baseline = record["variants"][record["baseline"]]
    return [_row(name, variant, baseline, record) for name, variant in record["variants"].items()]


def _row(name: str, variant: Mapping[str, Any], baseline: Mapping[str, Any], record: Mapping[str, Any]) -> VariantRow:
    metric, _ = metric_of(record)
    metrics, validation = variant.get("metrics") or {}, variant.get("validation_metrics") or {}
    size, memory = variant.get("size") or {}, variant.get("memory") or {}
    value, reference = _of(metrics, metric), _of(baseline.get("metrics"), metric)
    judged, judged_reference = _of(validation, metric), _of(baseline.get("validation_metrics"), metric)
    is_candidate, is_baseline = name == record["candidate"], name == record["baseline"]
    comparison = _comparison(record, name)
    role = ("artifact" if is_candidate else "") if not is_baseline else "baseline"
    step = variant.get("step") or name
    path, key = _lineage(record, name, step)
    return VariantRow(
        name=name,
        step=step,
        format=variant.get("format") or "",
        runtime=variant.get("runtime") or "",
        precision=variant.get("precision") or "",
        role=role,
        metric=value,
        validation=judged,
        retained=_first(comparison.get("metric_retained"), _ratio(value, reference)),
        difference=_span(comparison.get("metric_difference"), value, reference, is_baseline),
        validation_difference=_span(comparison.get("validation_difference"), judged, judged_reference, is_baseline),
        agreement=comparison.get("agreement"),
        mcnemar=(None if is_baseline else comparison.get("mcnemar")) or {},
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
        memory_ratio=_first(comparison.get("memory_ratio"), _memory_ratio(baseline.get("memory") or {}, memory)),
        memory=dict(memory),
        cold_start=dict(variant.get("cold_start") or {}),
        metrics=dict(metrics),
        validation_metrics=dict(validation),
        checkpoint=key,
        path=path,
    )


def _comparison(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return how a variant compares with the baseline; what is said of the candidate alone fills the gaps."""
    found = dict((record.get("comparisons") or {}).get(name) or {})
    return {**found, **record["comparison"]} if name == record["candidate"] else found


def _lineage(record: Mapping[str, Any], name: str, step: str) -> tuple[tuple[str, ...], str | None]:
    """Return the steps up to a variant and its key; its step alone where it is not of the record's own steps.

    So it is with a baseline that is another job's: its step bears the name of one of this job's, with another key.
    """
    names = [str(entry.get("name")) for entry in record["steps"]]
    if name not in names:
        return (step,), None
    number = names.index(name)
    return tuple(names[: number + 1]), record["steps"][number].get("key")


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
        runs=item.get("runs"),
        rounds=item.get("rounds"),
        launches=item.get("launches"),
        quantiles=tuple(item.get("quantiles_ms") or ()),
        threads_tried=dict(item.get("threads_tried") or {}),
        device_p50=item.get("device_p50_ms"),
        energy_j=item.get("energy_j"),
    )


def _shape(item: Mapping[str, Any]) -> tuple[str, int, int | None]:
    return item.get("device", "cpu"), item.get("batch_size", 1), item.get("sequence_length")


def _of(metrics: Mapping[str, float] | None, name: str | None) -> float | None:
    return None if name is None else (metrics or {}).get(name)


def _span(measured: Mapping[str, Any] | None, value: float | None, reference: float | None, is_baseline: bool) -> Span:
    """Return a difference as measured, or of the two values alone; the baseline's to itself is nought."""
    known = value is not None and reference is not None
    if is_baseline:
        return Span(0.0, 0.0, 0.0) if known else Span()
    if measured and measured.get("value") is not None:
        return Span(measured["value"], measured.get("low"), measured.get("high"))
    return Span(value - reference) if value is not None and reference is not None else Span()


def _memory_ratio(baseline: Mapping[str, Any], memory: Mapping[str, Any]) -> float | None:
    """Return the ratio of what the models take, or of whole processes where only that was measured."""
    of_models = _ratio(baseline.get("model_bytes"), memory.get("model_bytes"))
    return _first(of_models, _ratio(baseline.get("peak_rss_bytes"), memory.get("peak_rss_bytes")))


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
