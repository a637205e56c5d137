"""Progressive replacement: which block a layer stands in for, what runs in training and out of it, what learns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from compress.config.training import DistillWeights, Relations, Replacement, Taught
from compress.errors import ConfigError
from compress.models.families import family
from compress.models.structure import structure_of
from compress.models.surgery import keep_layers
from compress.tasks import create
from compress.training.distillation.entries import LOGITS, part_name
from compress.training.distillation.inside import Probe
from compress.training.distillation.layer_maps import Matching, matching
from compress.training.distillation.replacement import Replacing, blocks_of, chance
from compress.training.distillation.terms import DistillationLoss, Projections, Sizes
from compress.training.distillation.ways import Draws, Scene

TASK = create("text_classification", ["a", "b", "c"])
IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 1, 1], [2, 5, 6, 3, 1]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 1).long()}
BATCH = {**INPUTS, "labels": torch.tensor([0, 2, 1])}
LABELS_ALONE = Taught(weights=DistillWeights(task=1.0, logits=0.0))
EVERYTHING = Taught(
    weights=DistillWeights(hidden=1.0, embeddings=1.0, attention=1.0, minilm=1.0, relations=1.0, rdrop=1.0),
    relations=Relations(heads=2),
)


def model_of(kind: str, layers: int = 4, dropout: float = 0.0) -> Any:
    """Return a random classifier whose layers differ much."""
    known = family(kind)
    sizes = {known.config_layers: layers, known.config_heads: 2, known.config_hidden: 16, known.config_intermediate: 24}
    drop = dict.fromkeys(
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), dropout
    )
    more = {
        "vocab_size": 20,
        "max_position_embeddings": 16,
        "pad_token_id": 1,
        "num_labels": 3,
        "seq_classif_dropout": 0.0,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes, **drop, **more)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=known.attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


class Lesson:
    """A student of two layers in place of its teacher's four, ready for a batch."""

    def __init__(self, kind: str = "bert", config: Taught = LABELS_ALONE, dropout: float = 0.0, **replace: Any) -> None:
        self.teacher = model_of(kind, dropout=dropout)
        self.student = keep_layers(self.teacher, [0, 1]).train()
        ours, theirs = structure_of(self.student), structure_of(self.teacher)
        self.matched = matching(config, ours.layers, theirs.layers)
        self.student.add_module("distillation", Projections([], 16, 16))
        self.batch: dict[str, Any] = dict(BATCH)
        with torch.no_grad():
            probe = Probe(self.teacher, self.matched.teacher)
            logits, inside = probe(self.teacher, INPUTS)
            probe.close()
        self.batch |= {LOGITS: logits, **{part_name(part): states for part, states in inside.items()}}

        def make(pairs: Matching) -> DistillationLoss:
            return DistillationLoss(TASK, config, self.student, pairs, Sizes(ours.heads, theirs.heads))

        fresh = model_of(kind, dropout=dropout)
        self.draws = Given(0)
        self.way = Replacing(Replacement(**{"rate": 0.5, "full_at": 0.5, **replace}))
        self.loss = self.way.begin(Scene(self.student, lambda: fresh, config, self.matched, make, self.draws))

    def logits(self) -> torch.Tensor:
        return cast("torch.Tensor", self.student(**INPUTS).logits)

    def draw(self, *numbers: float) -> None:
        """Compute a loss with these numbers drawn for the layers, against a probability of 0.5."""
        self.draws.numbers = numbers
        self.loss(self.student, BATCH, 0.0)


class Given(Draws):
    """Numbers that a test says."""

    numbers: tuple[float, ...] = (0.1, 0.9)

    def next(self, progress: float) -> Any:
        return SimpleNamespace(random=lambda count: np.asarray(self.numbers[:count]))


@pytest.mark.parametrize(
    ("student", "teacher", "options", "expected"),
    [
        (3, 6, {}, [(0, 1), (2, 3), (4, 5)]),
        (2, 5, {}, [(0, 1, 2), (3, 4)]),
        (2, 2, {}, [(0,), (1,)]),
        (2, 4, {"layer_map": "last"}, [(0, 1, 2), (3,)]),
        (2, 4, {"teacher_layers": [0, 3]}, [(0,), (1, 2, 3)]),
    ],
)
def test_a_layer_stands_in_for_the_layers_since_the_one_before(
    student: int, teacher: int, options: Any, expected: list[tuple[int, ...]]
) -> None:
    assert [tuple(block) for block in blocks_of(Taught(**options), student, teacher)] == expected


@pytest.mark.parametrize("options", [{"layer_map": "skip"}, {"teacher_layers": [3, 1]}, {"teacher_layers": [4, 4]}])
def test_a_map_that_leaves_layers_without_a_stand_in_is_refused(options: Any) -> None:
    with pytest.raises(ConfigError, match="each stands in for those since the one before"):
        blocks_of(Taught(**options), 2, 5)


def test_the_probability_rises_in_equal_steps_to_one() -> None:
    config = Replacement(rate=0.2, full_at=0.5)
    assert [chance(config, progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([0.2, 0.6, 1, 1])


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "mpnet", "distilbert"])
def test_where_only_predecessors_are_drawn_the_teacher_answers(kind: str) -> None:
    lesson = Lesson(kind)
    with torch.no_grad():
        expected = lesson.teacher(**INPUTS).logits
        lesson.draw(0.9, 0.9)
        torch.testing.assert_close(lesson.logits(), expected)
        lesson.draw(0.1, 0.9)
        torch.testing.assert_close(lesson.logits(), keep_layers(lesson.teacher, [0, 2, 3])(**INPUTS).logits)
        lesson.draw(0.9, 0.1)
        torch.testing.assert_close(lesson.logits(), keep_layers(lesson.teacher, [0, 1, 1])(**INPUTS).logits)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "distilbert"])
def test_out_of_training_and_afterwards_the_student_alone_runs(kind: str) -> None:
    lesson = Lesson(kind)
    alone = keep_layers(lesson.teacher, [0, 1]).eval()(**INPUTS).logits
    names = list(keep_layers(lesson.teacher, [0, 1]).state_dict())
    lesson.loss(lesson.student, BATCH, 0.0)
    torch.testing.assert_close(lesson.student.eval()(**INPUTS).logits, alone)
    lesson.student.train()
    lesson.loss(lesson.student, BATCH, 0.5)
    torch.testing.assert_close(lesson.logits(), alone)
    assert list(lesson.student.state_dict()) == names, "while it learns too"
    lesson.way.end()
    torch.testing.assert_close(lesson.logits(), alone)
    assert "forward" not in vars(family(kind).layer_list(lesson.student)[0])
    assert all(parameter.requires_grad for parameter in lesson.student.parameters())


def test_only_successors_learn_until_the_probability_is_one() -> None:
    lesson = Lesson()
    lesson.draws.numbers = (0.1, 0.9)
    lesson.loss(lesson.student, BATCH, 0.0).backward()  # type: ignore[no-untyped-call]

    def learning() -> set[str]:
        return {
            name.partition("encoder.")[2][:7] for name, one in lesson.student.named_parameters() if one.grad is not None
        }

    assert learning() == {"layer.0"}
    lesson.student.zero_grad()
    lesson.loss(lesson.student, BATCH, 0.5).backward()
    assert learning() == {"", "layer.0", "layer.1"}


def test_a_batch_of_predecessors_alone_gives_a_gradient_of_nothing() -> None:
    lesson = Lesson()
    lesson.draws.numbers = (0.9, 0.9)
    lesson.loss(lesson.student, BATCH, 0.0).backward()  # type: ignore[no-untyped-call]
    gradients = [one.grad for one in lesson.student.bert.encoder.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_predecessors_drop_out_as_the_student_does() -> None:
    lesson = Lesson(dropout=0.5)
    lesson.draw(0.9, 0.9)
    torch.manual_seed(1)
    assert not torch.equal(lesson.logits(), lesson.logits())


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_every_term_of_the_loss_is_computed_whoever_runs(kind: str) -> None:
    """Where predecessors alone run, they compute what the teacher does: only labels and logits cost anything."""
    lesson = Lesson(kind, EVERYTHING)
    lesson.draws.numbers = (0.9, 0.9)
    with torch.no_grad():
        found = float(lesson.loss(lesson.student, lesson.batch, 0.0))
        expected = 0.1 * float(TASK.loss(lesson.teacher(**INPUTS).logits, BATCH["labels"]))
    assert found == pytest.approx(expected, abs=1e-5)
    for numbers in ((0.1, 0.9), (0.9, 0.1), (0.1, 0.1)):
        lesson.draws.numbers = numbers
        lesson.loss(lesson.student, lesson.batch, 0.0).backward()


def test_equal_draws_give_equal_trainings_though_killed(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.training.trainer import _EpochEnd

    def trained(scratch: Path) -> list[bytes]:
        teacher = tiny.tiny_model(layers=4)
        student = keep_layers(teacher, [0, 1])
        config, way = Taught(weights=LABELS_ALONE.weights), Replacing(Replacement(rate=0.5, full_at=0.6))

        def make(pairs: Matching) -> DistillationLoss:
            return DistillationLoss(tiny.tiny_task(), config, student, pairs)

        loss = way.begin(Scene(student, lambda: teacher, config, matching(config, 2, 4), make, Draws(3)))
        try:
            tiny.tiny_training(scratch, student, loss_fn=loss, checkpoint_seconds=0.0, gradient_accumulation=2)
        finally:
            way.end()
        return [tensor.numpy().tobytes() for tensor in student.state_dict().values()]

    whole = trained(tmp_path / "whole")
    original = _EpochEnd.on_step_end

    def dying(self: Any, args: Any, state: SimpleNamespace, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 9:
            raise KeyboardInterrupt
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(_EpochEnd, "on_step_end", dying)
        trained(tmp_path / "killed")
    assert trained(tmp_path / "killed") == whole


def test_every_batch_has_draws_of_its_own_and_a_resumed_one_the_same() -> None:
    """Progress tells updates apart; within an update batches are counted."""
    whole, resumed = Draws(3), Draws(3)
    progresses = (0.0, 0.0, 0.1, 0.1, 0.2)
    seen = [float(whole.next(progress).random()) for progress in progresses]
    assert len(set(seen)) == 5
    assert [float(resumed.next(progress).random()) for progress in progresses[2:]] == seen[2:]
    assert float(Draws(4).next(0.0).random()) != seen[0]


def test_a_classifier_s_last_layer_is_replaced_too_where_only_its_first_token_is_read(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings compute the last layer for that token alone, but not a layer in whose place a block may run."""
    teacher = tiny.tiny_model(layers=4)
    student = keep_layers(teacher, [0, 1])
    ran: list[int] = []
    for number, layer in enumerate(teacher.bert.encoder.layer):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    config, way = Taught(weights=LABELS_ALONE.weights), Replacing(Replacement(rate=0.5, full_at=1.0))

    def make(pairs: Matching) -> DistillationLoss:
        return DistillationLoss(tiny.tiny_task(), config, student, pairs)

    loss = way.begin(Scene(student, lambda: teacher, config, matching(config, 2, 4), make, Draws(3)))
    tiny.tiny_training(tmp_path, student, loss_fn=loss, epochs=1)
    way.end()
    assert set(ran) == {0, 1, 2, 3}
