"""One suite over every registered step: what all of them promise."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from .conftest import World

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


@dataclass
class Made:
    """What the tests of a kind of step share: its source, what the source was before, and what the step left."""

    source: Any
    before: str
    left: Checkpoint


@pytest.fixture(scope="module")
def made(tuned: Checkpoint, shared_world: World) -> Callable[[str], Made]:
    """Return a function that gives a kind's source and what the step left of it, run once for all tests."""

    @cache
    def left(kind: str) -> Made:
        source = source_of(kind)
        before = source.digest if isinstance(source, Checkpoint) else ""
        return Made(source, before, shared_world.run(source, CONFIGS[kind]))

    def source_of(kind: str) -> Any:
        if kind == "quantize/trained":
            return aware()
        if kind == "cut":
            return left("elastic").left
        accepts = step_kinds()[kind].accepts
        if "torch" in accepts:
            return tuned
        return shared_world.source if "source" in accepts else left("export").left

    @cache
    def aware() -> Checkpoint:
        return shared_world.run(left("quantize/aware").left, CONFIGS["export"])

    return left


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
def test_equal_work_gives_equal_bytes(kind: str, world: World, made: Callable[[str], Made]) -> None:
    first = made(kind)
    second = world.run(first.source, CONFIGS[kind])
    assert second.path != first.left.path
    assert first.left.manifest.files == second.manifest.files
    assert first.left.digest == second.digest


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNNABLE)
def test_what_it_leaves_reloads_to_equal_logits(kind: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    import numpy as np

    from compress.checkpoint import copy_checkpoint
    from compress.runtime import open_predictor

    left = made(kind).left
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
def test_the_source_is_left_as_it_was(kind: str, made: Callable[[str], Made]) -> None:
    run = made(kind)
    if isinstance(run.source, Checkpoint):
        assert open_checkpoint(run.source.path).digest == run.before


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finetune", "distill", "elastic"])
def test_training_on_a_gpu_leaves_a_checkpoint_that_a_cpu_opens(kind: str, world: World, tuned: Checkpoint) -> None:
    import numpy as np

    from compress.runtime import open_predictor

    source = world.source if kind == "finetune" else tuned
    left = world.run(source, CONFIGS[kind], world.context(kind, device="cuda"))
    batch = {"input_ids": np.arange(5, 21).reshape(2, 8)}
    cpu, cuda = (open_predictor(left.path, threads=1, device=device).logits(batch) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda, cpu, atol=1e-3)
