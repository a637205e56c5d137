"""The step between export and quantization, on a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.checkpoint import Checkpoint
from compress.config.schemas import DynamicQuantization, Export, Simplify
from compress.errors import StepError
from compress.onnx_graph import integer_products, load_graph


@pytest.mark.slow
def test_it_says_what_it_did_and_leaves_quantization_fewer_products(world: Any, tuned: Checkpoint) -> None:
    exported = world.run(tuned, Export(check_rows=8))
    simple = world.run(exported, Simplify(check_rows=20))
    facts = simple.manifest.facts["simplify"]
    assert facts["rows"] == 20
    assert facts["lengths"][0] < facts["lengths"][1]
    assert facts["largest_logit_difference"] <= 1e-5
    assert facts["nodes"][1] < facts["nodes"][0]
    assert (simple.format, simple.precision, simple.layers) == ("onnx", "fp32", 2)
    quantized = [world.run(source, DynamicQuantization(max_metric_drop=None)) for source in (exported, simple)]
    products = [len(integer_products(load_graph(one.path))) for one in quantized]
    assert products[0] - products[1] == 3


@pytest.mark.slow
def test_a_graph_that_answers_otherwise_is_refused(
    world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from onnx import numpy_helper

    from compress.steps.simplify import rewriting

    exported = world.run(tuned, Export(check_rows=8))
    real = rewriting.simplify_graph

    def wrong(*given: Any, **options: Any) -> Any:
        graph, counts = real(*given, **options)
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "classifier.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))
        return graph, counts

    monkeypatch.setattr(rewriting, "simplify_graph", wrong)
    with pytest.raises(StepError, match=r"disagrees with the export by .*simplify.merge=false"):
        world.run(exported, Simplify(check_rows=8))


@pytest.mark.slow
def test_a_graph_of_another_kind_is_refused_with_what_was_found(world: Any, tuned: Checkpoint, tmp_path: Path) -> None:
    from compress.checkpoint import Writer
    from compress.onnx_graph import save_graph
    from compress.steps.companions import copy_companions

    exported = world.run(tuned, Export(check_rows=8))
    graph = load_graph(exported.path)
    for node in graph.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Hardmax"
    folder = tmp_path / "other"
    folder.mkdir()
    out = Writer(folder)
    save_graph(graph, folder)
    copy_companions(exported, out)
    manifest = exported.manifest
    other = out.finish(
        format="onnx",
        precision="fp32",
        task=manifest.task,
        metric=manifest.metric,
        labels=manifest.labels,
        max_length=manifest.max_length,
        architecture=manifest.architecture,
        layers=manifest.layers,
    )
    with pytest.raises(StepError, match="0 of 2 attention blocks .*leave simplify out of steps"):
        world.run(other, Simplify())
