"""Prepared data as every other part sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SPLITS", "Data"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Data:
    """Cleaned, split, labelled data.

    Attributes
    ----------
    name : str
        The option of the config group ``data``: ``tweets``, ``files``, ...
    task : str
        Name of the task the columns serve.
    train, validation, test : pandas.DataFrame
        For text classification the columns ``text`` (str), ``text_pair`` (str, only for pairs) and
        ``label`` (str); for token classification ``tokens`` (list of str) and ``tags`` (list of str).
        Indexed 0..n-1.
    labels : tuple of str
        Every label in a fixed order: sorted names, or ``O`` followed by ``B-X, I-X`` for each sorted
        entity type X of the training split.
    fingerprint : str
        SHA-256 over the content of all splits and the labels.
    cleaning : dict
        What cleaning did, for the record: counts of rows read, repaired, dropped and why.
    label_counts : dict
        ``{split: {label: count}}``; for token classification spans per entity type.
    """

    name: str
    task: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    labels: tuple[str, ...]
    fingerprint: str
    cleaning: dict[str, Any] = field(default_factory=dict)
    label_counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def split(self, name: str) -> pd.DataFrame:
        """Return one of the three splits by name."""
        if name not in SPLITS:
            raise KeyError(f"split {name!r}; there are {', '.join(SPLITS)}")
        frame: pd.DataFrame = getattr(self, name)
        return frame

    @property
    def rows(self) -> dict[str, int]:
        """Rows per split."""
        return {name: len(self.split(name)) for name in SPLITS}
