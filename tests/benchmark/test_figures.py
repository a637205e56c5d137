"""The figures themselves: intervals, shapes, bytes, multiply-accumulates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.benchmark.inputs import batch_of, parse_shape
from compress.benchmark.statistics import difference_interval, percentiles, ratio_interval, verdict
from compress.errors import ConfigError


def test_equal_latencies_are_inconclusive_and_a_doubling_is_faster() -> None:
    generator = np.random.default_rng(0)
    one, two = (10 + generator.normal(0, 0.3, 40) for _ in range(2))
    assert verdict(*ratio_interval(one, two)[1:]) == "inconclusive"
    value, low, high = ratio_interval(2 * one, two)
    assert verdict(low, high) == "faster"
    assert value == pytest.approx(2, rel=0.02)
    assert verdict(*ratio_interval(one, 2 * two)[1:]) == "slower"


def test_a_drift_that_hits_both_alike_cancels() -> None:
    drift = np.linspace(1, 3, 40)
    noise = np.random.default_rng(0).normal(1, 0.01, (2, 40))
    value, low, high = ratio_interval(20 * drift * noise[0], 10 * drift * noise[1])
    assert low < 2 < high or value == pytest.approx(2, rel=0.05)


def test_percentiles_are_those_of_numpy() -> None:
    found = percentiles([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found["p50_ms"] == 3.0
    assert found["mean_ms"] == 22.0
    assert found["p50_ms"] < found["p90_ms"] < found["p95_ms"] < found["p99_ms"] < 100


def test_the_interval_of_a_difference_is_paired() -> None:
    right = (np.random.default_rng(0).random(500) < 0.8).astype(float)
    baseline = np.stack([right, np.ones(500)], axis=1)
    changed = baseline.copy()
    changed[:25, 0] = 0
    same = difference_interval(baseline, baseline, lambda sums: sums[..., 0] / sums[..., 1])
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    worse = difference_interval(baseline, changed, lambda sums: sums[..., 0] / sums[..., 1])
    assert worse["low"] < worse["value"] < worse["high"] < 0


@pytest.mark.parametrize("shape", ["1", "x32", "1x", "0x4", "1x0", "axb", "1x2x3", "-1x4"])
def test_what_is_no_shape_is_refused(shape: str) -> None:
    with pytest.raises(ConfigError, match="BATCHxTOKENS"):
        parse_shape(shape)


def test_a_batch_has_the_stated_shape_and_no_padding() -> None:
    rows = [{"input_ids": [101, 7, 8, 9, 102]}, {"input_ids": [101, 5, 102]}]
    batch = batch_of(rows, 3, 6, ("input_ids", "attention_mask"))
    assert batch["input_ids"].shape == (3, 6)
    assert (batch["attention_mask"] == 1).all()
    assert (batch["input_ids"][:, 0] == 101).all()
    assert (batch["input_ids"][:, -1] == 102).all()
    assert set(batch["input_ids"][:, 1:-1].ravel()) == {5, 7, 8, 9}


def formula(layers: int, hidden: int, intermediate: int, classes: int, batch: int, sequence: int) -> int:
    """Return the multiply-accumulates of a BERT classifier, by hand."""
    tokens = batch * sequence
    layer = tokens * (4 * hidden * hidden + 2 * hidden * intermediate) + 2 * tokens * sequence * hidden
    return layers * layer + batch * (hidden * hidden + hidden * classes)


@pytest.mark.slow
def test_macs_of_torch_and_onnx_equal_the_formula(tmp_path: Path) -> None:
    import onnx
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from compress.benchmark.size import macs_of_onnx, macs_of_torch
    from compress.config.schemas import DynamicQuantization
    from compress.steps.export import export_graph
    from compress.steps.quantize.dynamic import quantize_graph

    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(
        BertConfig(
            vocab_size=300,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            num_labels=5,
        )
    ).eval()
    expected = formula(2, 32, 48, 5, batch=3, sequence=16)
    assert macs_of_torch(model, 3, 16, ("input_ids", "attention_mask")) == expected
    graph = export_graph(model, ("input_ids", "attention_mask"), 20, tmp_path)
    assert macs_of_onnx(graph, 3, 16) == pytest.approx(expected, rel=0.01)
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    quantized, _ = quantize_graph(copied, DynamicQuantization(), True)
    assert macs_of_onnx(quantized, 3, 16) == pytest.approx(expected, rel=0.01)
