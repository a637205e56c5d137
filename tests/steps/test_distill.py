"""distill: the losses against float64, which layers, a teacher asked once, errors before any work."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from compress.checkpoint import Checkpoint
from compress.config.schemas import Distill, DistillWeights, Student
from compress.errors import ConfigError, MachineError
from compress.models.torch_io import load_model, load_tokenizer
from compress.steps.base import SourceFacts
from compress.steps.distill import DistillStep
from compress.steps.distill.layers import chosen_layers
from compress.tasks.padding import padding_of
from compress.training.distillation.layer_maps import layer_map
from compress.training.distillation.outputs import teacher_outputs

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import World

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "student": Student(layers=1)}
ALL = DistillWeights(task=0.1, logits=0.9, hidden=0.5)


# --- layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "of", "choice", "expected"),
    [
        (3, 6, "uniform", (0, 2, 5)),
        (2, 6, "uniform", (0, 5)),
        (4, 12, "uniform", (0, 3, 7, 11)),
        (6, 6, "uniform", (0, 1, 2, 3, 4, 5)),
        (1, 6, "uniform", (0,)),
        (2, 6, "first", (0, 1)),
        (2, 6, "last", (4, 5)),
    ],
)
def test_student_layers_are_chosen_over_the_depth(layers: int, of: int, choice: str, expected: tuple[int, ...]) -> None:
    assert chosen_layers(Student(layers=layers, layer_choice=choice), of) == expected


def test_matched_layers_rise_and_end_with_the_last() -> None:
    assert layer_map(Distill(), 3, 6) == (1, 3, 5)
    for depth in range(1, 13):
        for layers in range(1, depth + 1):
            matched = layer_map(Distill(), layers, depth)
            assert matched[-1] == depth - 1
            assert list(matched) == sorted(set(matched))
            assert matched[0] >= 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Distill(student=Student(layers=7)), "student.layers=7: the source has 6 layers"),
        (Distill(student=Student(layers=2, initialise_from=[0])), "lists 1 layers, but student.layers=2"),
        (Distill(student=Student(layers=2, initialise_from=[0, 6])), "6 is no layer of the source"),
        (Distill(weights=DistillWeights(task=0.0, logits=0.0)), "nothing to learn from"),
    ],
)
def test_a_student_that_cannot_be_is_refused_while_planning(
    config: Distill, message: str, facts: Callable[..., SourceFacts]
) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillStep().check(config, facts())


# --- the teacher's outputs ---------------------------------------------------------------------


class Counting:
    """Loads a model and counts the rows that went through it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.rows = 0

    def __call__(self) -> Any:
        model = load_model(self.checkpoint)
        model.register_forward_pre_hook(self._count, with_kwargs=True)
        return model

    def _count(self, model: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        self.rows += len(kwargs["input_ids"])


HIDDEN = (("hidden", 0), ("hidden", 1))


def asked(
    world: World, tuned: Checkpoint, teacher: Counting, cache: Path, parts: tuple[Any, ...] = HIDDEN, **more: Any
) -> Any:
    tokenizer, task = load_tokenizer(tuned.path), world.context("d").task
    features = task.encode(world.data.train, tokenizer, 32)
    arguments = {"parts": parts, "identity": {"teacher": tuned.digest}, "cache": cache, "device": "cpu", **more}
    return features, teacher_outputs(teacher, task, features, padding_of(tokenizer), **arguments)


def test_the_teacher_answers_each_text_once_and_right(world: World, tuned: Checkpoint, tmp_path: Path) -> None:
    teacher = Counting(tuned)
    features, outputs = asked(world, tuned, teacher, tmp_path)
    assert teacher.rows == len(features)
    asked(world, tuned, teacher, tmp_path)
    assert teacher.rows == len(features), "the second time the file answers"
    rows = [5, 1, 40]
    padded = max(features.lengths[row] for row in rows) + 2
    batch = outputs.batch(rows, padded)
    model = load_model(tuned)
    for place, row in enumerate(rows):
        inputs = {name: torch.tensor([values]) for name, values in features.inputs[row].items()}
        with torch.inference_mode():
            output = model(**inputs, output_hidden_states=True)
        np.testing.assert_allclose(batch["teacher_logits"][place], output.logits[0], atol=1e-5, rtol=1e-5)
        length = features.lengths[row]
        for layer in (0, 1):
            kept = batch[f"teacher_hidden_{layer}"][place]
            states = output.hidden_states[layer + 1][0].numpy()
            assert np.abs(kept[:length] - states).max() <= 1e-2 * np.abs(states).max()
            assert not kept[length:].any()


def test_a_full_disk_is_an_error_and_leaves_no_outputs(
    world: World, tuned: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(MachineError, match="no space left") as caught:
        asked(world, tuned, Counting(tuned), tmp_path)
    assert caught.value.exit_status == 1
    (folder,) = (tmp_path / "teacher").iterdir()
    assert [file.name for file in folder.iterdir()] in ([], ["lock"])


@pytest.mark.parametrize("damage", ["header", "body", "short", "empty"])
@pytest.mark.parametrize("name", ["logits", "hidden1"])
def test_damaged_outputs_are_computed_again(
    world: World, tuned: Checkpoint, tmp_path: Path, damage: str, name: str
) -> None:
    teacher = Counting(tuned)
    features, outputs = asked(world, tuned, teacher, tmp_path)
    expected = np.array(outputs.logits), np.array(outputs.parts["hidden", 1])
    (file,) = (tmp_path / "teacher").glob(f"*/{name}.bin")
    content = bytearray(file.read_bytes())
    del outputs
    content[60 if damage == "header" else -3] ^= 1
    file.write_bytes(content[:-1] if damage == "short" else b"" if damage == "empty" else content)
    before = teacher.rows
    _, again = asked(world, tuned, teacher, tmp_path)
    assert teacher.rows >= before + len(features)
    np.testing.assert_array_equal(again.logits, expected[0])
    np.testing.assert_array_equal(again.parts["hidden", 1], expected[1])
    names = sorted(path.name for path in file.parent.iterdir())
    assert names == ["hidden0.bin", "hidden1.bin", "lock", "logits.bin"]


def test_what_is_kept_is_not_asked_for_again(world: World, tuned: Checkpoint, tmp_path: Path) -> None:
    teacher = Counting(tuned)
    features, _ = asked(world, tuned, teacher, tmp_path, parts=())
    assert teacher.rows == len(features)
    _, more = asked(world, tuned, teacher, tmp_path, parts=(("query", 1),))
    assert teacher.rows == 2 * len(features)
    assert more.parts["query", 1].shape == (sum(features.lengths), 32)
    for parts in ((), (("query", 1),)):
        asked(world, tuned, teacher, tmp_path, parts=parts)
    assert teacher.rows == 2 * len(features)


def test_more_than_may_be_kept_is_not_computed(world: World, tuned: Checkpoint, tmp_path: Path) -> None:
    features, outputs = asked(world, tuned, Counting(tuned), tmp_path, most_bytes=1000)
    assert outputs is None
    assert [file.name for file in (tmp_path / "teacher").glob("*/*")] == ["lock"]
    size = 2 * 2 * 32 * sum(features.lengths)
    assert asked(world, tuned, Counting(tuned), tmp_path, most_bytes=size - 1)[1] is None
    assert asked(world, tuned, Counting(tuned), tmp_path, most_bytes=size)[1] is not None


# --- the step ---------------------------------------------------------------------------------


def test_the_student_is_smaller_and_answers_well(world: World, tuned: Checkpoint) -> None:
    student = world.run(tuned, Distill(**{**QUICK, "epochs": 4}, weights=ALL))
    assert student.layers == 1
    assert load_model(student).config.num_hidden_layers == 1
    assert student.manifest.facts["initialised_from"] == [0]
    taught_by = student.manifest.facts["teacher"]
    assert taught_by["disagrees_with_gold"] == pytest.approx(1 - taught_by["metrics"]["accuracy"], abs=1e-6)
    assert student.manifest.facts["validation"]["accuracy"] >= 0.8


def test_equal_distillation_gives_equal_bytes_with_cached_or_fresh_outputs(world: World, tuned: Checkpoint) -> None:
    first = world.run(tuned, Distill(**QUICK, weights=ALL))
    cached = world.run(tuned, Distill(**QUICK, weights=ALL, checkpoint_seconds=0.0))
    assert cached.digest == first.digest
    fresh = world.run(tuned, Distill(**QUICK, weights=ALL), world.context("distill", cache=world.root / "other"))
    assert fresh.digest == first.digest


def test_labels_alone_need_no_teacher(world: World, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.training.distillation.outputs.teacher_outputs", None)
    world.run(tuned, Distill(**QUICK, weights=DistillWeights(task=1.0, logits=0.0, hidden=0.0)))
    assert not (world.root / "cache").exists()


def test_another_step_can_teach(world: World, tuned: Checkpoint) -> None:
    config = Distill(**QUICK, teacher="finetune", weights=ALL)
    assert DistillStep().inputs(config) == ("finetune",)
    narrow = world.run(tuned, Distill(**QUICK))
    context = world.context("again", inputs={"finetune": tuned})
    taught = world.run(narrow, config, context)
    assert taught.layers == 1


def test_a_teacher_that_cannot_teach_is_refused_before_any_work(world: World, tuned: Checkpoint) -> None:
    from dataclasses import replace

    config = Distill(**QUICK, teacher="finetune", weights=ALL)

    def refused(match: str, **changes: Any) -> None:
        teacher = Checkpoint(tuned.path, replace(tuned.manifest, **changes))
        with pytest.raises(ConfigError, match=match):
            world.run(tuned, config, world.context("distill", inputs={"finetune": teacher}))
        assert not (world.root / "cache").exists()

    refused("same labels in the same order", labels=("good", "bad", "plain"))
    refused("onnx fp32; a teacher must be a torch fp32", format="onnx")
    refused("a student of 1 layers cannot be matched layer by layer with a teacher of 0", layers=0)


def test_tokens_are_taught_one_by_one(world: World) -> None:
    import pandas as pd

    from compress.config.schemas import Finetune
    from compress.data.base import Data
    from compress.tasks import create

    labels = ("O", "B-X", "I-X")

    def sentences(count: int, seed: int) -> pd.DataFrame:
        generator = np.random.default_rng(seed)
        tags = [["O", *(["B-X", "I-X"] if size % 2 else []), *["O"] * size] for size in generator.integers(1, 6, count)]
        words = {"O": "road", "B-X": "north", "I-X": "city"}
        return pd.DataFrame({"tokens": [[words[tag] for tag in row] for row in tags], "tags": tags})

    data = Data("made", "token_classification", sentences(40, 0), sentences(16, 1), sentences(4, 2), labels, "e" * 64)
    world.data, task = data, create("token_classification", labels)
    teacher = world.run(
        world.source,
        Finetune(epochs=3, batch_size=8, learning_rate=1e-2),
        world.context("finetune", task=task),
    )
    config = Distill(**{**QUICK, "epochs": 3}, weights=ALL)
    student = world.run(teacher, config, world.context("distill", task=task))
    assert student.manifest.facts["validation"]["f1"] > 0.8
    assert student.digest == world.run(teacher, config, world.context("distill", task=task)).digest


def test_hidden_states_of_a_family_with_names_of_its_own_are_matched(world: World, tuned: Checkpoint) -> None:
    """DistilBERT's config calls the hidden width ``dim``."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from compress.checkpoint import Writer
    from compress.models.torch_io import save_model

    tokenizer, task = load_tokenizer(tuned.path), world.context("d").task
    names = {"id2label": dict(enumerate(task.labels)), "label2id": {name: n for n, name in enumerate(task.labels)}}
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 32}
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=len(tokenizer), **sizes, **names)).eval()
    (world.root / "distilbert").mkdir()
    out = Writer(world.root / "distilbert")
    save_model(out, model, tokenizer, 32)
    teacher = out.finish(
        format="torch",
        precision="fp32",
        task=task.name,
        metric=task.metric,
        labels=task.labels,
        max_length=32,
        architecture="distilbert",
        layers=2,
    )
    left = world.run(teacher, Distill(**{**QUICK, "epochs": 1}, weights=ALL))
    assert left.architecture == "distilbert"
    assert left.layers == 1
