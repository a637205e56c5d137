"""Cleaning that every source goes through; whatever it changes or drops is counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from compress.data.base import SPLITS
from compress.data.rows import TOKENS, Raw, Row, name_rows, start_spans
from compress.errors import DataError, MachineError

__all__ = ["clean", "normalise", "text_key"]


def text_key(row: Row) -> tuple[str, ...]:
    """Return what makes two rows the same text: their inputs, case folded."""
    return tuple(part.casefold() for part in row.inputs)


def normalise(text: str) -> tuple[str, bool]:
    """Return a text with its encoding repaired and its white space made single blanks.

    Returns
    -------
    text : str
        Empty if nothing printable is left.
    repaired : bool
        Whether more than white space was changed.

    Notes
    -----
    The repair is ftfy's (mis-decoded UTF-8, lone surrogates, control characters, Unicode NFC);
    typographic quotes, ligatures and HTML entities stay as written.
    """
    spaced = " ".join(text.split())
    if spaced.isascii() and spaced.isprintable():
        return spaced, False
    fixed = " ".join(_ftfy(spaced).split())
    if not any(character.isprintable() and not character.isspace() for character in fixed):
        fixed = ""
    return fixed, fixed != spaced


def _ftfy(text: str) -> str:
    try:
        import ftfy
    except ImportError as error:
        raise MachineError("cleaning text needs the package ftfy: pip install ftfy") from error
    config = ftfy.TextFixerConfig(
        unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, explain=False
    )
    return ftfy.fix_text(text, config)


def clean(raw: Raw, task: str) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Clean the rows of every split.

    In this order: encoding repaired and white space normalised; tags made to start spans with B;
    rows without text dropped; of rows with the same text one is kept, with the label that most of
    them have, or none where no label has a majority; rows of train whose text stands in validation
    or test dropped, and rows of validation whose text stands in test.

    Returns
    -------
    splits : dict
        The rows that are left; every split has some.
    cleaning : dict
        ``{"read": {split: rows}, "repaired": ..., "empty": ..., "duplicates": ...,
        "conflicting_labels": ..., "in_another_split": ...}`` and, for tokens, ``empty_tokens`` and
        ``tags_repaired``; counts per split, then the facts of the source.

    Raises
    ------
    DataError
        For rows with text but no label, and where a split has no rows left.
    """
    report: dict[str, Any] = {"read": {name: len(rows) for name, rows in raw.splits.items()}}
    splits: dict[str, list[Row]] = {}
    for name in SPLITS:
        if name in raw.splits:
            counts: Counter[str] = Counter()
            rows = _mended(raw.splits[name], task, counts)
            _check_labels(rows, raw, name)
            splits[name] = _distinct(rows, counts)
            report_names = ["repaired", "empty", "duplicates", "conflicting_labels"]
            for entry in report_names + (["empty_tokens", "tags_repaired"] if task == TOKENS else []):
                report.setdefault(entry, {})[name] = counts[entry]
    later: set[tuple[str, ...]] = set()
    report["in_another_split"] = {}
    for name in reversed(SPLITS):
        if name in splits:
            kept = [row for row in splits[name] if text_key(row) not in later]
            report["in_another_split"][name] = len(splits[name]) - len(kept)
            splits[name] = kept
            later.update(text_key(row) for row in kept)
    if raw.facts:
        report["source"] = dict(raw.facts)
    for name, rows in splits.items():
        if not rows:
            dropped = ", ".join(
                f"{entry.replace('_', ' ')} {counted[name]}"
                for entry, counted in report.items()
                if entry in {"read", "empty", "duplicates", "conflicting_labels", "in_another_split"}
            )
            raise DataError(
                f"{raw.origins[name]}: no rows of {name} are left after cleaning ({dropped}); "
                f"give rows with text that stand in no other split"
            )
    return splits, report


def _mended(rows: list[Row], task: str, counts: Counter[str]) -> list[Row]:
    """Normalise every row, dropping those without text."""
    kept: list[Row] = []
    for row in rows:
        cleaned = [normalise(part) for part in row.inputs]
        inputs = tuple(text for text, _ in cleaned)
        targets = tuple(" ".join(target.split()) for target in row.targets)
        counts["repaired"] += any(changed for _, changed in cleaned)
        if task == TOKENS:
            full = [(word, tag) for word, tag in zip(inputs, targets, strict=True) if word]
            counts["empty_tokens"] += len(inputs) - len(full)
            inputs = tuple(word for word, _ in full)
            targets, changed_tags = start_spans([tag for _, tag in full])
            counts["tags_repaired"] += changed_tags
        if not inputs or not all(inputs):
            counts["empty"] += 1
            continue
        kept.append(Row(row.number, inputs, targets))
    return kept


def _check_labels(rows: list[Row], raw: Raw, name: str) -> None:
    unlabelled = [row.number for row in rows if not all(row.targets)]
    if unlabelled:
        raise DataError(
            f"{raw.origins[name]}: the label is empty in {name_rows(unlabelled, raw.unit)}; "
            f"fill it in or delete these rows"
        )


def _distinct(rows: list[Row], counts: Counter[str]) -> list[Row]:
    """Keep one row for each text: the first that bears the majority's targets."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(text_key(row), []).append(row)
    kept: list[Row] = []
    for group in groups.values():
        votes = Counter(row.targets for row in group).most_common(2)
        if len(votes) == 1:
            counts["duplicates"] += len(group) - 1
        elif 2 * votes[0][1] > len(group):
            counts["conflicting_labels"] += len(group) - votes[0][1]
            counts["duplicates"] += votes[0][1] - 1
        else:
            counts["conflicting_labels"] += len(group)
            continue
        kept.append(next(row for row in group if row.targets == votes[0][0]))
    return kept
