"""How much of some texts a pruned vocabulary covers, on each split and in another domain: for the record.

The step itself reads no test texts; this is done beside the measurement, from the tokenizers on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline.built import Built

if TYPE_CHECKING:
    from compress.data.base import Data
    from compress.steps.prune.vocabulary import Text

__all__ = ["vocabulary_coverage"]


def vocabulary_coverage(built: Built, data: Data, store: Path, run_dir: Path) -> dict[str, Any]:
    """Return what each vocabulary step of a job left of the tokens of validation, test and foreign texts.

    Parameters
    ----------
    built
        What the steps left.
    data
        The job's splits.
    store, run_dir
        Where the checkpoints are.

    Returns
    -------
    dict
        By step: ``rows_before`` and ``rows`` (of the vocabulary) and ``texts``, a list with an entry for each source
        of texts: ``source`` (``validation``, ``test`` or ``other domain``), ``name`` of the data, and what
        `compress.steps.prune.vocabulary.coverage` returns, or ``missing`` with the reason. Empty without such a step.
    """
    paths = built.paths(store, run_dir)
    found = {}
    for before, step in zip(built.steps, built.steps[1:], strict=False):
        if step["kind"] == "vocabulary":
            old, new = (_tokenizer(paths[one["name"]]) for one in (before, step))
            entries = [_entry(old, new, *source) for source in _sources(data)]
            found[step["name"]] = {"rows_before": _rows(old), "rows": _rows(new), "texts": entries}
    return found


def _sources(data: Data) -> Iterator[tuple[str, str, Iterable[Text] | str]]:
    """Yield kind and name of each source, and its texts or why there are none."""
    from compress.data.other_domain import other_domain
    from compress.errors import MachineError
    from compress.steps.prune.vocabulary import texts_of

    for split in ("validation", "test"):
        yield split, data.name, texts_of(data.split(split))
    words = "tokens" in data.test.columns
    try:
        name, texts = other_domain(data.name)
        yield "other domain", name, [text.split() for text in texts] if words else texts
    except MachineError as error:
        yield "other domain", "", str(error)


def _entry(old: Any, new: Any, source: str, name: str, texts: Iterable[Text] | str) -> dict[str, Any]:
    from compress.steps.prune.vocabulary import coverage_between

    if isinstance(texts, str):
        return {"source": source, "name": name, "missing": texts}
    figures = {key: value for key, value in coverage_between(old, new, texts).items() if key != "rows"}
    return {"source": source, "name": name, **{key: round(value, 6) for key, value in figures.items()}}


def _tokenizer(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    return content | {"truncation": None, "padding": None}


def _rows(tokenizer: dict[str, Any]) -> int:
    from compress.models.tokenizers import vocabulary_of

    return max(vocabulary_of(tokenizer).values()) + 1
