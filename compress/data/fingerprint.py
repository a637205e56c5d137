"""What identifies and counts prepared rows: labels, counts per label, a fingerprint of the content."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence

from compress.data.rows import TOKENS, Row

__all__ = ["count_labels", "entity_types", "fingerprint", "label_names", "row_kinds", "strata"]


def entity_types(tags: Sequence[str]) -> list[str]:
    """Return the type of every span of BIO tags, in order."""
    return [tag[2:] for tag in tags if tag.startswith("B-")]


def row_kinds(row: Row, task: str) -> set[str]:
    """Return the labels, or the entity types, that a row shows."""
    return set(entity_types(row.targets)) if task == TOKENS else set(row.targets)


def strata(rows: Sequence[Row], task: str) -> list[str]:
    """Return what each row is stratified by: its label; sentences are all alike."""
    return [""] * len(rows) if task == TOKENS else [row.targets[0] for row in rows]


def label_names(rows: Sequence[Row], task: str) -> tuple[str, ...]:
    """Return the labels of training rows in their fixed order.

    Sorted names; for token classification ``O``, then ``B-X, I-X`` for each sorted entity type X.
    """
    if task != TOKENS:
        return tuple(sorted({row.targets[0] for row in rows}))
    types = sorted({kind for row in rows for kind in entity_types(row.targets)})
    return ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


def count_labels(rows: Sequence[Row], task: str) -> dict[str, int]:
    """Return rows per label, or spans per entity type, sorted by name."""
    if task == TOKENS:
        counts = Counter(kind for row in rows for kind in entity_types(row.targets))
    else:
        counts = Counter(row.targets[0] for row in rows)
    return dict(sorted(counts.items()))


def fingerprint(splits: Mapping[str, Sequence[Row]], labels: Sequence[str], task: str) -> str:
    """Return the SHA-256 over the task, the labels and every row of every split, in order."""
    digest = hashlib.sha256(json.dumps([task, list(labels)]).encode())
    for name in sorted(splits):
        content = [[row.inputs, row.targets] for row in splits[name]]
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(json.dumps(content, separators=(",", ":")).encode())
    return digest.hexdigest()
