"""distill.replace: a student whose layers stand in for its teacher's as they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from compress.checkpoint import Checkpoint
from compress.config.schemas import Distill, DistillWeights, Finetune, Prune, PruneRatio, PruneTarget, Student
from compress.config.training import Relations, Replacement
from compress.data.base import Data
from compress.errors import ConfigError
from compress.models.torch_io import load_model
from compress.steps.distill import DistillStep
from compress.tasks import create
from compress.training.distillation.replacement import Replacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from compress.steps.base import SourceFacts

    from .conftest import World

LABELS_ALONE = DistillWeights(task=1.0, logits=0.0)
ON = Replacement(rate=0.4, full_at=0.5)
QUICK: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "student": Student(layers=1),
    "replace": ON,
}


def test_labels_and_the_teacher_s_layers_teach_a_student(world: World, tuned: Checkpoint) -> None:
    student = world.run(tuned, Distill(**QUICK, weights=LABELS_ALONE))
    assert student.layers == 1
    assert student.manifest.facts["validation"]["accuracy"] >= 0.8
    assert not (world.root / "cache").exists(), "the teacher is asked nothing"
    ours = set(load_file(student.path / "model.safetensors"))
    assert ours == {name for name in load_file(tuned.path / "model.safetensors") if ".layer.1." not in name}


def test_equal_work_gives_equal_bytes_and_draws_count(world: World, tuned: Checkpoint) -> None:
    config = Distill(**QUICK, weights=DistillWeights(hidden=0.5, attention=0.1))
    first = world.run(tuned, config)
    assert world.run(tuned, replace(config, checkpoint_seconds=0.0)).digest == first.digest
    assert world.run(tuned, replace(config, replace=Replacement(rate=0.9))).digest != first.digest
    off = world.run(tuned, replace(config, replace=Replacement()))
    assert world.run(tuned, replace(config, replace=Replacement(rate=0.0))).digest == off.digest != first.digest


def test_embeddings_and_head_stay_until_every_layer_stands_in(world: World, tuned: Checkpoint) -> None:
    """The training has a token table of the rows that are read, and that is frozen too."""
    whole = {**QUICK, "replace": Replacement(rate=0.3, full_at=1.0)}
    last = DistillWeights(task=0.0, logits=0.0, hidden=1.0)  # no answers are judged: the last epoch is kept
    before = load_file(tuned.path / "model.safetensors")
    after = load_file(world.run(tuned, Distill(**whole, weights=last)).path / "model.safetensors")
    same = {name for name, tensor in after.items() if tensor.equal(before[name])}
    assert same == {name for name in after if ".layer." not in name}
    later = load_file(world.run(tuned, Distill(**QUICK, weights=last)).path / "model.safetensors")
    assert not any(tensor.equal(before[name]) for name, tensor in later.items() if "word_embeddings" in name)


def test_tokens_are_learned_by_replacement(world: World) -> None:
    labels = ("O", "B-X", "I-X")
    words = {"O": "road", "B-X": "north", "I-X": "city"}

    def sentences(count: int, seed: int) -> pd.DataFrame:
        generator = np.random.default_rng(seed)
        tags = [["O", *(["B-X", "I-X"] if size % 2 else []), *["O"] * size] for size in generator.integers(1, 6, count)]
        return pd.DataFrame({"tokens": [[words[tag] for tag in row] for row in tags], "tags": tags})

    world.data = Data(
        "made", "token_classification", sentences(40, 0), sentences(16, 1), sentences(4, 2), labels, "e" * 64
    )
    task = create("token_classification", labels)
    tune = Finetune(epochs=3, batch_size=8, learning_rate=1e-2)
    teacher = world.run(world.source, tune, world.context("finetune", task=task))
    student = world.run(teacher, Distill(**QUICK, weights=LABELS_ALONE), world.context("distill", task=task))
    assert student.manifest.facts["validation"]["f1"] > 0.8


def test_an_earlier_step_s_layers_are_replaced_in_a_pruned_student(
    world: World, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin = world.run(tuned, Prune(target=PruneTarget(ratio=PruneRatio(heads=0.5, neurons=0.5)), calibration_rows=16))
    config = Distill(**{**QUICK, "student": Student(layers=None)}, weights=LABELS_ALONE, teacher="finetune")
    assert DistillStep().inputs(config) == ("finetune",)
    began: list[list[int]] = []
    original = Replacing.begin

    def begin(self: Replacing, scene: Any) -> Any:
        layers = scene.teacher().bert.encoder.layer
        began.append([layer.attention.self.num_attention_heads for layer in layers])
        return original(self, scene)

    monkeypatch.setattr(Replacing, "begin", begin)
    left = world.run(thin, config, world.context("distill", inputs={"finetune": tuned}))
    assert began == [[2, 2]]
    assert [layer.attention.self.num_attention_heads for layer in load_model(left).bert.encoder.layer] == [1, 1]


def test_a_teacher_whose_layers_cannot_be_replaced_is_refused_before_training(world: World, tuned: Checkpoint) -> None:
    config = Distill(**QUICK, weights=LABELS_ALONE, teacher="finetune")

    def refused(match: str, source: Checkpoint, teacher: Checkpoint) -> None:
        with pytest.raises(ConfigError, match=match):
            world.run(source, config, world.context("distill", inputs={"finetune": teacher}))

    narrow = world.run(tuned, Prune(target=PruneTarget(ratio=PruneRatio(hidden=0.5)), calibration_rows=16))
    refused("student is a bert model 16 wide, the teacher a bert model 32 wide", narrow, tuned)
    other = replace(tuned.manifest, files={**tuned.manifest.files, "tokenizer.json": "0" * 64})
    refused("the tokenizer of the teacher is not the student's", tuned, Checkpoint(tuned.path, other))
    shallow = world.run(tuned, Distill(**{**QUICK, "epochs": 1, "replace": Replacement()}))
    config = replace(config, student=Student(layers=2))
    refused("the student has 2 layers, more than the 1 of its teacher", tuned, shallow)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replace": Replacement(full_at=0.3)}, r"replace\.full_at=0\.3 is read only where replace\.rate is above 0"),
        ({"replace": ON, "teachers": ["a", "b"]}, "the layers of one teacher can be replaced"),
        (
            {"replace": ON, "weights": DistillWeights(relations=1.0), "relations": Relations(layer=0)},
            "set relations.layer=null",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused_while_planning(
    options: Any, message: str, facts: Callable[..., SourceFacts]
) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillStep().check(Distill(**options), facts())
