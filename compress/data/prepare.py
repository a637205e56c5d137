"""From a config to cleaned, split, labelled data, kept in a cache; the one entrance to this package."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from functools import cache as memoise
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from compress.config import schemas
from compress.data import bbc_news, files, hub, tiny, tweets
from compress.data.base import SPLITS, Data
from compress.data.cache import read_entry, read_meta, write_entry
from compress.data.cleaning import clean
from compress.data.fingerprint import count_labels, fingerprint, label_names, row_kinds
from compress.data.rows import TEXT, TOKENS, Raw, Row, name_rows
from compress.data.splits import hold_out, limit_rows
from compress.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe", "peek", "prepare"]

_SOURCES: dict[type[schemas.Data], tuple[str, ModuleType]] = {
    schemas.TweetsData: ("tweets", tweets),
    schemas.BBCNewsData: ("bbc_news", bbc_news),
    schemas.TinyData: ("tiny", tiny),
    schemas.FilesData: ("files", files),
    schemas.HubData: ("hub", hub),
}
_PATHS = ("train", "validation", "test")
_IDENTIFIER_ROWS = 50


def prepare(config: schemas.Data, task: str, cache: Path | None = None) -> Data:
    """Read, clean and split the data of a config, or take it from the cache.

    Parameters
    ----------
    config
        One of the data configs of `compress.config.schemas`.
    task
        ``text_classification`` or ``token_classification``.
    cache
        Directory that keeps prepared data (under ``data/``); None keeps nothing.

    Returns
    -------
    Data
        The same for the same content and config, in every process.

    Raises
    ------
    DataError
        For input that cannot be used: names the file, the row or column, and what to change.
    MachineError
        For a missing package, or a cache that cannot be written.
    """
    name, source = _source(config, task)
    key = _key(config, task, name, source)
    folder = None if cache is None or key is None else Path(cache) / "data" / key
    entry = None if folder is None else read_entry(folder, task)
    if entry is None:
        entry = _prepared(config, task, source)
        if folder is not None:
            write_entry(folder, *entry)
    splits, meta = entry
    frames = {split: _frame(splits[split], task) for split in SPLITS}
    return Data(
        name=name,
        task=task,
        labels=tuple(meta["labels"]),
        fingerprint=meta["fingerprint"],
        cleaning=meta["cleaning"],
        label_counts=meta["label_counts"],
        **frames,
    )


def peek(config: schemas.Data, task: str, cache: Path | None) -> dict[str, Any] | None:
    """Return what the cache knows of the data, without reading its rows.

    Returns
    -------
    dict or None
        ``{"fingerprint", "labels", "rows"}``, or None where the data has not been prepared yet.

    Raises
    ------
    DataError, MachineError
        For files or packages that are not there; nothing is parsed.
    """
    name, source = _source(config, task)
    key = _key(config, task, name, source)
    meta = None if cache is None or key is None else read_meta(Path(cache) / "data" / key)
    if meta is None:
        return None
    return {"fingerprint": meta["fingerprint"], "labels": tuple(meta["labels"]), "rows": meta["rows"]}


def describe(data: Data) -> dict[str, Any]:
    """Return the ``data`` section of a record: name, fingerprint, rows, labels and what cleaning did."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "rows": data.rows,
        "labels": data.label_counts,
        "cleaning": data.cleaning,
    }


def _source(config: schemas.Data, task: str) -> tuple[str, ModuleType]:
    if task not in (TEXT, TOKENS):
        raise ConfigError(f"task={task}: data can be prepared for {TEXT} and {TOKENS}")
    for kind in type(config).__mro__:
        if kind in _SOURCES:
            return _SOURCES[kind]
    raise ConfigError(
        f"data: no source for {type(config).__name__}; options: {', '.join(n for n, _ in _SOURCES.values())}"
    )


def _key(config: schemas.Data, task: str, name: str, source: ModuleType) -> str | None:
    """Return the cache key: content, config, task, our code and the packages that cleaning stands on."""
    content = source.content(config, task)
    if content is None:
        return None
    settings = asdict(config)
    if isinstance(config, schemas.FilesData):  # the bytes count, not where they are
        settings = {key: value for key, value in settings.items() if key not in _PATHS}
    packages = {"ftfy": _version("ftfy"), "python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    if name == "hub":
        packages["datasets"] = _version("datasets")
    described = json.dumps([name, task, settings, content, packages, _code()], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


@memoise
def _code() -> str:
    """Return a digest of this package's source files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _prepared(config: schemas.Data, task: str, source: ModuleType) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    raw: Raw = source.read(config, task)
    splits, cleaning = clean(raw, task)
    _check_targets(splits, raw, task)
    held: dict[str, int] = {}
    whole = len(splits["train"])
    for name, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        if name not in splits:
            share = min(0.5, fraction * whole / len(splits["train"]))  # a fraction of all of train, not of what is left
            splits["train"], splits[name] = hold_out(splits["train"], share, config.split_seed, name, task)
            held[name] = len(splits[name])
    labels = label_names(splits["train"], task)
    limits = {"train": config.train_limit, "validation": config.validation_limit, "test": config.test_limit}
    left_out: dict[str, int] = {}
    for name in SPLITS:
        limit = min((n for n in (config.limit, limits[name]) if n is not None), default=None)
        rows = limit_rows(splits[name], limit, config.split_seed, task)
        left_out[name] = len(splits[name]) - len(rows)
        splits[name] = rows
    meta = {
        "fingerprint": fingerprint(splits, labels, task),
        "labels": list(labels),
        "rows": {name: len(splits[name]) for name in SPLITS},
        "cleaning": {**cleaning, "held_out": held, "left_out_by_limit": left_out},
        "label_counts": {name: count_labels(splits[name], task) for name in SPLITS},
    }
    return splits, meta


def _check_targets(splits: dict[str, list[Row]], raw: Raw, task: str) -> None:
    """Refuse data with nothing to learn, and labels that train never shows."""
    train = splits["train"]
    known = {kind for row in train for kind in row_kinds(row, task)}
    origin = raw.origins["train"]
    if task == TOKENS and not known:
        raise DataError(
            f"{origin}: every tag is O, so there is no entity to learn; check data.tag_column or data.label"
        )
    if task != TOKENS and len(known) == 1:
        raise DataError(f"{origin}: every row has the label {known.pop()!r}; a classifier needs two labels at least")
    if task != TOKENS and len(known) == len(train) >= _IDENTIFIER_ROWS:
        raise DataError(
            f"{origin}: all {len(train)} rows have different labels; data.label must be a column of classes, "
            f"not of texts or numbers"
        )
    for name in ("validation", "test"):
        strange: dict[str, list[int]] = {}
        for row in splits.get(name, ()):
            for kind in row_kinds(row, task) - known:
                strange.setdefault(kind, []).append(row.number)
        if strange:
            what = "entity type" if task == TOKENS else "label"
            shown = "; ".join(f"{kind!r} in {name_rows(n, raw.unit)}" for kind, n in sorted(strange.items())[:5])
            more = f"; and {len(strange) - 5} more" if len(strange) > 5 else ""
            raise DataError(
                f"{raw.origins[name]}: {what} never seen in train after cleaning: {shown}{more}; "
                f"train has {', '.join(map(repr, sorted(known)[:10]))}{' ...' if len(known) > 10 else ''}; "
                f"correct these rows, drop them, or add such rows to train"
            )


def _frame(rows: list[Row], task: str) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, list[Any]]
    if task == TOKENS:
        columns = {"tokens": [list(row.inputs) for row in rows], "tags": [list(row.targets) for row in rows]}
    else:
        columns = {"text": [row.inputs[0] for row in rows]}
        if rows and len(rows[0].inputs) == 2:
            columns["text_pair"] = [row.inputs[1] for row in rows]
        columns["label"] = [row.targets[0] for row in rows]
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
