"""One tag per word: alignment with pieces, spans as seqeval counts them, offsets of entities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import DataError
from compress.tasks import IGNORED, Features, Task, create

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
WORDS = ["Ann", "lives", "in", "New", "York", "City", "."]
TAGS = ["B-PER", "O", "O", "B-LOC", "I-LOC", "I-LOC", "O"]


@pytest.fixture
def task() -> Task:
    return create("token_classification", LABELS)


def frame(*rows: tuple[list[str], list[str]]) -> pd.DataFrame:
    return pd.DataFrame({"tokens": [row[0] for row in rows], "tags": [row[1] for row in rows]})


def logits_for(features: Features, tags: list[list[str]], confidence: float = 9.0) -> list[np.ndarray]:
    """Return logits that put the given tag on the first piece of each word, and a wrong one on every other piece."""
    answers = []
    for row, marks in enumerate(features.labels):
        logits = np.zeros((len(marks), len(LABELS)), np.float32)
        logits[:, LABELS.index("B-PER")] = confidence
        positions = [position for position, mark in enumerate(marks) if mark != IGNORED]
        assert features.references is not None
        for position, word in zip(positions, features.references[row]["word_of"], strict=True):
            logits[position] = 0
            logits[position, LABELS.index(tags[row][word])] = confidence
        answers.append(logits)
    return answers


def test_first_piece_carries_the_label_and_the_rest_none(task: Task, tokenizer: Any) -> None:
    features = task.encode(frame((["Bob", "unbelievable", "York"], ["B-PER", "O", "B-LOC"])), tokenizer, 16)
    assert features.lengths == [8]
    assert features.labels == [[IGNORED, 3, 0, IGNORED, IGNORED, IGNORED, 1, IGNORED]]
    batch = task.collate(features.inputs * 2, [features.labels[0], [IGNORED, 1]], {})
    assert batch["labels"].shape == (2, 8)
    assert batch["labels"][1].tolist() == [IGNORED, 1, *[IGNORED] * 6]


def test_perfect_logits_score_one_whatever_the_other_pieces_say(task: Task, tokenizer: Any) -> None:
    features = task.encode(frame((WORDS, TAGS), (["unbelievable", "York"], ["O", "B-LOC"])), tokenizer, 32)
    logits = logits_for(features, [TAGS, ["O", "B-LOC"]])
    assert task.metrics(logits, features) == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    assert task.report(logits, features)["LOC"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2.0}
    assert len(task.decisions(logits, features)) == 9


def test_words_lost_to_truncation_count_as_predicted_o(task: Task, tokenizer: Any) -> None:
    features = task.encode(frame((WORDS, TAGS)), tokenizer, 6)  # [CLS] Ann lives in New [SEP]
    assert features.truncated == 1
    metrics = task.metrics(logits_for(features, [TAGS]), features)
    assert metrics["recall"] == 0.5  # New York City is cut to New, which is another span
    assert metrics["precision"] == 0.5
    assert metrics["accuracy"] == pytest.approx(5 / 7)


def test_words_without_a_piece_keep_the_others_aligned(task: Task, tokenizer: Any) -> None:
    words, tags = ["Ann", "\u200b", "", "York"], ["B-PER", "O", "O", "B-LOC"]
    features = task.encode(frame((words, tags)), tokenizer, 16)
    assert features.references is not None
    assert features.references[0]["word_of"] == [0, 3]
    assert task.metrics(logits_for(features, [tags]), features)["f1"] == 1.0
    lost = task.encode(frame((["\u200b", "York"], ["B-LOC", "I-LOC"])), tokenizer, 16)
    assert task.metrics(logits_for(lost, [["B-LOC", "I-LOC"]]), lost)["f1"] == 0.0


def test_a_row_without_any_word_is_scored_as_nothing(task: Task, tokenizer: Any) -> None:
    features = task.encode(frame(([], []), (["York"], ["B-LOC"])), tokenizer, 8)
    logits = logits_for(features, [[], ["B-LOC"]])
    assert task.row_scores(logits, features).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert task.metrics(logits, features)["f1"] == 1.0


@settings(max_examples=60, deadline=None)
@given(data=st.data(), metric=st.sampled_from(["f1", "precision", "recall"]))
def test_metric_of_row_sums_is_seqevals(data: Any, metric: str) -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score

    lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    gold = [data.draw(st.lists(st.sampled_from(LABELS), min_size=n, max_size=n)) for n in lengths]
    predicted = [data.draw(st.lists(st.sampled_from(LABELS), min_size=n, max_size=n)) for n in lengths]
    features = Features(
        [{"input_ids": [5] * n} for n in lengths],
        [[0] * n for n in lengths],
        0,
        [{"words": n, "word_of": list(range(n)), "tags": tags} for n, tags in zip(lengths, gold, strict=True)],
    )
    task = create("token_classification", LABELS, metric=metric)
    logits = logits_for(features, predicted)
    judge = {"f1": f1_score, "precision": precision_score, "recall": recall_score}[metric]
    expected = judge(gold, predicted, zero_division=0)
    assert task.metrics(logits, features)[metric] == pytest.approx(expected)
    assert task.metric_from_sums(task.row_scores(logits, features).sum(axis=0)) == pytest.approx(expected)


def test_entities_of_a_text_carry_its_characters(task: Task, tokenizer: Any) -> None:
    text = "Ann  lives in New York City."
    features = task.encode_raw([text], tokenizer, 32)
    (entities,) = task.predictions([text], logits_for(features, [TAGS]), features, tokenizer)
    assert [(e["entity"], e["text"], e["start"], e["end"]) for e in entities] == [
        ("PER", "Ann", 0, 3),
        ("LOC", "New York City", 14, 27),
    ]
    for entity in entities:
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert 0.9 < entity["score"] <= 1


def test_entities_of_a_word_list_are_placed_in_the_words_joined_by_blanks(task: Task, tokenizer: Any) -> None:
    features = task.encode_raw([WORDS, "", []], tokenizer, 32)
    answers = task.predictions([WORDS, "", []], logits_for(features, [TAGS, [], []]), features, tokenizer)
    joined = " ".join(WORDS)
    assert [entity["text"] for entity in answers[0]] == ["Ann", "New York City"]
    assert all(joined[e["start"] : e["end"]] == e["text"] for e in answers[0])
    assert answers[1:] == [[], []]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_words_of_a_text_cover_all_but_its_blanks(text: str) -> None:
    from compress.tasks.token_classification import _words

    covered = set()
    for word, start, end in _words(text):
        assert text[start:end] == word
        covered.update(range(start, end))
    assert all(text[position].isspace() for position in range(len(text)) if position not in covered)


def test_unbatch_takes_the_padding_away(task: Task) -> None:
    rows = task.unbatch(np.zeros((2, 4, 5)), {"attention_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0]])})
    assert [row.shape for row in rows] == [(4, 5), (2, 5)]


def test_loss_and_distillation_see_labelled_tokens_only(task: Task) -> None:
    import torch

    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORED, 1, IGNORED], [IGNORED, 4, 2]])
    wild = logits.clone()
    wild[labels == IGNORED] = 50.0
    assert torch.equal(task.loss(logits, labels), task.loss(wild, labels))
    assert task.distillation_rows(logits, torch.ones(2, 3), labels).shape == (3, 5)


@pytest.mark.parametrize("item", [3, ["a", 4], None])
def test_what_is_neither_text_nor_words_is_refused(item: Any, task: Task, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="item 1"):
        task.encode_raw(["fine", item], tokenizer, 8)


def test_evaluate_module_agrees_with_the_task(task: Task, tokenizer: Any, tmp_path: Path) -> None:
    from compress.tasks.metrics.spans.spans import Spans

    features = task.encode(frame((WORDS, TAGS)), tokenizer, 32)
    predicted = ["B-PER", "O", "O", "B-LOC", "I-LOC", "O", "O"]
    metrics = task.metrics(logits_for(features, [predicted]), features)
    answer = Spans(cache_dir=str(tmp_path)).compute(predictions=[predicted], references=[TAGS])
    assert {name: answer[name] for name in ("f1", "precision", "recall")} == {
        name: metrics[name] for name in ("f1", "precision", "recall")
    }
    assert answer["report"]["LOC"]["support"] == 1.0


@pytest.mark.slow
def test_evaluate_loads_the_shipped_module_from_its_folder_offline(tmp_path: Path, monkeypatch: Any) -> None:
    import evaluate

    import compress.tasks.metrics as shipped

    folder = Path(next(iter(shipped.__path__))) / "spans"
    module = evaluate.load(str(folder), cache_dir=str(tmp_path))
    assert module.compute(predictions=[TAGS], references=[TAGS])["f1"] == 1.0
