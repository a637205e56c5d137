"""Weights of 2, 4 and 8 bits: the kernels compute what the blocks say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config.quantization import WeightOnlyQuantization
from compress.errors import ConfigError
from compress.steps.base import SourceFacts
from compress.steps.quantize.weight_only import WeightOnlyStep

INPUTS = {"input_ids": np.random.default_rng(0).integers(5, 24, (4, 11))}


def config(**changes: Any) -> WeightOnlyQuantization:
    return WeightOnlyQuantization(**{"max_metric_drop": None, "calibration_rows": 12, "block_size": 16, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "changes"),
    [
        *((bits, {"rounding": "nearest"}) for bits in (2, 4, 8)),
        *((bits, {"rounding": "nearest", "symmetric": True}) for bits in (2, 4, 8)),
        *((bits, {"rounding": "hqq"}) for bits in (2, 4)),
        *((bits, {"rounding": "gptq"}) for bits in (2, 4, 8)),
        *((bits, {"rounding": "nearest", "block_size": 64}) for bits in (2, 4, 8)),  # wider than the matrix
    ],
    ids=str,
)
def test_the_kernels_compute_what_the_blocks_say(
    exported: Any, context: Any, run_step: Any, tmp_path: Path, bits: int, changes: dict[str, Any]
) -> None:
    import onnxruntime

    from compress.benchmark.size import macs_of_onnx, size_of
    from compress.onnx_graph import find_head, load_graph, products_of, replace_initializers
    from compress.onnx_graph.tables import lookups_of
    from compress.runtime import open_predictor
    from compress.steps.quantize.blocks import of_table
    from compress.steps.quantize.observing import Calibration, Watch, hessians
    from compress.steps.quantize.weight_only import _blocks

    chosen = config(bits=bits, activations="float32", **changes)
    left = run_step(WeightOnlyStep(), exported, chosen, context, tmp_path / "few")
    facts = left.manifest.facts["quantize"]
    assert facts["executed"]["kernels"]["MatMulNBits"] == 2 * 6 + 1
    assert facts["integer_tables"] == 1

    size, before = size_of(left.path, "onnx"), size_of(exported.path, "onnx")
    assert size["precision"] == f"int{bits}"
    # Blocks of 64 are filled up: of rows of 32 each counts twice.
    assert 1 <= size["parameters"] / before["parameters"] < (1.9 if chosen.block_size == 64 else 1.02)

    graph = load_graph(exported.path)
    assert macs_of_onnx(load_graph(left.path), 2, 16) == macs_of_onnx(graph, 2, 16)
    products = products_of(graph, find_head(graph))
    calibration = Calibration.drawn(exported, 12, 16, context)
    sums = hessians(Watch(graph, [one.input for one in products], 1), calibration)
    values = {}
    for one in products:
        hessian = sums[one.input] if chosen.rounding == "gptq" else None
        values[one.node.input[1]] = _blocks(np.ascontiguousarray(one.weight.T), chosen, hessian).floats().T
    for name, (table, _) in lookups_of(graph).items():
        values[name] = of_table(table, bits, chosen.block_size, chosen.symmetric).floats()
    replace_initializers(graph, values)
    feeds = {"input_ids": INPUTS["input_ids"], "attention_mask": np.ones_like(INPUTS["input_ids"])}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {one.name: feeds[one.name] for one in session.get_inputs()})[0]
    with open_predictor(left, threads=1) as predictor:
        assert np.abs(predictor.logits(INPUTS) - expected).max() < 1e-4


def test_refusals() -> None:
    fp32 = SourceFacts("onnx", "fp32", "bert", 2)
    for changes, message in (
        ({"bits": 5}, "2, 4 and 8"),
        ({"block_size": 48}, "power of two"),
        ({"rounding": "hqq", "symmetric": True}, "zero points"),
        ({"rounding": "hqq", "bits": 8}, "8-bit kernel"),
        ({"rounding": "nearest"}, "calibration_rows=12: with rounding=nearest nothing reads it"),
    ):
        with pytest.raises(ConfigError, match=message):
            WeightOnlyStep().check(config(**changes), fp32)
    with pytest.raises(ConfigError, match="this one is int8"):
        WeightOnlyStep().check(config(), SourceFacts("onnx", "int8", "bert", 2))
    for bits in (2, 4, 8):
        assert WeightOnlyStep().after(config(bits=bits), fp32).precision == f"int{bits}"
