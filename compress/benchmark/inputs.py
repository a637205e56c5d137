"""What is timed: batches of a stated shape made of real texts, texts one by one, or made-up token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["batch_of", "made_up", "one_by_one"]

Row = Mapping[str, Sequence[int]]


def batch_of(rows: Sequence[Row], batch: int, sequence: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a batch of real tokens with no padding, int64 ``[batch, sequence]`` per input.

    Texts follow one another until the row is full: the first and the last token of each row are the special
    tokens that a text of exactly that length would have.

    Parameters
    ----------
    rows
        Tokenized texts.
    batch, sequence
        The shape.
    names
        Inputs that the model takes.
    """
    flat = [token for row in rows for token in row["input_ids"][1:-1]] or [0]
    first, last = rows[0]["input_ids"][0], rows[0]["input_ids"][-1]
    body = max(sequence - 2, 0)
    need = batch * body
    repeated = np.resize(np.asarray(flat, dtype=np.int64), need).reshape(batch, body)
    column = np.ones((batch, 1), dtype=np.int64)
    ids = np.concatenate([column * first, repeated, column * last], axis=1)[:, :sequence]
    every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: every[name] for name in names if name in every}


def one_by_one(rows: Sequence[Row], names: Sequence[str], max_length: int) -> list[dict[str, np.ndarray]]:
    """Return each text as a batch of one row, ``[1, its tokens]``, cut at `max_length`."""
    batches = []
    for row in rows:
        arrays = {name: np.asarray([values], dtype=np.int64)[:, :max_length] for name, values in row.items()}
        batches.append({name: arrays[name] for name in names if name in arrays})
    return batches


def made_up(tokens: int, rows: int = 64, length: int = 64) -> list[dict[str, list[int]]]:
    """Return rows of token ids below `tokens`, the same ones every time: for a model without texts."""
    ids = np.random.default_rng(0).integers(0, tokens, (rows, length))
    return [{"input_ids": row.tolist()} for row in ids]
