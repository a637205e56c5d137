"""Rows changed as they are drawn: tokens masked or left out, spans of another row put in, pairs mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.config.training import Augmentation
from compress.errors import ConfigError
from compress.training.batches import Changed
from compress.training.distillation.entries import PARTNER, SHARE

if TYPE_CHECKING:
    from compress.tasks.base import Features

__all__ = ["Augmenter"]

_LONGEST_SPAN = 0.5
"""Of a row's tokens that may be another row's."""


class Augmenter:
    """Changes a share of the rows of each batch; what comes out depends on seed, epoch and rows alone.

    Masking and deletion as in data augmentation for distillation (Tang et al., arXiv 1903.12136); a span of another
    row in place of one's own of the same length; mixup of embeddings (Zhang et al., arXiv 1710.09412; for text Guo et
    al., arXiv 1905.08941). Special tokens stay.

    Parameters
    ----------
    config
        Shares and chances.
    features
        The rows.
    tokenizer
        For its special tokens and its mask.
    seed
        Of whatever is drawn.
    where
        The config node, for messages.

    Raises
    ------
    ConfigError
        Tokens are to be masked and the tokenizer has no mask.
    """

    def __init__(self, config: Augmentation, features: Features, tokenizer: Any, seed: int, where: str) -> None:
        if config.mask > 0 and tokenizer.mask_token_id is None:
            raise ConfigError(
                f"{where}.augment.mask={config.mask:g}: the model's tokenizer has no mask token; set augment.mask=0"
            )
        self.config = config
        self.features = features
        self.mask_token = tokenizer.mask_token_id
        self.special = np.asarray(sorted(set(tokenizer.all_special_ids)), np.int64)
        self.seed = seed

    @property
    def token_ids(self) -> list[int]:
        """Tokens that changed rows may hold and rows as they are may not."""
        return [self.mask_token] if self.config.mask > 0 else []

    def __call__(self, rows: Sequence[int], epoch: int) -> Changed:
        """Return the rows of a batch, some of them changed.

        Parameters
        ----------
        rows
            Row numbers.
        epoch
            Counted from 0.
        """
        draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch, *map(int, rows)])))
        inputs = [self.features.inputs[row] for row in rows]
        labels = [self.features.labels[row] for row in rows]
        count = round(self.config.share * len(rows))
        changed = np.zeros(len(rows), bool)
        changed[draw.permutation(len(rows))[:count]] = True
        for place in np.flatnonzero(changed):
            other = self.features.inputs[int(draw.integers(len(self.features)))] if len(self.features) > 1 else None
            inputs[place], labels[place] = self._changed(inputs[place], labels[place], other, draw)
        arrays = self._pairs(changed, draw) if self.config.mixup is not None else {}
        return Changed(inputs, labels, changed, arrays)

    def _changed(
        self, inputs: Mapping[str, list[int]], labels: Any, other: Mapping[str, list[int]] | None, draw: Any
    ) -> tuple[dict[str, list[int]], Any]:
        columns = {name: np.asarray(values, np.int64) for name, values in inputs.items()}
        marks = np.asarray(labels, np.int64) if isinstance(labels, list | tuple | np.ndarray) else None
        ids = columns["input_ids"].copy()
        own = self._words(ids)
        if other is not None and draw.random() < self.config.mix:
            ids = self._with_span(ids, own, np.asarray(other["input_ids"], np.int64), draw)
        if self.config.mask > 0:
            ids[own[draw.random(len(own)) < self.config.mask]] = self.mask_token
        keep = np.ones(len(ids), bool)
        gone = own[draw.random(len(own)) < self.config.delete]
        if len(gone) < len(own):  # something must be left to read
            keep[gone] = False
        columns["input_ids"] = ids
        return (
            {name: values[keep].tolist() for name, values in columns.items()},
            labels if marks is None else marks[keep].tolist(),
        )

    def _words(self, ids: np.ndarray) -> np.ndarray:
        """Return the places of tokens that are not special."""
        return np.flatnonzero(~np.isin(ids, self.special))

    def _with_span(self, ids: np.ndarray, own: np.ndarray, others: np.ndarray, draw: Any) -> np.ndarray:
        """Return ids with a run of another row's words in the place of as many of its own."""
        offered = others[self._words(others)]
        most = min(len(offered), int(_LONGEST_SPAN * len(own)))
        if most < 1:
            return ids
        length = int(draw.integers(1, most + 1))
        start, begin = int(draw.integers(len(own) - length + 1)), int(draw.integers(len(offered) - length + 1))
        ids = ids.copy()
        ids[own[start : start + length]] = offered[begin : begin + length]
        return ids

    def _pairs(self, changed: np.ndarray, draw: Any) -> dict[str, np.ndarray]:
        """Return with which row each changed one is mixed, and its own share: the larger, so that it stays itself."""
        partner = np.arange(len(changed))
        share = np.ones(len(changed), np.float32)
        places = np.flatnonzero(changed)
        if len(places) > 1:
            partner[places] = np.roll(places, 1)
            drawn = draw.beta(self.config.mixup, self.config.mixup, len(places))
            share[places] = np.maximum(drawn, 1 - drawn).astype(np.float32)
        return {PARTNER: partner, SHARE: share}
