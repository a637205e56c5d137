"""Ranges, grids and rounding: what calibration methods choose and what blocks hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.steps.quantize.blocks import gptq_blocks, half_quadratic, nearest, packed
from compress.steps.quantize.observing import Histogram
from compress.steps.quantize.ranges import METHODS, encoding, find_range
from compress.steps.quantize.rounding import adaround, gptq, mean_error
from compress.steps.quantize.weights import quantize_weight, weight_scales


def seen(values: np.ndarray) -> Histogram:
    histogram = Histogram(float(values.min()), float(values.max()))
    for part in np.array_split(values, 3):
        histogram.add(part)
    return histogram


@given(st.floats(-50, 50), st.floats(0, 100), st.booleans())
@example(0.0, 4.3e-42, False)
@example(0.0, 0.0, True)
def test_zero_is_exact_and_the_edges_are_near(low: float, width: float, symmetric: bool) -> None:
    code = encoding(low, low + width, symmetric)
    assert code.apply(np.zeros(3)).tolist() == [0, 0, 0]
    inside = np.linspace(min(low, 0), max(low + width, 0), 50)
    assert np.abs(code.apply(inside) - inside).max() <= code.scale * 1.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_method_keeps_a_flat_distribution_whole(method: str, symmetric: bool) -> None:
    values = np.random.default_rng(0).uniform(-3, 3, 20_000).astype(np.float32)
    low, high = find_range(method, seen(values), 100, symmetric)
    assert low == pytest.approx(-3, abs=0.15)
    assert high == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize(("method", "most"), [("percentile", 200), ("entropy", 350)])
def test_one_outlier_does_not_set_the_range(method: str, most: float) -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    values[0] = 400.0
    low, high = find_range(method, seen(values), 99.99, False)
    assert low < -2
    assert 2 < high < most


@pytest.mark.parametrize("method", ["mse", "entropy"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_squared_error_is_no_more_than_that_of_the_whole_range(method: str, symmetric: bool) -> None:
    """A few large numbers, as a channel of a transformer has them, are not cut off for a finer middle."""
    values = np.random.default_rng(0).standard_t(3, size=50_000).astype(np.float32)
    values[:50] *= 20
    errors = []
    for way in ("min_max", method):
        code = encoding(*find_range(way, seen(values), 100, symmetric), symmetric)
        errors.append(float(np.square(code.apply(values) - values).mean()))
    assert errors[1] < 1.01 * errors[0]


def test_a_histogram_counts_in_parts_what_it_counts_at_once() -> None:
    values = np.random.default_rng(0).normal(size=999).astype(np.float32)
    whole = Histogram(float(values.min()), float(values.max()))
    whole.add(values)
    assert np.array_equal(whole.counts, seen(values).counts)
    assert whole.counts.sum() == 999


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 70)), elements=st.floats(-1e3, 1e3, width=32)),
    st.sampled_from([4, 8]),
    st.booleans(),
)
def test_blocks_are_within_half_a_step(weight: np.ndarray, bits: int, symmetric: bool) -> None:
    blocks = nearest(weight, bits, 16, symmetric)
    assert blocks.codes.shape == weight.shape
    assert blocks.codes.max(initial=0) < 2**bits
    steps = np.repeat(np.abs(blocks.scales), 16, axis=1)[:, : weight.shape[1]]
    slack = 1.02 if symmetric else 0.52  # the code beyond the last of the shorter side is cut off
    assert np.all(np.abs(blocks.floats() - weight) <= steps * slack + 1e-6 * np.abs(weight) + 1e-30)


def test_half_bytes_are_packed_low_half_first() -> None:
    assert packed(np.array([[1, 2, 15]], dtype=np.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert packed(np.array([[1, 200]], dtype=np.uint8), 8).tolist() == [[1, 200]]


def layer(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated inputs ``[tokens, width]`` and a weight ``[width, out]``."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(48, 48)) * (np.arange(48) < 12)[:, None] + 0.1 * np.eye(48)
    return (random.normal(size=(2000, 48)) @ mixing).astype(np.float32), random.normal(size=(48, 24)).astype(np.float32)


def lost(inputs: np.ndarray, weight: np.ndarray, rounded: np.ndarray) -> float:
    return float(np.square(inputs @ (weight - rounded)).mean())


def test_rounding_that_looks_at_inputs_loses_less() -> None:
    inputs, weight = layer()
    scales = weight_scales(weight, 4, True, "max")
    plain = quantize_weight(weight, scales, 4)
    learned = adaround(weight, scales, 4, inputs, inputs @ weight, seed=0)
    made_up = gptq(weight, inputs.T @ inputs, lambda _, row: np.clip(np.rint(row / scales), -7, 7) * scales)
    assert np.array_equal(quantize_weight(made_up, scales, 4).floats(), made_up)
    before = lost(inputs, weight, plain.floats())
    assert lost(inputs, weight, learned.floats()) < 0.7 * before
    assert lost(inputs, weight, made_up) < 0.7 * before
    assert np.abs(learned.values.astype(int) - plain.values).max() <= 1
    again = adaround(weight, scales, 4, inputs, inputs @ weight, seed=0)
    assert np.array_equal(learned.values, again.values)


def test_blocks_by_gptq_and_hqq() -> None:
    inputs, weight = layer()
    flat = np.ascontiguousarray(weight.T)
    rounded = {
        "nearest": nearest(flat, 4, 16, False),
        "gptq": gptq_blocks(flat, inputs.T @ inputs, 4, 16, False),
        "hqq": half_quadratic(flat, 4, 16),
    }
    losses = {name: lost(inputs, weight, blocks.floats().T) for name, blocks in rounded.items()}
    assert losses["gptq"] < 0.7 * losses["nearest"]
    errors = {name: float(np.abs(blocks.floats() - flat).mean()) for name, blocks in rounded.items()}
    assert errors["hqq"] <= errors["nearest"]


def test_least_squared_scales_are_no_worse() -> None:
    weight = np.random.default_rng(0).standard_t(3, size=(64, 8)).astype(np.float32)
    errors = [
        float(np.square(quantize_weight(weight, weight_scales(weight, 4, True, method), 4).floats() - weight).sum())
        for method in ("max", "mse")
    ]
    assert errors[1] < errors[0]


def test_the_mean_of_the_output_is_restored() -> None:
    inputs, weight = layer()
    rounded, floats = np.round(inputs + 0.3), np.round(weight * 4) / 4
    bias = mean_error(inputs, rounded, weight, floats)
    assert np.allclose((rounded @ floats + bias).mean(axis=0), (inputs @ weight).mean(axis=0), atol=1e-3)
