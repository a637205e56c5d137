"""distill from a teacher of another tokenizer: it reads the rows by its own, and answers are matched unit by unit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from compress.checkpoint import Checkpoint
from compress.config.schemas import Distill, DistillWeights, Finetune, Student, Vocabulary
from compress.data.base import Data
from compress.errors import ConfigError, UnsupportedError
from compress.models.torch_io import load_model, load_tokenizer
from compress.tasks import create
from compress.tasks.base import IGNORED, Task
from compress.tasks.padding import padding_of
from compress.training.distillation.alignment import AlignedOutputs
from compress.training.distillation.asking import ask
from compress.training.distillation.layer_maps import matching
from compress.training.distillation.losses import logits_loss
from compress.training.distillation.material import material
from compress.training.distillation.terms import DistillationLoss

if TYPE_CHECKING:
    from .conftest import World

FEW = Vocabulary(tokens=2, max_metric_drop=None)
"""Two words stay, every other is spelled with characters."""
ALL_LAYERS = Student(layers=None)
QUICK: dict[str, Any] = {"batch_size": 8, "learning_rate": 5e-3, "student": ALL_LAYERS, "teacher": "finetune"}
LABELS = ("O", "B-X", "I-X")


def sentences(count: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    tags = [["O", *(["B-X", "I-X"] if size % 2 else []), *["O"] * size] for size in generator.integers(1, 6, count)]
    words = {"O": "road", "B-X": "north", "I-X": "city"}
    return pd.DataFrame({"tokens": [[words[tag] for tag in row] for row in tags], "tags": tags})


@pytest.fixture
def tagger(world: World) -> tuple[Checkpoint, Task]:
    """Return a tagger of short sentences; the world's data are theirs."""
    task = create("token_classification", LABELS)
    splits = (sentences(40, 0), sentences(16, 1), sentences(4, 2))
    world.data = Data("made", "token_classification", *splits, LABELS, "e" * 64)
    finetune = Finetune(epochs=3, batch_size=8, learning_rate=1e-2)
    return world.run(world.source, finetune, world.context("finetune", task=task)), task


def answers(teacher: Checkpoint, task: Task, row: int, data: Data, max_length: int) -> np.ndarray:
    """Return the teacher's logits on one training row, by its own tokenizer."""
    features = task.encode(data.train.iloc[[row]], load_tokenizer(teacher.path), max_length)
    inputs = {name: torch.tensor([values]) for name, values in features.inputs[0].items()}
    with torch.inference_mode():
        logits: np.ndarray = load_model(teacher)(**inputs).logits[0].numpy()
    return logits


def asked(world: World, teacher: Checkpoint, student: Checkpoint, **changes: Any) -> tuple[Any, Any]:
    """Return the student's features and what the step asks the teacher."""
    context = world.context("distill", inputs={"finetune": teacher}, **changes)
    tokenizer = load_tokenizer(student.path)
    rows, config = material(context.task, context.data, [], tokenizer, context.max_length), Distill(**QUICK)
    found = ask(
        [teacher],
        student,
        rows,
        matching(config, student.layers, teacher.layers),
        context.task,
        context.data,
        [],
        config,
        max_length=context.max_length,
        device="cpu",
        cache=context.cache,
    )
    return rows.features, found.aligned or found.outputs


def test_a_text_is_answered_as_the_teacher_reads_it(world: World, tuned: Checkpoint) -> None:
    pruned = world.run(tuned, FEW)
    features, outputs = asked(world, tuned, pruned)
    own = world.context("d").task.encode(world.data.train, load_tokenizer(tuned.path), 32)
    assert sum(features.lengths) > 2 * sum(own.lengths)
    found = outputs.batch([5, 1, 40], 32)
    for place, row in enumerate([5, 1, 40]):
        expected = answers(tuned, world.context("d").task, row, world.data, 32)
        np.testing.assert_allclose(found["teacher_logits"][place], expected, atol=1e-5)


def test_a_pruned_vocabulary_recovers_with_the_unpruned_teacher(world: World, tuned: Checkpoint) -> None:
    pruned = world.run(tuned, FEW)
    config = Distill(**QUICK, epochs=3, weights=DistillWeights(task=0.1, logits=0.9))  # as distill=recover
    taught = [world.run(pruned, config, world.context("distill", inputs={"finetune": tuned})) for _ in range(2)]
    assert taught[0].digest == taught[1].digest
    assert len(list((world.root / "cache" / "teacher").glob("*/*.bin"))) == 1, "the second time the file answers"
    before = pruned.manifest.facts["validation"]["accuracy"]
    assert taught[0].manifest.facts["validation"]["accuracy"] >= max(0.9, before + 0.1)


def test_words_are_matched_where_both_have_them(world: World, tagger: tuple[Checkpoint, Task]) -> None:
    teacher, task = tagger
    pruned = world.run(teacher, replace(FEW, tokens=1), world.context("vocabulary", task=task))
    features, outputs = asked(world, teacher, pruned, task=task, max_length=8)
    assert isinstance(outputs, AlignedOutputs)
    cut = [row for row in range(len(features)) if len(features.references[row]["word_of"]) < 5]
    assert features.truncated
    assert cut
    longest = max(features.lengths)
    batch = outputs.batch(range(len(features)), longest)
    for row in (cut[0], cut[-1], 0):
        expected = answers(teacher, task, row, world.data, 8)
        ours = [place for place, mark in enumerate(features.labels[row]) if mark != IGNORED]
        assert np.flatnonzero(batch["teacher_matched"][row]).tolist() == ours, "the teacher, of whole words, has all"
        for place, word in zip(ours, features.references[row]["word_of"], strict=True):
            np.testing.assert_allclose(batch["teacher_logits"][row, place], expected[1 + word], atol=1e-5)
    assert outputs.share_of(features) == 1.0


def test_words_that_the_teacher_lacks_are_left_out_of_the_loss(world: World, tagger: tuple[Checkpoint, Task]) -> None:
    teacher, task = tagger
    spelling = world.run(teacher, replace(FEW, tokens=1), world.context("vocabulary", task=task))
    features, outputs = asked(world, spelling, teacher, task=task, max_length=8)
    assert 0.3 < outputs.share_of(features) < 1.0
    rows = list(range(6))
    padding = padding_of(load_tokenizer(teacher.path))
    inputs = [features.inputs[row] for row in rows]
    arrays = dict(task.collate(inputs, [features.labels[row] for row in rows], padding))
    arrays |= outputs.batch(rows, arrays["input_ids"].shape[1])
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model = load_model(teacher)
    config = Distill(weights=DistillWeights(task=0.0, logits=1.0), temperature=2.0)
    loss_of = DistillationLoss(task, config, model, matching(config, 2, 2))
    loss = loss_of(model, batch, 0.5)
    own = ("labels", "teacher_logits", "teacher_matched")
    logits = model(**{name: tensor for name, tensor in batch.items() if name not in own}).logits
    known = batch["teacher_matched"]
    assert 0 < known.sum() < (batch["labels"] != IGNORED).sum()
    assert loss.item() == pytest.approx(
        logits_loss(logits[known], batch["teacher_logits"][known], 2.0).item(), rel=1e-6
    )
    nothing = batch | {"teacher_matched": torch.zeros_like(known)}
    assert loss_of(model, nothing, 0.5).item() == 0


def test_a_tagger_of_a_pruned_vocabulary_is_taught_word_by_word(world: World, tagger: tuple[Checkpoint, Task]) -> None:
    teacher, task = tagger
    pruned = world.run(teacher, replace(FEW, tokens=1), world.context("vocabulary", task=task))
    config = Distill(**QUICK, epochs=3, weights=DistillWeights(task=0.0, logits=1.0))
    student = world.run(pruned, config, world.context("distill", task=task, inputs={"finetune": teacher}))
    assert student.manifest.facts["matched_with_teacher"] == 1.0
    assert student.manifest.facts["validation"]["f1"] > 0.8


def test_hidden_states_across_tokenizers_are_refused_before_any_work(world: World, tuned: Checkpoint) -> None:
    pruned = world.run(tuned, FEW)
    config = Distill(**QUICK, weights=DistillWeights(hidden=0.5))
    with pytest.raises(ConfigError, match=r"weights\.hidden=0\.5: the tokenizer of the teacher finetune is not"):
        world.run(pruned, config, world.context("distill", inputs={"finetune": tuned}))
    assert not (world.root / "cache").exists()


def test_a_task_that_cannot_match_is_refused(world: World, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of another package may be, which was written before there was such a thing."""
    pruned = world.run(tuned, FEW)
    monkeypatch.delattr("compress.tasks.text_classification.TextClassificationTask.aligned")
    with pytest.raises(UnsupportedError, match="text_classification: which tokens of two tokenizers stand for the"):
        asked(world, tuned, pruned)
