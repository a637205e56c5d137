"""The loss of a batch: its terms weighed and summed, what each compares, what has no part in it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from compress.config.training import Augmentation, Decoupled, DistillWeights, Relations, Taught
from compress.errors import ConfigError
from compress.models.structure import structure_of
from compress.tasks import create
from compress.training.distillation import losses
from compress.training.distillation.checks import check_attention, check_terms, relation_heads
from compress.training.distillation.entries import ANSWERED, GOLD, LOGITS, PARTNER, SHARE, part_name
from compress.training.distillation.inside import EMBEDDINGS, Probe
from compress.training.distillation.layer_maps import layer_map, matching
from compress.training.distillation.live import LiveTeacher
from compress.training.distillation.terms import DistillationLoss, Projections, Sizes

NONE = {field.name: 0.0 for field in fields(DistillWeights) if field.name != "task_end"}
INSIDE = ("hidden", "embeddings", "tokens", "cosine", "attention", "minilm", "relations", "contrastive")
TASK = create("text_classification", ["a", "b", "c"])
IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0], [2, 5, 6, 3, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
LABELS = torch.tensor([0, 2, 1])


def bert(
    layers: int, hidden: int = 16, heads: int = 2, seed: int = 0, kind: Any = BertForSequenceClassification
) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "num_labels": 3}
    return kind(
        BertConfig(vocab_size=20, intermediate_size=24, max_position_embeddings=16, initializer_range=0.3, **sizes)
    ).eval()


def config(**options: Any) -> Taught:
    weights = options.pop("weights", {})
    relations = options.pop("relations", Relations(heads=4))
    return Taught(weights=DistillWeights(**{**NONE, **weights}), relations=relations, **options)


def prepared(student: Any, teacher: Any, asked: Taught, task: Any = TASK) -> tuple[DistillationLoss, dict[str, Any]]:
    """Return the loss and a batch with all that the teacher says."""
    ours, theirs = structure_of(student), structure_of(teacher)
    matched = matching(asked, ours.layers, theirs.layers)
    layers = [layer for kind, layer in matched.student if kind == "hidden"]
    torch.manual_seed(5)
    student.add_module("distillation", Projections(layers, ours.hidden_size, theirs.hidden_size))
    with torch.no_grad():
        logits, inside = Probe(teacher, matched.teacher)(teacher, INPUTS)
    batch = {**INPUTS, "labels": LABELS, LOGITS: logits, **{part_name(part): x for part, x in inside.items()}}
    heads = relation_heads(ours, theirs, matched, asked, "distill") if asked.weights.relations else 1
    return DistillationLoss(task, asked, student, matched, Sizes(ours.heads, theirs.heads, heads)), batch


def value(student: Any, teacher: Any, progress: float = 0.0, **options: Any) -> float:
    loss, batch = prepared(student, teacher, config(**options))
    return loss(student, batch, progress).item()


def test_every_weight_has_a_term_and_terms_add_up() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    weights = {name: 0.1 * (number + 1) for number, name in enumerate(NONE) if name != "rdrop"}
    alone = {name: value(student, teacher, weights={name: weight}) for name, weight in weights.items()}
    assert min(alone.values()) > 0
    assert value(student, teacher, weights=weights) == pytest.approx(sum(alone.values()), rel=1e-5)
    halved = {name: value(student, teacher, weights={name: weight / 2}) for name, weight in weights.items()}
    assert halved == pytest.approx({name: one / 2 for name, one in alone.items()}, rel=1e-5)


def test_a_student_that_is_its_teacher_costs_nothing_but_the_labels() -> None:
    teacher = bert(3)
    for name in ("logits", "logits_mse", "decoupled", "hidden", "embeddings", "tokens", "cosine", "attention"):
        assert value(bert(3), teacher, weights={name: 1.0}) == pytest.approx(0, abs=2e-6), name
    for name in ("minilm", "relations"):
        assert value(bert(3), teacher, weights={name: 1.0}) == pytest.approx(0, abs=2e-6), name


def test_terms_compare_the_mapped_layers() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    mask = INPUTS["attention_mask"]
    ours, theirs = (m(**INPUTS, output_hidden_states=True).hidden_states for m in (student, teacher))
    for options, layers in (({}, (2, 4)), ({"layer_map": "last"}, (3, 4)), ({"teacher_layers": [0, 2]}, (1, 3))):
        expected = losses.hidden_loss(ours[1:], torch.stack([theirs[layer] for layer in layers], 1), mask)
        assert value(student, teacher, weights={"hidden": 1.0}, **options) == pytest.approx(float(expected), rel=1e-5)
    expected = losses.hidden_loss([ours[0]], theirs[0][:, None], mask)
    assert value(student, teacher, weights={"embeddings": 1.0}) == pytest.approx(float(expected), rel=1e-5)


def test_nearest_takes_for_each_layer_of_the_teacher_the_student_layer_of_least_error() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    mask = INPUTS["attention_mask"]
    ours, theirs = (m(**INPUTS, output_hidden_states=True).hidden_states for m in (student, teacher))
    each = [min(float(losses.hidden_loss([one], theirs[k][:, None], mask)) for one in ours[1:]) for k in (2, 4)]
    found = value(student, teacher, weights={"hidden": 1.0}, layer_map="nearest")
    assert found == pytest.approx(np.mean(each), rel=1e-5)


def test_attention_is_what_the_model_attends_with() -> None:
    """Against transformers' own attention probabilities."""
    student, teacher = bert(2, seed=1), bert(2)
    probabilities = []
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        probabilities.append(model(**INPUTS, output_attentions=True).attentions[-1].double())
    q, p = probabilities
    seen = INPUTS["attention_mask"].bool()
    apart = [
        (p[b, h, t][seen[b]] * (p[b, h, t][seen[b]] / q[b, h, t][seen[b]]).log()).sum()
        for b in range(3)
        for h in range(2)
        for t in range(5)
        if seen[b, t]
    ]
    values = [m.bert.encoder.layer[-1].attention.self.value for m in (student, teacher)]
    states = [m(**INPUTS, output_hidden_states=True).hidden_states[-2] for m in (student, teacher)]
    relation = losses.relation_loss(values[0](states[0]), values[1](states[1]), INPUTS["attention_mask"], 2)
    expected = float(torch.stack(apart).mean() + relation)
    assert value(student, teacher, weights={"minilm": 1.0}) == pytest.approx(expected, rel=1e-4)


def test_a_narrower_student_learns_through_projections_that_are_not_its_own() -> None:
    student, teacher = bert(2, hidden=8, heads=4, seed=1), bert(2)
    weights = {"hidden": 1.0, "embeddings": 1.0, "contrastive": 1.0, "relations": 1.0}
    loss, batch = prepared(student, teacher, config(weights=weights))
    assert sorted(student.distillation.maps) == ["-1", "0", "1"]
    assert student.distillation.maps["0"].weight.shape == (16, 8)
    loss(student, batch, 0.0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.distillation.parameters())
    assert student.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        (4, {"weights": {"attention": 1.0}}, "layer 0 of the student has 4 heads, layer 1 of the teacher 2"),
        (4, {"weights": {"minilm": 1.0}}, "use weights.relations"),
    ],
)
def test_attention_that_cannot_be_compared_is_refused(heads: int, options: Any, message: str) -> None:
    student, teacher = structure_of(bert(2, heads=heads)), structure_of(bert(4))
    asked = config(**options)
    with pytest.raises(ConfigError, match=message):
        check_attention("bert", "bert", student, teacher, matching(asked, 2, 4), asked, "distill")


def test_relation_heads_divide_both_widths() -> None:
    student, teacher = structure_of(bert(2, hidden=8, heads=4)), structure_of(bert(4, hidden=24, heads=6))

    def heads(asked: int | None) -> int:
        one = config(weights={"relations": 1.0}, relations=Relations(heads=asked))
        return relation_heads(student, teacher, matching(one, 2, 4), one, "distill")

    assert heads(None) == 4, "the most up to the teacher's 6"
    assert heads(8) == 8
    with pytest.raises(ConfigError, match=r"relations\.heads=3: layer 1 of the student has 4 heads of 2, 8 wide"):
        heads(3)


@pytest.mark.parametrize("kind", ["mpnet", "llama"])
def test_attention_of_models_that_do_more_than_multiply_is_refused(kind: str) -> None:
    sizes = structure_of(bert(2))
    asked = config(weights={"attention": 1.0})
    with pytest.raises(ConfigError, match=f"the student is a {kind} model"):
        check_attention(kind, "bert", sizes, sizes, matching(asked, 2, 2), asked, "distill")


@pytest.mark.parametrize(
    ("choice", "layers", "of", "expected"),
    [
        ("skip", 2, 6, (2, 5)),
        ("skip", 4, 6, (0, 1, 2, 3)),
        ("last", 2, 6, (4, 5)),
        ("uniform", 4, 6, (1, 2, 4, 5)),
        ("nearest", 3, 6, (1, 3, 5)),
    ],
)
def test_layer_maps(choice: str, layers: int, of: int, expected: tuple[int, ...]) -> None:
    assert layer_map(config(layer_map=choice), layers, of) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"hidden": 1.0}, "teacher_layers": [1]}, "lists 1 layers, but the student has 2"),
        ({"weights": {"cosine": 1.0}, "teacher_layers": [1, 6]}, "6 is no layer of the teacher"),
        (
            {"weights": {"relations": 1.0}, "relations": Relations(layer=6)},
            "relations.layer=6: the teacher has layers 0",
        ),
    ],
)
def test_layers_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        matching(config(**options), 2, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to learn from"),
        ({"weights": {"rdrop": 1.0}}, "rdrop alone"),
        (
            {"weights": {"task": 1.0}, "unlabelled": "more.txt"},
            "unlabelled=more.txt: no term of the loss asks a teacher",
        ),
        ({"weights": {"task": 1.0}, "augment": Augmentation(share=0.5)}, "augment.share=0.5: no term"),
        ({"weights": {"hidden": 1.0}, "teacher_layers": [1], "layer_map": "last"}, "set one of the two"),
    ],
)
def test_losses_that_cannot_be_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_terms(config(**options), "distill")


# --- what has a part in it ---------------------------------------------------------------------


def test_the_weight_of_labels_moves_in_equal_steps() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    label = value(student, teacher, weights={"task": 1.0})
    for progress, weight in ((0.0, 1.0), (0.5, 0.6), (1.0, 0.2)):
        found = value(student, teacher, progress, weights={"task": 1.0, "task_end": 0.2})
        assert found == pytest.approx(weight * label, rel=1e-5)


def test_rows_without_gold_labels_cost_only_what_the_teacher_says() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    loss, batch = prepared(student, teacher, config(weights={"task": 1.0}))
    some = torch.tensor([True, False, True])
    logits = student(**INPUTS).logits
    assert float(loss(student, {**batch, GOLD: some}, 0)) == pytest.approx(
        float(F.cross_entropy(logits[some], LABELS[some])), rel=1e-5
    )
    nothing = loss(student, {**batch, GOLD: torch.zeros(3, dtype=torch.bool)}, 0)
    assert float(nothing) == 0
    nothing.backward()
    decoupled = config(weights={"decoupled": 1.0}, decoupled=Decoupled(1.0, 3.0))
    loss, batch = prepared(student, teacher, decoupled)
    target = torch.where(some, LABELS, batch[LOGITS].argmax(-1))
    expected = losses.decoupled_loss(logits, batch[LOGITS], target, 2.0, alpha=1.0, beta=3.0)
    assert float(loss(student, {**batch, GOLD: some}, 0)) == pytest.approx(float(expected), rel=1e-5)


def test_tokens_are_compared_one_by_one_where_they_have_labels() -> None:
    kind = BertForTokenClassification
    student, teacher = bert(2, seed=1, kind=kind), bert(4, kind=kind)
    task = create("token_classification", ["O", "B-X", "I-X"])
    loss, batch = prepared(student, teacher, config(weights={"decoupled": 1.0, "logits": 1.0}), task)
    labels = torch.tensor([[-100, 0, 1, 2, -100], [-100, 0, -100, -100, -100], [-100, 1, -100, -100, -100]])
    units = labels != -100
    ours, theirs = student(**INPUTS).logits[units], batch[LOGITS][units]
    expected = losses.logits_loss(ours, theirs, 2.0) + losses.decoupled_loss(
        ours, theirs, labels[units], 2.0, alpha=1.0, beta=2.0
    )
    assert float(loss(student, {**batch, "labels": labels}, 0)) == pytest.approx(float(expected), rel=1e-5)


def test_rdrop_compares_two_passes_and_is_off_where_nothing_is_dropped() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    loss, batch = prepared(student, teacher, config(weights={"logits": 1.0, "rdrop": 1.0}))
    alone, _ = prepared(student, teacher, config(weights={"logits": 1.0}))
    assert float(loss(student, batch, 0)) == pytest.approx(float(alone(student, batch, 0)), rel=1e-5)
    student.train()
    torch.manual_seed(0)
    found = loss(student, batch, 0)
    torch.manual_seed(0)
    logits = student(**{name: torch.cat([x, x]) for name, x in INPUTS.items()}).logits
    first, second = logits.chunk(2)
    expected = losses.symmetric_divergence(first, second) + losses.logits_loss(
        logits, torch.cat([batch[LOGITS]] * 2), 2.0
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(losses.symmetric_divergence(first, second)) > 0


# --- a teacher in the loop ---------------------------------------------------------------------


EVERYTHING = {name: 1.0 for name in NONE if name not in ("rdrop", "task")}


def test_a_live_teacher_says_what_is_kept() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    asked = config(weights=EVERYTHING)
    loss, batch = prepared(student, teacher, asked)
    kept = float(loss(student, batch, 0))
    loss.live = LiveTeacher([teacher], loss.matching.teacher, "cpu")
    bare = {**INPUTS, "labels": LABELS}
    assert float(loss(student, bare, 0)) == pytest.approx(kept, rel=1e-5)
    assert loss.live.rows == 3
    damaged = {name: x.clone() if name.startswith("teacher_") else x for name, x in batch.items()}
    for name in damaged:
        if name.startswith("teacher_"):
            damaged[name][1] = 0
    answered = {**damaged, ANSWERED: torch.tensor([True, False, True])}
    assert float(loss(student, answered, 0)) == pytest.approx(kept, rel=1e-5)
    assert loss.live.rows == 4


def test_several_teachers_are_averaged() -> None:
    student, teachers = bert(2, seed=1), [bert(4), bert(3, seed=2)]
    loss, _ = prepared(student, teachers[0], config(weights={"logits": 1.0}))
    loss.live = LiveTeacher(teachers, (), "cpu")
    mean = torch.stack([teacher(**INPUTS).logits for teacher in teachers]).mean(0)
    expected = losses.logits_loss(student(**INPUTS).logits, mean, 2.0)
    assert float(loss(student, {**INPUTS, "labels": LABELS}, 0)) == pytest.approx(float(expected), rel=1e-5)


def test_mixed_pairs_are_mixed_in_both_models() -> None:
    student, teacher = bert(2, seed=1), bert(4)
    loss, batch = prepared(student, teacher, config(weights={"logits": 1.0}))
    loss.live = LiveTeacher([teacher], (), "cpu")
    share = torch.tensor([0.7, 1.0, 0.6])
    entries = {PARTNER: torch.tensor([2, 1, 0]), SHARE: share, ANSWERED: torch.tensor([False, True, False])}
    expected = []
    for model in (student, teacher):
        states = model.get_input_embeddings()(IDS)
        whole = torch.stack([0.7 * states[0] + 0.3 * states[2], states[1], 0.6 * states[2] + 0.4 * states[0]])
        mask = INPUTS["attention_mask"].clone()
        mask[2] = mask[2] | mask[0]
        expected.append(model(inputs_embeds=whole, attention_mask=mask).logits)
    found = loss(student, {**batch, **entries}, 0)
    assert float(found) == pytest.approx(float(losses.logits_loss(*expected, 2.0)), rel=1e-5)


def test_a_probe_leaves_the_model_as_it_was() -> None:
    model = bert(2)
    probe = Probe(model, [("query", 0), ("hidden", EMBEDDINGS)])
    _, inside = probe(model, INPUTS)
    states = model.bert.embeddings(IDS)
    torch.testing.assert_close(inside["hidden", EMBEDDINGS], states)
    torch.testing.assert_close(inside["query", 0], model.bert.encoder.layer[0].attention.self.query(states))
    probe.close()
    assert not model.bert.encoder.layer[0].attention.self.query._forward_hooks


def test_each_inside_term_needs_a_teacher() -> None:
    from compress.training.distillation import asks_teacher

    assert not asks_teacher(config(weights={"task": 1.0, "rdrop": 1.0}))
    for name in INSIDE:
        assert asks_teacher(config(weights={name: 1.0}))
