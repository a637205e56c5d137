"""One suite over every registered step: what all of them promise."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.checkpoint import Checkpoint, open_checkpoint
from compress.config.elastic import Elastic, Subnetwork
from compress.config.quantization import (
    BitsAndBytes,
    MixedQuantization,
    OpenVINOQuantization,
    QuantizationAwareTraining,
    StaticQuantization,
    TrainedQuantization,
    WeightOnlyQuantization,
)
from compress.config.schemas import (
    Distill,
    DynamicQuantization,
    Export,
    Finetune,
    Prune,
    PruneTarget,
    Simplify,
    Student,
    Vocabulary,
)
from compress.errors import CompressError
from compress.steps.registry import step_for, step_kinds

CONFIGS: dict[str, Any] = {
    "finetune": Finetune(epochs=1, batch_size=16, learning_rate=1e-3),
    "prune": Prune(PruneTarget(macs=0.6), calibration_rows=32, multiple=8),
    "vocabulary": Vocabulary(max_metric_drop=None),
    "distill": Distill(epochs=1, batch_size=16, learning_rate=1e-3, student=Student(layers=1)),
    "elastic": Elastic(
        epochs=1,
        batch_size=16,
        learning_rate=1e-3,
        widths=[0.5, 1.0],
        depths=[0.5, 1.0],
        calibration_rows=32,
        shape="1x8",
    ),
    "cut": Subnetwork(),
    "export": Export(check_rows=8),
    "simplify": Simplify(check_rows=8),
    "quantize": DynamicQuantization(max_metric_drop=None),
    "quantize/aware": QuantizationAwareTraining(epochs=1, batch_size=16, learning_rate=1e-3, calibration_rows=32),
    "quantize/mixed": MixedQuantization(max_metric_drop=1.0, calibration_rows=32),
    "quantize/trained": TrainedQuantization(max_metric_drop=None),
    "quantize/static": StaticQuantization(max_metric_drop=None, calibration_rows=32),
    "quantize/weight_only": WeightOnlyQuantization(max_metric_drop=None, calibration_rows=32),
    "quantize/openvino": OpenVINOQuantization(max_metric_drop=None, calibration_rows=16),
    "quantize/bitsandbytes": BitsAndBytes(max_metric_drop=None),
}
EXTRAS = {"quantize/bitsandbytes": ("bitsandbytes",), "quantize/openvino": ("openvino", "nncf")}
"""Packages of an extra that a kind of step needs to run."""
KINDS = sorted(CONFIGS)
RUNNABLE = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(name) is None for name in EXTRAS.get(kind, ())), reason="needs an extra"
        ),
    )
    for kind in KINDS
]


@pytest.fixture
def source_of(world: Any, tuned: Checkpoint) -> Callable[[str], Any]:
    """Return a function that gives a source that the kind of step accepts."""

    def give(kind: str) -> Any:
        if kind == "quantize/trained":
            return world.run(world.run(tuned, CONFIGS["quantize/aware"]), CONFIGS["export"])
        if kind == "cut":
            return world.run(tuned, CONFIGS["elastic"])
        accepts = step_kinds()[kind].accepts
        if "torch" in accepts:
            return tuned
        return world.source if "source" in accepts else world.run(tuned, CONFIGS["export"])

    return give


def test_every_registered_step_is_under_contract() -> None:
    assert set(step_kinds()) - {"source"} == set(KINDS)


@pytest.mark.parametrize("kind", sorted(step_kinds()))
def test_declarations_are_complete(kind: str) -> None:
    step = step_kinds()[kind]
    assert step.kind == kind
    assert dataclasses.is_dataclass(step.config)
    assert step.accepts
    assert step.leaves in {"torch", "onnx", "openvino"}
    assert step.modules
    assert step.packages
    assert step_for(step.config) is step


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNNABLE)
def test_equal_work_gives_equal_bytes(kind: str, world: Any, source_of: Callable[[str], Any]) -> None:
    source = source_of(kind)
    first, second = (world.run(source, CONFIGS[kind]) for _ in range(2))
    assert first.manifest.files == second.manifest.files
    assert first.digest == second.digest


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNNABLE)
def test_what_it_leaves_reloads_to_equal_logits(
    kind: str, world: Any, source_of: Callable[[str], Any], tmp_path: Path
) -> None:
    import numpy as np

    from compress.checkpoint import copy_checkpoint
    from compress.runtime import open_predictor

    left = world.run(source_of(kind), CONFIGS[kind])
    assert left.format == step_kinds()[kind].leaves
    moved = copy_checkpoint(left, tmp_path / "moved")
    batch = {"input_ids": np.arange(5, 21).reshape(2, 8), "attention_mask": np.ones((2, 8), dtype=np.int64)}
    one, two = (open_predictor(path, threads=1, device="cpu").logits(batch) for path in (left.path, moved.path))
    assert one.dtype == np.float32
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_source_is_refused_before_work(kind: str, facts: Callable[..., Any]) -> None:
    step = step_kinds()[kind]
    with pytest.raises(CompressError):
        step.check(CONFIGS[kind], facts(precision="int8"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNNABLE)
def test_the_source_is_left_as_it_was(kind: str, world: Any, source_of: Callable[[str], Any]) -> None:
    source = source_of(kind)
    world.run(source, CONFIGS[kind])
    if isinstance(source, Checkpoint):
        assert open_checkpoint(source.path).digest == source.digest


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finetune", "distill", "elastic"])
def test_training_on_a_gpu_leaves_a_checkpoint_that_a_cpu_opens(
    kind: str, world: Any, source_of: Callable[[str], Any]
) -> None:
    import numpy as np

    from compress.runtime import open_predictor

    source = world.source if kind == "finetune" else source_of(kind)
    left = world.run(source, CONFIGS[kind], world.context(kind, device="cuda"))
    batch = {"input_ids": np.arange(5, 21).reshape(2, 8)}
    cpu, cuda = (open_predictor(left.path, threads=1, device=device).logits(batch) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda, cpu, atol=1e-3)
