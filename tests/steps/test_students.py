"""Students: which layers, how wide, from where; each saves, reloads and learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from compress.checkpoint import Checkpoint
from compress.config.schemas import Distill, DistillWeights, Student, StudentSearch
from compress.console import progress_of
from compress.errors import CheckpointError, ConfigError
from compress.models.structure import Widths, structure_of
from compress.models.torch_io import load_model, load_tokenizer
from compress.steps.base import SourceFacts
from compress.steps.distill import DistillStep
from compress.steps.distill.kinds import check_student
from compress.steps.distill.making import Made, make_student
from compress.steps.distill.narrowing import narrowed
from compress.steps.distill.search import search_layers, short_training

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import World

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 8, "learning_rate": 5e-3}
BATCH = {"input_ids": torch.tensor([[2, 9, 17, 30, 3], [2, 40, 3, 0, 0]])}
BATCH["attention_mask"] = (BATCH["input_ids"] > 0).long()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**BATCH).logits


def made(world: World, source: Checkpoint, student: Student, **changes: Any) -> Made:
    def learn(*_: Any) -> Any:
        raise AssertionError("nothing is to be searched for")

    return make_student(source, Distill(**QUICK, student=student), world.context("distill", **changes), learn)


@pytest.fixture
def pretrained(world: World, tuned: Checkpoint) -> Path:
    """Return the directory of another BERT with the tokenizer of `tuned`, and with a head of the same labels."""
    tokenizer = load_tokenizer(tuned.path)
    return write_bert(world.root / "pretrained", tokenizer, len(tokenizer))


def write_bert(path: Path, tokenizer: Any, entries: int, positions: int = 40) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    torch.manual_seed(7)
    names = {"id2label": {0: "bad", 1: "good", 2: "plain"}}
    config = BertConfig(vocab_size=entries, max_position_embeddings=positions, **sizes, **names)
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


# --- every kind -------------------------------------------------------------------------------

KINDS: dict[str, tuple[Student, tuple[int, int, int, int]]] = {
    "layers": (Student(layers=1), (1, 32, 2, 64)),
    "searched": (Student(layers=1, layer_choice="search", search=StudentSearch(2, 3, 8)), (1, 32, 2, 64)),
    "pruned": (Student(layers=None, hidden=12, heads=1, neurons=20), (2, 12, 1, 20)),
    "pruned in shares": (Student(layers=1, hidden=0.5, neurons=0.25), (1, 16, 2, 16)),
    "projected": (Student(layers=None, hidden=0.5, narrow="svd"), (2, 16, 2, 64)),
    "projected and pruned": (Student(layers=1, hidden=13, heads=1, neurons=24, narrow="svd"), (1, 13, 1, 24)),
    "fresh": (Student(layers=3, hidden=40, heads=4, neurons=48, fresh=True), (3, 40, 4, 48)),
    "fresh as the source": (Student(layers=None, fresh=True), (2, 32, 2, 64)),
    "path": (Student(layers=None, path="PATH"), (1, 24, 3, 40)),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_student_learns_and_is_equal_after_saving(
    kind: str, world: World, tuned: Checkpoint, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compress.models.torch_io as torch_io

    student, (layers, hidden, heads, neurons) = KINDS[kind]
    student = replace(student, path=None if student.path is None else str(pretrained))
    saved: list[torch.Tensor] = []
    save = torch_io.save_model
    monkeypatch.setattr(torch_io, "save_model", lambda *args: (saved.append(logits(args[1])), save(*args)))
    left = world.run(tuned, Distill(**QUICK, student=student))
    model = load_model(left)
    structure = structure_of(model)
    assert left.layers == structure.layers == layers
    assert (structure.hidden_size, set(structure.heads), set(structure.intermediate_size)) == (
        *(hidden, {heads}),
        {neurons},
    )
    assert torch.equal(logits(model), saved[0])
    assert left.manifest.facts["history"]
    facts = left.manifest.facts["student"]
    assert facts["made_from"] == {"fresh": "fresh", "path": "path"}.get(kind.partition(" ")[0], "source")
    assert ("initialised_from" in left.manifest.facts) is (facts["made_from"] == "source")


@pytest.mark.parametrize("kind", ["projected", "pruned", "fresh", "path", "searched"])
def test_equal_students_give_equal_bytes(kind: str, world: World, tuned: Checkpoint, pretrained: Path) -> None:
    student = KINDS[kind][0]
    config = Distill(**QUICK, student=replace(student, path=None if student.path is None else str(pretrained)))
    assert world.run(tuned, config).digest == world.run(tuned, config).digest


def test_a_student_can_be_narrowed_again(world: World, tuned: Checkpoint) -> None:
    once = world.run(tuned, Distill(**QUICK, student=Student(layers=None, hidden=20, neurons=40, narrow="svd")))
    twice = world.run(once, Distill(**QUICK, student=Student(layers=1, hidden=0.5, heads=1)))
    assert structure_of(load_model(twice)).hidden_size == 10
    fresh = made(world, once, Student(layers=None, fresh=True)).model
    assert (structure_of(fresh).hidden_size, structure_of(fresh).intermediate_size) == (20, (40, 40))


def test_a_fresh_student_leaves_out_what_its_source_lost(world: World, tuned: Checkpoint) -> None:
    from compress.config.schemas import Vocabulary

    cut = world.run(tuned, Vocabulary(max_metric_drop=None, max_changed=None))
    has, fresh = (structure_of(model) for model in (load_model(cut), made(world, cut, Student(fresh=True)).model))
    assert has.token_types == 0
    assert (fresh.vocabulary, fresh.positions, fresh.token_types) == (has.vocabulary, has.positions, 0)
    assert fresh.layers == 3
    world.run(cut, Distill(**QUICK, student=Student(fresh=True)))


# --- narrower ---------------------------------------------------------------------------------


def test_a_projection_to_the_full_width_answers_as_the_source(world: World, tuned: Checkpoint) -> None:
    student = made(world, tuned, Student(layers=None, hidden=32, narrow="svd"))
    torch.testing.assert_close(logits(student.model), logits(load_model(tuned)), atol=1e-5, rtol=1e-5)
    assert student.facts["student"]["variance_held"] == 1.0


def test_widths_that_stay_leave_the_weights_alone(world: World, tuned: Checkpoint) -> None:
    student = made(world, tuned, Student(layers=None, hidden=32, heads=2, neurons=64))
    assert torch.equal(logits(student.model), logits(load_model(tuned)))


def test_what_adds_nothing_goes_first(world: World, tuned: Checkpoint) -> None:
    model = load_model(tuned)
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.attention.output.dense.weight[:, :16] = 0  # head 0
        layer.output.dense.weight[:, 5:] = 0
        model.bert.encoder.layer[0].output.dense.weight[:, 5:] = 0
        model.bert.encoder.layer[0].attention.output.dense.weight[:, 16:] = 0  # head 1
    student, _ = narrowed(model, Student(heads=1, neurons=5), [BATCH])
    assert structure_of(student).heads == (1, 1)
    torch.testing.assert_close(logits(student), logits(model), atol=1e-5, rtol=1e-5)


def test_uneven_layers_stay_uneven_where_nothing_is_asked(world: World, tuned: Checkpoint) -> None:
    from compress.models.surgery import remove_heads, remove_neurons

    uneven = remove_neurons(remove_heads(load_model(tuned), {1: [0]}), {0: range(10)})
    student, facts = narrowed(uneven, Student(hidden=8), [BATCH])
    assert (structure_of(student).heads, structure_of(student).intermediate_size) == ((2, 1), (54, 64))
    assert facts["heads"] == [2, 1]
    with pytest.raises(ConfigError, match=r"student.heads=2: layer 1 of the student comes from one that has 1 left"):
        narrowed(uneven, Student(heads=2), [BATCH])


# --- search -----------------------------------------------------------------------------------

SEARCH = Student(layers=1, layer_choice="search", search=StudentSearch(candidates=2, updates=5, rows=16))


def test_a_search_records_what_it_tried_and_takes_the_best(world: World, tuned: Checkpoint) -> None:
    left = world.run(tuned, Distill(**QUICK, student=SEARCH))
    found = left.manifest.facts["student"]["search"]
    assert sorted(one["layers"] for one in found["ranked"]) == [[0], [1]]
    assert [one["divergence"] for one in found["ranked"]] == sorted(one["divergence"] for one in found["ranked"])
    best, other = found["trained"]
    assert left.manifest.facts["initialised_from"] == best["layers"]
    assert (best["accuracy"], -best["loss"]) >= (other["accuracy"], -other["loss"])
    assert found["updates"] == 5
    assert found["rows"] == 40


def test_the_test_split_chooses_nothing(world: World, tuned: Checkpoint) -> None:
    config = Distill(**QUICK, student=SEARCH)
    first = world.run(tuned, config)
    world.data = replace(world.data, test=world.data.test.iloc[:0])
    assert world.run(tuned, config).digest == first.digest


def test_uniform_is_always_a_candidate_and_a_draw_goes_to_the_lower_loss(world: World, tuned: Checkpoint) -> None:
    tried = []

    def learn(model: Any, data: Any, brief: Distill, name: str) -> Any:
        from compress.training import TrainingResult
        from compress.training.distillation import Lesson

        tried.append(name)
        assert len(data.train) == 40
        return Lesson(TrainingResult(0.5, 1, [{"loss": 1.0 / len(tried)}]), {}, None)

    config = Distill(**QUICK, student=SEARCH)
    arguments = (load_model(tuned), lambda layers: layers, learn, load_tokenizer(tuned.path))
    found = search_layers(*arguments, (0,), config, world.context("distill"))
    assert sorted(tried) == ["0", "1"]
    assert "-".join(map(str, found.layers)) == tried[-1]
    tried.clear()
    alone = replace(config, student=replace(SEARCH, search=StudentSearch(1, 5, 16)))
    assert search_layers(*arguments, (1,), alone, world.context("distill")).layers == (1,)
    assert tried == ["1"]


def test_many_layers_are_taken_away_one_by_one(
    world: World, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.models.torch_io import student_of
    from compress.steps.distill import search

    source = student_of(load_model(tuned), [0, 1, 0, 1, 0])
    context = world.context("distill")

    def ranked() -> Any:
        return search._ranked(source, load_tokenizer(tuned.path), (0, 2), 16, context)

    every = dict(ranked())
    assert len(every) == 10
    monkeypatch.setattr(search, "_ALL", 5)
    some = dict(ranked())
    assert (0, 2) in some
    assert len(some) < 10
    assert all(every[layers] == value for layers, value in some.items())


def test_labelled_tokens_are_what_choices_are_ranked_by(world: World) -> None:
    import pandas as pd

    from compress.config.schemas import Finetune
    from compress.data.base import Data
    from compress.steps.distill.search import _Divergence
    from compress.tasks import create

    labels = ("O", "B-X", "I-X")
    rows = pd.DataFrame({"tokens": [["road", "north", "city"], ["road"]] * 12, "tags": [[*labels], ["O"]] * 12})
    world.data, task = (
        Data("made", "token_classification", rows, rows, rows, labels, "e" * 64),
        create("token_classification", labels),
    )
    teacher = world.run(world.source, Finetune(epochs=1, batch_size=8), world.context("finetune", task=task))
    context = world.context("distill", task=task)
    left = world.run(teacher, Distill(**QUICK, student=replace(SEARCH, hidden=0.5)), context)
    found = left.manifest.facts["student"]["search"]
    assert {tuple(one["layers"]) for one in found["trained"]} == {(0,), (1,)}
    assert "f1" in found["trained"][0]
    tokenizer = load_tokenizer(teacher.path)
    features = task.encode(rows, tokenizer, 32)
    with progress_of("ranking", total=1) as shown:
        far = _Divergence(load_model(teacher), tokenizer, features, context, shown)
    assert far.expected.shape == (4 * 12, 3), "a row for each word, none for the rest"
    assert far((0, 1)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rows", [1, 7, 40, 72, 100_000])
@pytest.mark.parametrize("updates", [1, 3, 100])
def test_a_short_training_takes_the_updates_or_a_few_less(rows: int, updates: int) -> None:
    config = Distill(batch_size=8, gradient_accumulation=2, student=Student(search=StudentSearch(updates=updates)))
    brief, seen = short_training(config, rows)
    taken = brief.epochs * -(-seen // 16)
    assert seen <= rows
    assert taken <= updates
    assert taken >= updates / 2


# --- a checkpoint of its own ------------------------------------------------------------------


def test_the_body_is_that_of_the_path_and_the_head_is_fresh(world: World, tuned: Checkpoint, pretrained: Path) -> None:
    from transformers import BertForSequenceClassification

    given = BertForSequenceClassification.from_pretrained(pretrained)
    student = made(world, tuned, Student(layers=None, path=str(pretrained))).model
    for name, value in given.bert.state_dict().items():
        assert torch.equal(student.bert.state_dict()[name], value), name
    assert not torch.equal(student.classifier.weight, given.classifier.weight)
    assert student.config.id2label == {0: "bad", 1: "good", 2: "plain"}


def test_the_key_knows_what_lies_at_the_path_and_not_where(pretrained: Path) -> None:
    from compress.keys import config_facts

    config = Distill(student=Student(layers=None, path=str(pretrained)))
    moved = pretrained.rename(pretrained.with_name("moved"))
    other = replace(config, student=replace(config.student, path=str(moved)))
    assert config_facts(config) == config_facts(other)
    before = DistillStep().resolve(other)
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    assert DistillStep().resolve(other) != before
    assert DistillStep().resolve(Distill()) == {}


def test_another_architecture_reads_by_the_tokenizer_of_the_source(world: World, tuned: Checkpoint) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    tokenizer = load_tokenizer(tuned.path)
    torch.manual_seed(1)
    sizes = {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 32}
    DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(world.root / "other")
    tokenizer.save_pretrained(world.root / "other")
    student = Student(layers=None, path=str(world.root / "other"))
    left = world.run(tuned, Distill(**QUICK, student=student))
    assert (left.architecture, left.layers) == ("distilbert", 1)
    assert load_tokenizer(left.path).model_input_names == ["input_ids", "attention_mask"]
    pairs = world.data.train.assign(text_pair="a road")
    with pytest.raises(ConfigError, match="take no token_type_ids, which tell the two texts of a pair apart"):
        made(world, tuned, student, data=replace(world.data, train=pairs))


def test_other_tokens_are_refused(world: World, tuned: Checkpoint, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tuned.path)
    tokenizer.add_tokens(["zebra"])
    longer = write_bert(tmp_path / "longer", tokenizer, len(tokenizer))
    with pytest.raises(ConfigError, match=rf"has {len(tokenizer)} tokens, the source's {len(tokenizer) - 1}"):
        made(world, tuned, Student(layers=None, path=str(longer)))
    other = write_bert(tmp_path / "other", load_tokenizer(tuned.path), len(tokenizer))
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false').replace("day", "dax"))
    with pytest.raises(ConfigError, match="its tokenizer reads training row 0 as"):
        made(world, tuned, Student(layers=None, path=str(other)))
    short = write_bert(tmp_path / "short", load_tokenizer(tuned.path), len(tokenizer), positions=16)
    with pytest.raises(ConfigError, match=r"has room for 16 tokens, and model.max_length=32"):
        made(world, tuned, Student(layers=None, path=str(short)))


# --- refusals ---------------------------------------------------------------------------------

WIDE = Widths(384, 12, 1536)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (Student(hidden=400), r"student.hidden=400: the source has 384"),
        (Student(heads=13), r"student.heads=13: the source has 12"),
        (Student(neurons=2000), r"student.neurons=2000: the source has 1536"),
        (Student(hidden=100.5), r"student.hidden=100.5: give a whole number"),
        (Student(fresh=True, hidden=100), r"100 is no multiple of 12 heads; set student.heads .* such as 10"),
        (Student(layers=7, layer_choice="search"), r"student.layers=7: the source has 6 layers"),
        (Student(layers=6, layer_choice="search"), r"keeps all 6 layers of its source, so there is no choice"),
        (Student(layers=None, layer_choice="search"), r"keeps all 6 layers"),
        (Student(initialise_from=[0, 1, 2], layer_choice="search"), r"student.initialise_from=\[0, 1, 2\] lists"),
        (Student(search=StudentSearch(updates=9)), r"student.search.updates=9: only layer_choice=search reads it"),
        (Student(narrow="svd"), r"student.narrow=svd: .* student.hidden is not set"),
        (Student(narrow="svd", heads=3), r"student.hidden is not set"),
        (Student(path="x"), r"student.layers=3: the checkpoint at student.path has its own layers"),
        (Student(layers=None, path="x", fresh=True), r"student.fresh=true: student.path gives the weights"),
        (Student(layers=None, path="x", hidden=3), r"student.hidden=3: .* has its own widths"),
        (Student(layers=None, path="x", initialise_from=[1]), r"student.initialise_from=\[1\]: .* leave it out"),
        (Student(layers=None, path="x", layer_choice="first"), r"student.layer_choice=first: .* leave it out"),
        (Student(layers=None, path="/no/such/place"), r"student.path=/no/such/place: no such directory"),
        (Student(layers=None, path=""), r"student.path: a value is needed"),
        (Student(fresh=True, initialise_from=[1, 2, 3]), r"a fresh student has random weights; leave it out"),
        (Student(fresh=True, layer_choice="search"), r"student.layer_choice=search: a fresh student"),
        (Student(fresh=True, narrow="svd", hidden=3), r"student.narrow=svd: a fresh student"),
    ],
    ids=str,
)
def test_keys_that_contradict_are_refused_while_planning(
    student: Student, message: str, facts: Callable[..., SourceFacts]
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_student(student, replace(facts(), widths=WIDE))


def test_what_is_no_whole_checkpoint_is_refused_by_its_key(facts: Callable[..., SourceFacts], pretrained: Path) -> None:
    weights = pretrained / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="student.path="):
        check_student(Student(layers=None, path=str(pretrained)), facts())


def test_widths_that_are_not_known_yet_are_refused_before_the_training(world: World, tuned: Checkpoint) -> None:
    with pytest.raises(ConfigError, match=r"student.hidden=33: the source has 32"):
        made(world, tuned, Student(layers=1, hidden=33))
    with pytest.raises(ConfigError, match="is no multiple of 2 heads"):
        made(world, tuned, Student(layers=1, hidden=33, fresh=True))


def test_a_narrower_student_learns_hidden_states_through_a_projection(world: World, tuned: Checkpoint) -> None:
    config = Distill(**{**QUICK, "epochs": 4}, student=Student(layers=1, hidden=16), weights=DistillWeights(hidden=1.0))
    student = world.run(tuned, config)
    assert load_model(student).config.hidden_size == 16
    history = student.manifest.facts["history"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_plan_knows_what_the_student_will_be(facts: Callable[..., SourceFacts], pretrained: Path) -> None:
    source = replace(facts(), widths=WIDE, positions=512)

    def after(student: Student) -> SourceFacts:
        return DistillStep().after(Distill(student=student), source)

    assert after(Student(hidden=0.5, heads=6)).widths == Widths(192, 6, 1536)
    assert after(Student(fresh=True, layers=9)).layers == 9
    assert after(Student(layers=2, layer_choice="search")).layers == 2
    given = after(Student(layers=None, path=str(pretrained)))
    assert (given.layers, given.architecture, given.positions) == (1, "bert", 40)
    assert given.widths == Widths(24, 3, 40)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distill.student.hidden=500"], r"student.hidden=500: the source has 32"),
        (["distill=pretrained", "distill.student.layers=null"], r"student.path: a value is needed"),
        (["distill=pretrained", "distill.student.path=x"], r"student.layers=1: the checkpoint at student.path"),
    ],
    ids=str,
)
def test_a_plan_refuses_what_the_model_cannot_give(overrides: list[str], message: str) -> None:
    from compress.cli.validate import compose_job
    from compress.models.source import resolve
    from compress.pipeline.plan import make_plan

    job = compose_job("distill_narrow", ["debug=tiny", "device=cpu", *overrides])
    with pytest.raises(ConfigError, match=message):
        make_plan(job, resolve(job.model), None)


def test_widths_after_pruning_are_not_known_while_planning() -> None:
    from compress.cli.validate import compose_job
    from compress.models.source import resolve
    from compress.pipeline.plan import make_plan

    job = compose_job("layerdrop_distill", ["debug=tiny", "device=cpu", "distill.student.hidden=500"])
    assert make_plan(job, resolve(job.model), None).steps[-1].facts.widths is None
