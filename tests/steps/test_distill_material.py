"""distill: what it reads beside labelled rows, who teaches, and what is left of it in the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open

from compress.checkpoint import Checkpoint
from compress.config.schemas import Distill, DistillWeights, Student
from compress.config.training import Augmentation, Stage
from compress.errors import ConfigError, DataError
from compress.models.torch_io import load_model
from compress.steps.distill import DistillStep
from compress.training import train
from compress.training.distillation.live import LiveTeacher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compress.steps.base import SourceFacts

    from .conftest import World

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "student": Student(layers=1)}
INSIDE = DistillWeights(
    task=0.0, logits=0.0, hidden=1.0, embeddings=1.0, tokens=0.1, cosine=0.1, attention=0.1, minilm=0.1, contrastive=0.1
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the rows that live teachers answer, a number per batch."""
    counted: list[int] = []
    original = LiveTeacher.answers

    def counting(self: LiveTeacher, *arguments: Any) -> Any:
        before = self.rows
        found = original(self, *arguments)
        counted.append(self.rows - before)
        return found

    monkeypatch.setattr(LiveTeacher, "answers", counting)
    return counted


def test_nothing_of_the_training_is_in_the_saved_student(world: World, tuned: Checkpoint) -> None:
    student = world.run(tuned, Distill(**QUICK, weights=INSIDE))
    with safe_open(student.path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "distillation" in name]  # noqa: SIM118 - no mapping
    assert student.digest == world.run(tuned, Distill(**QUICK, weights=INSIDE)).digest


def test_representations_alone_keep_the_last_epoch(world: World, tuned: Checkpoint) -> None:
    student = world.run(tuned, Distill(**{**QUICK, "epochs": 4}, weights=INSIDE))
    assert student.manifest.facts["best_epoch"] == 4
    history = student.manifest.facts["history"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_states_that_may_not_be_kept_come_from_a_teacher_in_the_loop(
    world: World, tuned: Checkpoint, asked: list[int]
) -> None:
    weights = DistillWeights(hidden=0.5)
    kept = world.run(tuned, Distill(**QUICK, weights=weights))
    assert not asked
    context = world.context("distill", cache=world.root / "other")
    live = world.run(tuned, Distill(**QUICK, weights=weights, teacher_bytes=100.0), context)
    assert sum(asked) == 2 * len(world.data.train)
    losses = [[entry["loss"] for entry in one.manifest.facts["history"]] for one in (kept, live)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2), "half precision"


def test_logits_are_the_same_kept_and_asked_anew(world: World, tuned: Checkpoint) -> None:
    """To 1e-5: kept logits are float32."""
    kept = world.run(tuned, Distill(**QUICK))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("compress.training.distillation.outputs.teacher_outputs", lambda *_, **__: None)
        live = world.run(tuned, Distill(**QUICK))
    losses = [[entry["loss"] for entry in one.manifest.facts["history"]] for one in (kept, live)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_changed_rows_are_answered_as_they_come_and_others_once(
    world: World, tuned: Checkpoint, asked: list[int]
) -> None:
    augment = Augmentation(share=0.5, mixup=0.4)
    first = world.run(tuned, Distill(**QUICK, augment=augment, weights=DistillWeights(hidden=0.1)))
    assert sum(asked) == len(world.data.train)  # a half of the rows in each of two epochs
    assert (
        first.digest == world.run(tuned, Distill(**QUICK, augment=augment, weights=DistillWeights(hidden=0.1))).digest
    )
    assert first.digest != world.run(tuned, Distill(**QUICK, weights=DistillWeights(hidden=0.1))).digest


def test_texts_without_labels_are_read_and_counted(world: World, tuned: Checkpoint, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    repeated = world.data.train["text"][0]
    more.write_text(f"a lovely road\nthe poor table\n\n{repeated.upper()}\na lovely  road\n", encoding="utf-8")
    config = Distill(**QUICK, unlabelled=str(more))
    student = world.run(tuned, config)
    assert student.manifest.facts["unlabelled"] == 2
    before = DistillStep().resolve(config)
    more.write_text("other texts\n", encoding="utf-8")
    assert DistillStep().resolve(config) != before, "the file's content is part of the key"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, r"distill\.unlabelled=.*absent\.txt: no such file"),
        ("empty.txt", "", "is empty"),
        ("more.doc", "x", "unsupported suffix"),
        ("blank.txt", "\n \n", "none of its 2 texts is left"),
        ("other.csv", "sentence\nx\n", "no column 'text'"),
    ],
)
def test_a_file_of_texts_that_cannot_be_read_is_refused(
    world: World, tuned: Checkpoint, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    config = Distill(**QUICK, unlabelled=str(tmp_path / name))
    with pytest.raises(DataError, match=message):
        world.run(tuned, config)


def test_a_file_of_texts_that_is_not_there_is_refused_while_planning(facts: Callable[..., SourceFacts]) -> None:
    with pytest.raises(DataError, match=r"distill\.unlabelled=absent\.txt: no such file"):
        DistillStep().check(Distill(unlabelled="absent.txt"), facts())


def test_layers_that_the_source_lacks_are_refused_while_planning(facts: Callable[..., SourceFacts]) -> None:
    config = Distill(teacher_layers=[1, 9, 3], weights=DistillWeights(hidden=1.0))
    with pytest.raises(ConfigError, match=r"teacher_layers=\[1, 9, 3\]: 9 is no layer of the teacher"):
        DistillStep().check(config, facts())


def test_several_teachers_teach_together(world: World, tuned: Checkpoint) -> None:
    other = world.run(tuned, Distill(**QUICK))
    both = {"finetune": tuned, "other": other}
    config = Distill(**QUICK, teachers=["finetune", "other"])
    assert DistillStep().inputs(config) == ("finetune", "other")
    student = world.run(tuned, config, world.context("distill", inputs=both))
    assert student.digest != world.run(tuned, Distill(**QUICK)).digest
    with pytest.raises(ConfigError, match=r"distill\.weights\.hidden=0\.5: several teachers agree on logits only"):
        world.run(
            tuned,
            Distill(**QUICK, teachers=["finetune", "other"], weights=DistillWeights(hidden=0.5)),
            world.context("distill", inputs=both),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "a", "teachers": ["a", "b"]}, "set one of them"),
        ({"teachers": ["a"]}, "list two or more steps"),
        ({"teachers": ["a", "a"]}, "list two or more steps"),
    ],
)
def test_teachers_named_wrongly_are_refused_while_planning(
    options: Any, message: str, facts: Callable[..., SourceFacts]
) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillStep().check(Distill(**options), facts())


def test_a_student_of_fewer_heads_learns_relations(world: World, tuned: Checkpoint) -> None:
    from compress.config.schemas import Prune, PruneRatio, PruneTarget

    narrow = world.run(tuned, Prune(target=PruneTarget(ratio=PruneRatio(heads=0.5))))
    weights = DistillWeights(task=0.0, logits=0.0, relations=1.0)
    context = world.context("distill", inputs={"finetune": tuned})
    config = Distill(**{**QUICK, "student": Student(layers=None)}, teacher="finetune", weights=weights)
    student = world.run(narrow, config, context)
    history = student.manifest.facts["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    heads = load_model(student).bert.encoder.layer[0].attention.self.num_attention_heads
    assert heads == load_model(narrow).bert.encoder.layer[0].attention.self.num_attention_heads


def test_two_stages_are_two_trainings_and_go_on_where_they_were(
    world: World, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(epochs=2, batch_size=8, learning_rate=5e-3, weights=INSIDE)
    config = Distill(**QUICK, representations=stage)
    student = world.run(tuned, config)
    assert [entry["epoch"] for entry in student.manifest.facts["representations"]["history"]] == [1, 2]
    assert [entry["epoch"] for entry in student.manifest.facts["history"]] == [1, 2]
    assert student.digest != world.run(tuned, Distill(**QUICK)).digest

    context, trained = world.context("distill"), []
    original = train

    def dying(*arguments: Any, **options: Any) -> Any:
        trained.append(options["description"])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr("compress.training.train", dying)
    with pytest.raises(KeyboardInterrupt):
        world.run(tuned, config, context)
    assert trained == ["distill.representations", "distill"]
    assert world.run(tuned, config, context).digest == student.digest


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(learning_rate=1e-3), r"representations\.epochs=0, so that there is no first stage"),
        (Stage(epochs=2), "nothing to learn from"),
    ],
)
def test_a_first_stage_that_does_nothing_is_refused(
    stage: Stage, message: str, facts: Callable[..., SourceFacts]
) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillStep().check(Distill(representations=stage), facts())
