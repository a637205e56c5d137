"""One label per text or pair: batches, losses, metrics, predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import ConfigError, DataError
from compress.tasks import Features, create, names

LABELS = ("bad", "good", "plain")


def logits_of(predicted: list[int]) -> list[np.ndarray]:
    return list(np.eye(len(LABELS), dtype=np.float32)[predicted])


def features_of(gold: list[int]) -> Features:
    return Features([{"input_ids": [2, 3]}] * len(gold), gold)


def test_registry_knows_its_tasks_and_names_them_when_asked_for_another() -> None:
    assert {"text_classification", "token_classification"} <= set(names())
    assert create("text_classification", LABELS).metric == "accuracy"
    with pytest.raises(ConfigError, match="task='summary': there are text_classification"):
        create("summary", LABELS)
    with pytest.raises(ConfigError, match="task.metric='f1': text_classification has accuracy, f1_macro"):
        create("text_classification", LABELS, metric="f1")


def test_registry_is_light() -> None:
    code = (
        "import sys; from compress.tasks import create; create('token_classification', ('O', 'B-X', 'I-X')); "
        "print([n for n in ('torch', 'transformers', 'evaluate', 'datasets', 'seqeval', 'pandas') if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_rows_are_encoded_padded_and_truncation_is_counted(tokenizer: Any) -> None:
    task = create("text_classification", LABELS)
    frame = pd.DataFrame({"text": ["good", "Ann lives in New York"], "label": ["good", "plain"]})
    features = task.encode(frame, tokenizer, 6)
    assert features.labels == [1, 2]
    assert features.lengths == [3, 6]
    assert features.truncated == 1
    batch = task.collate(features.inputs, features.labels, {"input_ids": 9})
    assert batch["input_ids"].tolist() == [[2, 16, 3, 9, 9, 9], [2, 4, 5, 6, 7, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    assert batch["labels"].tolist() == [1, 2]
    assert "labels" not in task.collate(features.inputs, None, {})


def test_pairs_carry_token_types_and_match_their_raw_form(tokenizer: Any) -> None:
    task = create("text_classification", LABELS)
    frame = pd.DataFrame({"text": ["good"], "text_pair": ["bad bob"], "label": ["bad"]})
    encoded = task.encode(frame, tokenizer, 16)
    assert encoded.inputs[0]["input_ids"] == [2, 16, 3, 17, 10, 3]
    assert encoded.inputs[0]["token_type_ids"] == [0, 0, 0, 1, 1, 1]
    assert task.encode_raw([("good", "bad bob")], tokenizer, 16).inputs == encoded.inputs


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["a", ("b", "c")], "cannot be mixed"),
        ([3], "item 0 is 3"),
        ([("a", "b", "c")], "item 0"),
        ([("a", None)], "item 0"),
    ],
)
def test_what_is_no_text_is_refused(items: list[Any], message: str, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=message):
        create("text_classification", LABELS).encode_raw(items, tokenizer, 8)


def test_nothing_to_predict_is_nothing_predicted(tokenizer: Any) -> None:
    task = create("text_classification", LABELS)
    features = task.encode_raw([], tokenizer, 8)
    assert len(features) == 0
    assert task.predictions([], [], features, tokenizer) == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30),
    st.sampled_from(["accuracy", "f1_macro"]),
)
def test_metric_of_row_sums_is_the_metric(rows: list[tuple[int, int]], metric: str) -> None:
    gold, predicted = [row[0] for row in rows], [row[1] for row in rows]
    task = create("text_classification", LABELS, metric=metric)
    scores = task.row_scores(logits_of(predicted), features_of(gold))
    assert scores.shape[0] == len(rows)
    whole = task.metrics(logits_of(predicted), features_of(gold))[metric]
    assert task.metric_from_sums(scores.sum(axis=0)) == pytest.approx(whole)
    stacked = np.stack([scores.sum(axis=0)] * 2)
    assert task.metric_from_sums(stacked).shape == (2,)


def test_report_gives_every_label_its_figures() -> None:
    report = create("text_classification", LABELS).report(logits_of([0, 0, 1]), features_of([0, 1, 1]))
    assert report["good"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2.0}
    assert report["plain"]["support"] == 0.0


def test_predictions_are_probabilities_however_large_the_logits(tokenizer: Any) -> None:
    task = create("text_classification", LABELS)
    features = task.encode_raw(["good"], tokenizer, 8)
    (answer,) = task.predictions(["good"], [np.array([1e4, 0.0, -1e4], np.float32)], features, tokenizer)
    assert answer["label"] == "bad"
    assert answer["score"] == pytest.approx(1.0)
    assert sum(answer["scores"].values()) == pytest.approx(1.0)
    assert list(answer["scores"]) == list(LABELS)


def test_loss_is_the_mean_cross_entropy() -> None:
    import torch

    loss = create("text_classification", LABELS).loss(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    assert float(loss) == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 2)), abs=1e-6)


def test_evaluate_module_agrees_with_the_task(tmp_path: Path) -> None:
    from compress.tasks.metrics.classification.classification import Classification

    gold, predicted = [0, 1, 1, 2], [0, 0, 1, 1]
    module = Classification(cache_dir=str(tmp_path))
    assert module.compute(predictions=predicted, references=gold) == create("text_classification", LABELS).metrics(
        logits_of(predicted), features_of(gold)
    )
