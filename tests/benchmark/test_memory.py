"""Memory and cold start: models of a known footprint, each in a process that has done nothing before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.benchmark.judging import Judging
from compress.benchmark.latency import Texts
from compress.benchmark.memory import can_reset, peak_rss, reset_peak, resident
from compress.benchmark.process import WorkerProcess
from compress.config.schemas import Benchmark

MB = 10**6


def test_the_peak_is_at_least_what_is_resident() -> None:
    assert peak_rss() >= resident() > MB


@pytest.mark.skipif(not can_reset(), reason="this system cannot reset the peak")
def test_a_peak_that_was_reset_forgets_what_was_freed() -> None:
    held = np.ones(200 * MB // 8)
    high = peak_rss()
    del held
    reset_peak()
    assert peak_rss() < high - 150 * MB


def measured(path: Path, scratch: Path) -> dict[str, Any]:
    config = Benchmark(shapes=["1x16"])
    judging = Judging({}, Texts(None, 20), None, scratch, config, "cpu", 1, 1)
    with WorkerProcess("model", 1) as worker:
        return judging.open(worker, path)["memory"]


@pytest.fixture
def torch_model(tmp_path: Path, model: Any) -> Callable[[int], Path]:
    """Return a function that writes a torch checkpoint whose weights take so many bytes."""

    def make(size: int) -> Path:
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        from compress.checkpoint import Writer
        from compress.models.torch_io import save_model

        torch.manual_seed(0)
        hidden, layer = 1024, 12 * 1024**2 * 4  # bytes of a layer: 4 h² in attention, 8 h² in the feed-forward
        layers = round(size / layer)
        config = BertConfig(
            vocab_size=100,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=16,
            intermediate_size=4 * hidden,
            max_position_embeddings=64,
        )
        out = Writer(tmp_path / f"torch{size}")
        out.path.mkdir()
        save_model(out, BertForSequenceClassification(config).eval(), model[1], 32)
        facts = {"task": "text_classification", "metric": "accuracy", "labels": ("a", "b"), "max_length": 32}
        out.finish(format="torch", precision="fp32", architecture="bert", layers=layers, **facts)
        return out.path

    return make


@pytest.fixture
def onnx_model(tmp_path: Path) -> Callable[[int], Path]:
    """Return a function that writes an ``.onnx`` file whose weights take so many bytes."""

    def make(size: int) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        width, rows = 1024, 64
        layers = round(size / 4 / width**2)
        table = numpy_helper.from_array(np.ones((rows, width), np.float32), "table")
        weights = [
            numpy_helper.from_array(np.full((width, width), 1e-3 * (n + 1), np.float32), f"w{n}") for n in range(layers)
        ]
        nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x0"])]
        nodes += [helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"]) for n in range(layers)]
        nodes += [helper.make_node("Identity", [f"x{layers}"], ["logits"])]
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", width])
        graph = helper.make_graph(nodes, "g", [ids], [logits], [table, *weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        file = tmp_path / f"model{size}.onnx"
        onnx.save(model, str(file))
        return file

    return make


@pytest.mark.slow
@pytest.mark.skipif(not can_reset(), reason="this system cannot reset the peak")
@pytest.mark.parametrize("size", [100 * MB, 400 * MB])
def test_a_known_footprint_is_reported(size: int, torch_model: Callable[[int], Path], tmp_path: Path) -> None:
    path = torch_model(size)
    weights = (path / "model.safetensors").stat().st_size
    found = measured(path, tmp_path)
    assert found["inference_bytes"] == pytest.approx(weights, rel=0.1)
    assert found["load_bytes"] == pytest.approx(weights, rel=0.25)  # for a moment one tensor is there twice
    assert found["peak_rss_bytes"] == pytest.approx(found["empty_rss_bytes"] + found["model_bytes"], rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not can_reset(), reason="this system cannot reset the peak")
def test_what_a_runtime_keeps_beside_the_weights_is_counted(onnx_model: Callable[[int], Path], tmp_path: Path) -> None:
    """ONNX Runtime holds the file while it opens it, and packed copies of matrices afterwards."""
    small, large = (measured(onnx_model(size), tmp_path) for size in (100 * MB, 200 * MB))
    assert 90 * MB < small["inference_bytes"] < 1.05 * small["load_bytes"] < 400 * MB
    grown = large["inference_bytes"] - small["inference_bytes"]
    assert 50 * MB < grown < 250 * MB


@pytest.mark.slow
def test_a_figure_does_not_depend_on_what_was_measured_before(
    torch_model: Callable[[int], Path], onnx_checkpoint: Any, tmp_path: Path
) -> None:
    alone = measured(onnx_checkpoint.path, tmp_path)
    measured(torch_model(200 * MB), tmp_path)
    after = measured(onnx_checkpoint.path, tmp_path)
    assert after["peak_rss_bytes"] == pytest.approx(alone["peak_rss_bytes"], rel=0.02)
