"""Padding ragged rows into arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["pad_inputs", "pad_rows", "padding_of"]


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    """Return rows as one int64 array ``[rows, longest]``, padded at the end with `value`."""
    longest = max(map(len, rows), default=0)
    padded = np.full((len(rows), longest), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def pad_inputs(inputs: Sequence[Mapping[str, list[int]]], padding: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return each model input of the rows as an array ``[batch, sequence]``; `padding` defaults to 0 per name."""
    return {name: pad_rows([row[name] for row in inputs], padding.get(name, 0)) for name in inputs[0]}


def padding_of(tokenizer: Any) -> dict[str, int]:
    """Return the padding value of each model input, as `pad_inputs` takes it."""
    token, kind = getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "pad_token_type_id", None)
    return {"input_ids": int(token or 0), "attention_mask": 0, "token_type_ids": int(kind or 0)}
