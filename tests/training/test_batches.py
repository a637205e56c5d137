"""Batches: every row once per epoch, order a function of seed and epoch, little padding."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.tasks.padding import padding_of
from compress.training.batches import BatchSampler, batch_order, logits_of, sorted_batches

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=300)


@given(lengths=LENGTHS, batch_size=st.integers(1, 40), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    batches = batch_order(lengths, batch_size, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in batches)
    assert len(batches) == len(BatchSampler(lengths, batch_size, seed))


@settings(max_examples=20)
@given(lengths=LENGTHS, batch_size=st.integers(1, 40))
def test_inference_batches_go_from_long_to_short(lengths: list[int], batch_size: int) -> None:
    rows = [row for batch in sorted_batches(lengths, batch_size) for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = [1 + row % 17 for row in range(500)]
    assert batch_order(lengths, 8, 1, 2) == batch_order(lengths, 8, 1, 2)
    assert batch_order(lengths, 8, 1, 2) != batch_order(lengths, 8, 1, 3)
    assert batch_order(lengths, 8, 1, 2) != batch_order(lengths, 8, 2, 2)
    code = "from compress.training.batches import batch_order; print(batch_order([1, 5, 2, 9, 4, 4, 7], 2, 0, 1))"
    elsewhere = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert elsewhere[0] == elsewhere[1] == f"{batch_order([1, 5, 2, 9, 4, 4, 7], 2, 0, 1)}\n"


def test_buckets_save_most_of_the_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, size=2000).tolist()
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batch_order(lengths, 32, 0, 0))
    assert padded < 1.06 * sum(lengths)


def test_logits_do_not_depend_on_the_batch_a_row_is_in(tiny: ModuleType) -> None:
    model, features, padding = tiny.tiny_model(), tiny.tiny_features(20, 5), padding_of(tiny.TOKENIZER)
    together = logits_of(model.train(), tiny.tiny_task(), features, padding, batch_size=7)
    alone = logits_of(model, tiny.tiny_task(), features, padding, batch_size=1)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert model.training, "the mode is left as it was"
