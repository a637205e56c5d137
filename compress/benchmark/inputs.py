"""Batches of a stated shape made of real texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from compress.errors import ConfigError

__all__ = ["batch_of", "parse_shape"]


def parse_shape(shape: str) -> tuple[int, int]:
    """Return batch and tokens of ``BxS``."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", shape)
    if match is None:
        raise ConfigError(f"benchmark.shapes: {shape!r} is no shape; write BATCHxTOKENS, such as 1x32")
    return int(match.group(1)), int(match.group(2))


def batch_of(
    rows: Sequence[dict[str, list[int]]], batch: int, sequence: int, names: Sequence[str]
) -> dict[str, np.ndarray]:
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
