"""Rows changed as they are drawn: what stays, what moves along, and that it comes out the same again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compress.config.training import Augmentation
from compress.errors import ConfigError
from compress.tasks import create
from compress.tasks.base import Features
from compress.training.batches import Collator
from compress.training.distillation.augmentation import Augmenter
from compress.training.distillation.entries import PARTNER, SHARE

TOKENIZER: Any = SimpleNamespace(mask_token_id=4, all_special_ids=[0, 2, 3, 4], pad_token_id=0, pad_token_type_id=0)


def features(tokens: bool = False) -> Features:
    """Return rows of ids from 10 up; a token's label is its id less 10."""
    inputs, labels = [], []
    for row in range(24):
        ids = [2, *range(10 + row, 10 + row + 3 + row % 7), 3]
        inputs.append({"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)})
        labels.append([-100, *(number - 10 for number in ids[1:-1]), -100] if tokens else row % 3)
    return Features(inputs, labels)


def augmenter(**options: Any) -> Augmenter:
    tokens = options.pop("tokens", False)
    seed = options.pop("seed", 0)
    quiet = {"mask": 0.0, "delete": 0.0, "mix": 0.0, "share": 1.0}
    return Augmenter(Augmentation(**{**quiet, **options}), features(tokens), TOKENIZER, seed, "distill")


ROWS = list(range(24))


def test_a_share_of_the_rows_is_changed_and_the_others_are_as_they_were() -> None:
    found = augmenter(share=0.25, mask=0.9)(ROWS, 0)
    assert found.changed.sum() == 6
    for row in ROWS:
        same = found.inputs[row] == features().inputs[row]
        assert same != found.changed[row]


def test_masks_stand_where_words_were_and_special_tokens_stay() -> None:
    found = augmenter(mask=0.5)(ROWS, 0)
    masked = 0
    for row, original in zip(found.inputs, features().inputs, strict=True):
        for new, old in zip(row["input_ids"], original["input_ids"], strict=True):
            assert new == old or (new == 4 and old not in (2, 3))
            masked += new == 4
    assert 0.4 < masked / sum(n - 2 for n in features().lengths) < 0.6


def test_what_is_deleted_takes_its_label_along() -> None:
    found = augmenter(delete=0.4, tokens=True)(ROWS, 0)
    gone = 0
    for row, labels, original in zip(found.inputs, found.labels, features().inputs, strict=True):
        ids = row["input_ids"]
        assert len(ids) == len(labels) == len(row["attention_mask"]) == len(row["token_type_ids"])
        assert ids[0] == 2
        assert ids[-1] == 3
        assert len(ids) > 2, "something is left to read"
        assert labels == [-100, *(number - 10 for number in ids[1:-1]), -100]
        gone += len(original["input_ids"]) - len(ids)
    assert gone > 20


def test_a_span_is_another_rows_and_no_longer_than_half() -> None:
    found = augmenter(mix=1.0)(ROWS, 0)
    for row, original in zip(found.inputs, features().inputs, strict=True):
        assert len(row["input_ids"]) == len(original["input_ids"])
        moved = [n for n, (a, b) in enumerate(zip(row["input_ids"], original["input_ids"], strict=True)) if a != b]
        assert len(moved) <= (len(original["input_ids"]) - 2) / 2
        if moved:
            span = row["input_ids"][moved[0] : moved[-1] + 1]
            assert span == list(range(span[0], span[0] + len(span))), "a run of another row"


def test_what_comes_out_depends_on_seed_epoch_and_rows_alone() -> None:
    def drawn(seed: int = 0, epoch: int = 0, rows: list[int] = ROWS) -> Any:
        one = augmenter(mask=0.3, delete=0.2, mix=0.5, mixup=0.4, seed=seed)
        one(ROWS[:3], 0)
        found = one(rows, epoch)
        return found.inputs, found.arrays[SHARE].tolist()

    assert drawn() == drawn()
    assert drawn(seed=1) != drawn()
    assert drawn(epoch=1) != drawn()
    assert drawn(rows=ROWS[::-1]) != drawn()


def test_pairs_are_of_changed_rows_and_a_row_stays_mostly_itself() -> None:
    found = augmenter(share=0.5, mixup=0.4)(ROWS, 0)
    partner, share = found.arrays[PARTNER], found.arrays[SHARE]
    for row in ROWS:
        if found.changed[row]:
            assert partner[row] != row
            assert found.changed[partner[row]]
            assert 0.5 <= share[row] <= 1
        else:
            assert partner[row] == row
            assert share[row] == 1


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    bare = SimpleNamespace(**{**vars(TOKENIZER), "mask_token_id": None})
    with pytest.raises(ConfigError, match=r"distill\.augment\.mask=0\.15.*no mask token; set augment\.mask=0"):
        Augmenter(Augmentation(share=0.5), features(), bare, 0, "distill")
    assert Augmenter(Augmentation(share=0.5, mask=0.0), features(), bare, 0, "distill").token_ids == []


def test_kept_outputs_are_of_rows_as_they_are() -> None:
    task = create("text_classification", ["a", "b", "c"])

    def extras(rows: Any, padded: int) -> dict[str, np.ndarray]:
        return {"kept": np.asarray([[row + 1.0] for row in rows], np.float32).reshape(-1, 1)}

    collate = Collator(task, features(), {"input_ids": 0}, extras, augmenter(share=0.5, mask=0.5))
    batch = collate(ROWS)
    changed = augmenter(share=0.5, mask=0.5)(ROWS, 0).changed
    expected = np.where(changed, 0, np.arange(1, 25))
    assert batch["kept"][:, 0].tolist() == expected.tolist()
    all_changed = Collator(task, features(), {"input_ids": 0}, extras, augmenter(mask=0.5))(ROWS[:4])
    assert all_changed["kept"].tolist() == [[0.0]] * 4
