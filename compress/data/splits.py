"""Held-out splits and limits: drawn by seed, stratified by label, the same on every machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from compress.data.cleaning import text_key
from compress.data.fingerprint import row_kinds, strata
from compress.data.rows import Row
from compress.errors import DataError

__all__ = ["allocate", "hold_out", "limit_rows"]


def allocate(counts: dict[str, int], wanted: int, *, spare: int = 0, least: int = 0) -> dict[str, int]:
    """Share out `wanted` rows over strata in proportion to their sizes (largest remainders).

    Parameters
    ----------
    counts
        Rows per stratum.
    wanted
        Rows to take in all.
    spare
        Rows that each stratum keeps back.
    least
        Rows that each stratum gives if it has them and `wanted` is enough for every stratum.

    Returns
    -------
    dict
        Rows to take from each stratum; their sum is `wanted` unless the strata have fewer to give.
    """
    total = sum(counts.values())
    order = sorted(counts)
    room = {name: max(0, counts[name] - spare) for name in order}
    floor = {name: min(least, room[name]) for name in order}
    if sum(floor.values()) > wanted:
        floor = dict.fromkeys(order, 0)
    taken = {name: min(room[name], max(floor[name], wanted * counts[name] // total)) for name in order}
    while (difference := wanted - sum(taken.values())) != 0:
        able = [n for n in order if (taken[n] < room[n] if difference > 0 else taken[n] > floor[n])]
        if not able:
            break
        error = {name: wanted * counts[name] - taken[name] * total for name in able}
        sign = 1 if difference > 0 else -1
        able.sort(key=lambda name: (-sign * error[name], name))
        for name in able[: abs(difference)]:
            taken[name] += sign
    return taken


def _ranked(rows: Sequence[Row], groups: Sequence[str], salt: str) -> dict[str, list[int]]:
    """Return the indices of each group in the order of their salted hashes.

    A hash of the text, not a generator: no library version changes it, and it does not depend on the
    order of the rows, so that a smaller limit draws a part of what a larger one draws.
    """
    ranked: dict[str, list[tuple[bytes, int]]] = {}
    for index, (row, group) in enumerate(zip(rows, groups, strict=True)):
        text = "\x1f".join((salt, *text_key(row)))
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        ranked.setdefault(group, []).append((digest, index))
    return {group: [index for _, index in sorted(members)] for group, members in ranked.items()}


def hold_out(rows: list[Row], fraction: float, seed: int, name: str, task: str) -> tuple[list[Row], list[Row]]:
    """Split a stratified part off the training rows.

    The last row of a label, or of an entity type, always stays in train.

    Returns
    -------
    kept, held : list of Row
        In the order of `rows`.

    Raises
    ------
    DataError
        Where no row can be spared.
    """
    groups = strata(rows, task)
    taken = allocate(dict(Counter(groups)), max(1, round(fraction * len(rows))), spare=1)
    left = Counter(kind for row in rows for kind in row_kinds(row, task))
    held: set[int] = set()
    for group, members in _ranked(rows, groups, f"{seed}:{name}").items():
        wanted = taken[group]
        for index in members:
            kinds = row_kinds(rows[index], task)
            if wanted and all(left[kind] > 1 for kind in kinds):
                held.add(index)
                left.subtract(kinds)
                wanted -= 1
    if not held:
        raise DataError(
            f"no {name} split can be held out of {len(rows)} rows of train: each has a label that no other row has; "
            f"give more rows, or a file for data.{name}"
        )
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


def limit_rows(rows: list[Row], limit: int | None, seed: int, task: str) -> list[Row]:
    """Return at most `limit` rows, stratified; each label keeps one while the limit allows."""
    if limit is None or len(rows) <= limit:
        return rows
    groups = strata(rows, task)
    taken = allocate(dict(Counter(groups)), limit, least=1)
    ranked = _ranked(rows, groups, f"{seed}:limit")
    drawn = {index for group, members in ranked.items() for index in members[: taken[group]]}
    return [row for index, row in enumerate(rows) if index in drawn]
