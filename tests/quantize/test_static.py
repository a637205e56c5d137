"""Static INT8: integer kernels everywhere, ranges from training rows, SmoothQuant that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config.quantization import StaticQuantization
from compress.errors import ConfigError, StepError
from compress.steps.base import SourceFacts
from compress.steps.quantize.saturation import pairs_saturate
from compress.steps.quantize.static import StaticStep

INPUTS = {"input_ids": np.random.default_rng(0).integers(5, 24, (4, 11))}


def config(**changes: Any) -> StaticQuantization:
    return StaticQuantization(**{"max_metric_drop": None, "calibration_rows": 12, "batch_size": 5, **changes})


def distance(before: Any, after: Any) -> float:
    from compress.runtime import open_predictor

    with open_predictor(before, threads=1) as one, open_predictor(after, threads=1) as two:
        expected, found = one.logits(INPUTS), two.logits(INPUTS)
        assert two.logits({"input_ids": INPUTS["input_ids"][:1, :1]}).shape == (1, 3)
    return float(np.abs(expected - found).max() / np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": "min_max", "rounding": "nearest", "bias_correction": False, "weight_range": "max"},
        {"calibration": "percentile"},
        {"calibration": "mse", "symmetric": True},
        {"calibration": "entropy", "per_channel": False},
        {"calibration": "min_max", "smooth": True, "alpha": 0.5},
        {"calibration": "min_max", "rounding": "adaround", "reduce_range": "false"},
    ],
    ids=str,
)
def test_every_product_runs_in_an_integer_kernel_and_logits_stay_close(
    exported: Any, context: Any, run_step: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    left = run_step(StaticStep(), exported, config(**changes), context, tmp_path / "int8")
    facts = left.manifest.facts["quantize"]
    assert facts["integer_products"] == 2 * 6 + 1
    assert facts["executed"]["integer"] == 2 * 6 + 1, facts["executed"]
    assert facts["executed"]["float"] == 1  # the head
    assert facts["integer_tables"] == 1
    assert facts["calibration_rows"] == 12
    saturates = pairs_saturate() and not facts["reduce_range"]
    assert distance(exported, left) < (0.3 if saturates else 0.2 if facts["reduce_range"] else 0.15)


def test_fused_kernels_answer_as_standard_operators_do(
    exported: Any, context: Any, run_step: Any, tmp_path: Path
) -> None:
    """The runtime's own operator, which adds the bias, against what the runtime makes of the standard ones."""
    import onnx

    from compress.benchmark.size import macs_of_onnx
    from compress.onnx_graph import load_graph
    from compress.runtime import open_predictor
    from compress.steps.quantize.executed import executed_graph

    logits, macs, added = {}, {}, {}
    for kernels in ("fused", "qdq"):
        left = run_step(StaticStep(), exported, config(kernels=kernels), context, tmp_path / kernels)
        graph = load_graph(left.path)
        standard = all(node.domain == "" for node in graph.graph.node)
        assert standard == (kernels == "qdq")
        onnx.checker.check_model(graph)
        with open_predictor(left, threads=1) as predictor:
            logits[kernels] = predictor.logits(INPUTS)
        macs[kernels] = macs_of_onnx(graph, 2, 7)
        ran = executed_graph(left.path).graph.node
        assert left.manifest.facts["quantize"]["executed"]["integer"] == 2 * 6 + 1
        added[kernels] = sum(node.op_type in ("Add", "BiasGelu") for node in ran)
    np.testing.assert_array_equal(logits["fused"], logits["qdq"])
    assert macs["fused"] == macs["qdq"] == macs_of_onnx(load_graph(exported.path), 2, 7)
    assert added["qdq"] - added["fused"] == 2 * 6


@pytest.mark.slow
def test_smoothing_alone_changes_nothing(exported: Any, context: Any) -> None:
    import onnxruntime

    from compress.onnx_graph import load_graph, products_of
    from compress.steps.quantize.observing import Calibration, Watch, spreads
    from compress.steps.quantize.smoothing import smooth

    graph = load_graph(exported.path)
    feeds = {"input_ids": INPUTS["input_ids"], "attention_mask": np.ones_like(INPUTS["input_ids"])}
    calibration = Calibration.drawn(exported, 12, 5, context)

    def logits() -> np.ndarray:
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        found: np.ndarray = session.run(["logits"], {one.name: feeds[one.name] for one in session.get_inputs()})[0]
        return found

    before = logits()
    products = products_of(graph)
    seen = spreads(Watch(graph, [one.input for one in products], 1), calibration, 0)
    chosen = smooth(graph, products, seen, alpha=0.5, bits=8, per_channel=True, symmetric=False)
    assert len(chosen) == len({one.input for one in products})
    assert np.abs(logits() - before).max() < 1e-4
    again = spreads(Watch(graph, [one.input for one in products], 1), calibration, 0)
    for one in products:
        assert np.allclose(again[one.input].high, seen[one.input].high, rtol=1e-3, atol=1e-4)


def test_padding_is_not_calibrated_on(exported: Any, context: Any) -> None:
    from compress.onnx_graph import load_graph, products_of
    from compress.steps.quantize.observing import Calibration, Watch

    graph = load_graph(exported.path)
    names = [one.input for one in products_of(graph)]
    calibration = Calibration.drawn(exported, 12, 5, context)
    tokens = [int(batch["attention_mask"].sum()) for batch in calibration.batches]
    assert sum(batch["attention_mask"].size for batch in calibration.batches) > sum(tokens)
    for values, count in zip(Watch(graph, names, 1).run(calibration), tokens, strict=True):
        assert all(len(value) in {count, 5, 2} for value in values.values())  # of the pooler: a row each


def test_refusals(exported: Any, context: Any) -> None:
    from dataclasses import replace

    from compress.steps.quantize.observing import Calibration

    with pytest.raises(ConfigError, match="this one is int8"):
        StaticStep().check(config(), SourceFacts("onnx", "int8", "bert", 2))
    for changes in ({"alpha": 0.5}, {"percentile": 99.0, "calibration": "mse"}):
        name = next(iter(changes))
        with pytest.raises(ConfigError, match=f"{name}=.*nothing reads it"):
            StaticStep().check(config(**changes), SourceFacts("onnx", "fp32", "bert", 2))
    StaticStep().check(config(alpha=0.5, smooth=True, percentile=99.0), SourceFacts("onnx", "fp32", "bert", 2))
    empty = replace(context, data=replace(context.data, train=context.data.train.head(0)))
    with pytest.raises(StepError, match="calibration needs training rows"):
        Calibration.drawn(exported, 12, 5, empty)
