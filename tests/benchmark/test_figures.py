"""The figures themselves: intervals, shapes, bytes, multiply-accumulates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.benchmark.inputs import batch_of, made_up, one_by_one
from compress.benchmark.statistics import (
    difference_interval,
    mcnemar,
    percentiles,
    quantiles,
    ratio_interval,
    verdict,
)
from compress.config.shapes import expand

Launches = list[list[float]]


def launches(
    generator: np.random.Generator, median: float, count: int = 6, rounds: int = 8, *, process: float = 0.0
) -> Launches:
    """Return latencies with 3 % of noise per round and, for each launch, of the process that it was."""
    return [
        (median * np.exp(generator.normal(0, process) + generator.normal(0, 0.03, rounds))).tolist()
        for _ in range(count)
    ]


def test_equal_latencies_are_inconclusive_and_a_doubling_is_faster() -> None:
    generator = np.random.default_rng(0)
    one, two, double = (launches(generator, median) for median in (10, 10, 20))
    assert verdict(*ratio_interval(one, two)[1:]) == "inconclusive"
    value, low, high = ratio_interval(double, two)
    assert verdict(low, high) == "faster"
    assert value == pytest.approx(2, rel=0.03)
    assert verdict(*ratio_interval(one, double)[1:]) == "slower"


def test_a_drift_that_hits_both_alike_cancels() -> None:
    drift = np.linspace(1, 3, 40)
    noise = np.random.default_rng(0).normal(1, 0.01, (2, 40))
    value, low, high = ratio_interval([(20 * drift * noise[0]).tolist()], [(10 * drift * noise[1]).tolist()])
    assert low < 2 < high
    assert value == pytest.approx(2, rel=0.02)


def test_who_follows_whom_cancels() -> None:
    """The second of a round is 10 % slower; there and back, nobody gains."""
    first, second = [10.0, 11.0] * 8, [11.0, 10.0] * 8
    value, low, high = ratio_interval([first], [second])
    assert value == pytest.approx(1, abs=1e-9)
    assert low == pytest.approx(0.99, abs=0.001)  # what processes differ by
    assert high == pytest.approx(1.01, abs=0.001)


@pytest.mark.parametrize(("count", "process"), [(1, 0.0), (3, 0.0), (4, 0.02), (6, 0.02), (6, 0.0), (10, 0.01)])
def test_of_equal_artifacts_the_interval_holds_1_as_often_as_it_says(count: int, process: float) -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        one, two = (launches(generator, 10, count, rounds=24 // min(count, 3), process=process) for _ in range(2))
        _, low, high = ratio_interval(one, two)
        hits += low <= 1 <= high
    assert hits >= 182  # 190 expected; fewer than 182 would be a chance of 1 in 100


def test_the_order_of_opening_cancels() -> None:
    """What is opened first is 4 % slower; the order is turned round with every launch."""
    generator = np.random.default_rng(2)
    one, two = (launches(generator, 10) for _ in range(2))
    one = [[ms * (1.04 if number % 2 == 0 else 1) for ms in rounds] for number, rounds in enumerate(one)]
    two = [[ms * (1.04 if number % 2 == 1 else 1) for ms in rounds] for number, rounds in enumerate(two)]
    _, low, high = ratio_interval(one, two)
    assert low < 1 < high
    assert (high - low) / 2 < 0.035


def test_a_moment_that_hits_one_of_them_changes_little() -> None:
    """A neighbour makes single turns half as slow again, in either variant."""
    generator = np.random.default_rng(4)
    one, two = (launches(generator, 10, 12, rounds=6) for _ in range(2))
    for variant in (one, two):
        for launch in variant:
            launch[int(generator.integers(6))] *= 1.5
    _, low, high = ratio_interval(one, two)
    assert low < 1 < high
    assert (high - low) / 2 < 0.03


def test_a_tenth_more_time_is_called_slower() -> None:
    generator = np.random.default_rng(3)
    calls = [
        verdict(*ratio_interval(launches(generator, 10, process=0.015), launches(generator, 11, process=0.015))[1:])
        for _ in range(50)
    ]
    assert calls.count("slower") >= 48
    assert "faster" not in calls


def test_a_single_round_says_nothing() -> None:
    assert ratio_interval([[10.0]], [[5.0]]) == (pytest.approx(2), 0.0, float("inf"))


def test_mcnemar_is_the_exact_test_of_the_rows_that_differ() -> None:
    """Five rows against one: by hand 2 (C(6,0) + C(6,1)) / 2^6."""
    base = np.array([True] * 5 + [False] * 1 + [True] * 30)
    other = np.array([False] * 5 + [True] * 1 + [True] * 30)
    assert mcnemar(base, other) == {"only_baseline": 5, "only_candidate": 1, "p_value": 0.2188}
    assert mcnemar(base, base) == {"only_baseline": 0, "only_candidate": 0, "p_value": 1.0}


def test_quantiles_go_from_the_least_to_the_greatest() -> None:
    found = quantiles([3.0, 1.0, 2.0])
    assert (len(found), found[0], found[20], found[-1]) == (41, 1.0, 2.0, 3.0)
    assert found == sorted(found)


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


@pytest.mark.parametrize("shape", ["1", "x32", "1x", "0x4", "1x0", "axb", "1x2x3", "-1x4", "1/x3", "Natural"])
def test_what_is_no_shape_is_refused(shape: str) -> None:
    with pytest.raises(ValueError, match="BATCHxTOKENS"):
        expand([shape])


def test_a_grid_is_every_batch_with_every_length() -> None:
    assert list(map(str, expand(["1/8x32/128", "natural"]))) == ["1x32", "1x128", "8x32", "8x128", "natural"]
    with pytest.raises(ValueError, match="1x32: this shape stands there twice"):
        expand(["1/8x32", "1x32"])


def test_texts_one_by_one_keep_their_lengths() -> None:
    rows = [
        {"input_ids": [101, 7, 8, 9, 102], "attention_mask": [1] * 5},
        {"input_ids": [1, 2], "attention_mask": [1] * 2},
    ]
    found = one_by_one(rows, ("input_ids",), max_length=4)
    assert [batch["input_ids"].tolist() for batch in found] == [[[101, 7, 8, 9]], [[1, 2]]]


def test_made_up_tokens_are_the_same_every_time_and_known_to_the_model() -> None:
    one, two = (batch_of(made_up(50), 2, 16, ("input_ids",))["input_ids"] for _ in range(2))
    assert one.shape == (2, 16)
    assert (one == two).all()
    assert one.min() >= 0
    assert one.max() < 50


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
