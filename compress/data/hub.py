"""Rows of a Hugging Face dataset: an id on the hub, or a local dataset folder. Never runs code from it."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from compress.config.schemas import HubData
from compress.data.files import hash_file
from compress.data.rows import TOKENS, Raw, Row, missing_column
from compress.data.tables import as_row
from compress.errors import DataError, MachineError

__all__ = ["content", "read"]

_PATIENCE_SECONDS = 3.0


def content(config: HubData, task: str) -> dict[str, str] | None:
    """Return what identifies the bytes to be read, or None where only the hub could tell.

    A local folder is hashed; a hub dataset is pinned only by a full commit in ``data.revision``.
    """
    folder = _folder(config)
    if folder is None:
        pinned = config.revision is not None and re.fullmatch(r"[0-9a-f]{40}", config.revision)
        return {"commit": str(config.revision)} if pinned else None
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(".") and "/." not in name:
            digest.update(f"{name}:{hash_file(path)}\n".encode())
    return {"folder": digest.hexdigest()}


def read(config: HubData, task: str) -> Raw:
    """Read the splits that the config names; integer class labels become their names.

    Raises
    ------
    DataError
        For an unknown or unreachable dataset, configuration, split or column, or a label without a name.
    MachineError
        If the library ``datasets`` is not installed.
    """
    loaded = _load(config)
    wanted = {"text": config.text, "text_pair": config.text_pair, "label": config.label}
    columns = {key: column for key, column in wanted.items() if column}
    splits: dict[str, list[Row]] = {}
    origins: dict[str, str] = {}
    for key, split in (("train", config.train), ("validation", config.validation), ("test", config.test)):
        if split is None:
            continue
        if split not in loaded:
            optional = "" if key == "train" else f"; data.{key}=null holds out a part of train"
            raise DataError(
                f"data.path={config.path}: no split {split!r} (data.{key}); "
                f"its splits are {', '.join(map(repr, loaded))}{optional}"
            )
        origins[key] = f"{config.path}[{split}]"
        splits[key] = _rows(loaded[split], columns, task, origins[key])
    return Raw(splits, origins)


def _folder(config: HubData) -> Path | None:
    if not config.path or config.path == "???":
        raise DataError("data.path is not set: give a dataset id of the hub or a local dataset folder")
    path = Path(config.path).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise DataError(f"data.path={config.path} is a file; read it with data=files data.train={config.path}")
    if path.is_absolute() or config.path.startswith((".", "~")) or config.path.count("/") > 1:
        raise DataError(f"data.path={config.path}: no such folder, and not an id of the hub (OWNER/NAME)")
    return None


def _load(config: HubData) -> Any:
    folder = _folder(config)
    try:
        import datasets
    except ImportError as error:
        raise MachineError("data=hub needs the library datasets: pip install datasets") from error
    try:
        if folder is not None and (folder / "dataset_dict.json").exists():
            return datasets.load_from_disk(str(folder))
        if folder is not None and (folder / "state.json").exists():
            return {"train": datasets.load_from_disk(str(folder))}
        if folder is not None:
            return datasets.load_dataset(str(folder), config.name)
        with _offline_if_unreachable():
            return datasets.load_dataset(config.path, config.name, revision=config.revision)
    except ConnectionError as error:
        raise DataError(
            f"data.path={config.path}: the hub cannot be reached, and the dataset is not in the local cache; "
            f"connect once, give a local folder as data.path, or use data=files"
        ) from error
    # The library raises whatever a builder raised: TypeError, KeyError, its own and pyarrow's errors.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise DataError(
            f"data.path={config.path}"
            + (f" data.name={config.name}" if config.name else "")
            + f": cannot be loaded ({reason}); check data.path, data.name and data.revision "
            f"(datasets that need code of their own are never run), or convert it to files for data=files"
        ) from error


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Let the libraries read their cache at once where the hub does not answer: they retry for 25 s otherwise."""
    import datasets
    import huggingface_hub

    if _reachable(huggingface_hub.constants.ENDPOINT):
        yield
        return
    settings: tuple[Any, Any] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in settings]
    try:
        for module in settings:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(settings, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _reachable(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    if address.scheme in getproxies():
        return True  # a proxy resolves the name, so only a real request could tell
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        with socket.create_connection((address.hostname or "", port), timeout=_PATIENCE_SECONDS):
            return True
    except OSError:
        return False


def _rows(split: Any, columns: dict[str, str], task: str, origin: str) -> list[Row]:
    for key, column in columns.items():
        if column not in split.column_names:
            raise missing_column(origin, key, column, split.column_names)
    values = split.select_columns(list(columns.values())).to_dict()
    label = columns["label"]
    names = _class_names(split.features[label])
    if names is not None:
        values[label] = [_named(value, names, f"{origin}, row {n}") for n, value in enumerate(values[label], start=1)]
    found = zip(*(values[column] for column in columns.values()), strict=True)
    keys = list(columns)
    rows = [as_row(n, list(item), keys, task, f"{origin}, row {n}") for n, item in enumerate(found, start=1)]
    if not rows:
        raise DataError(f"{origin} has no rows; choose another split")
    if task != TOKENS and all(not row.targets[0] for row in rows):
        raise DataError(
            f"{origin} carries no labels (every one is unset); "
            f"choose another split, or null to hold out a part of train"
        )
    return rows


def _class_names(feature: Any) -> list[str] | None:
    """Return the names of a class label feature, alone or in a list."""
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, list):
        inner = inner[0]
    names = getattr(inner, "names", None)
    return list(names) if names else None


def _named(value: Any, names: list[str], place: str) -> Any:
    if isinstance(value, list):
        return [_named(item, names, place) for item in value]
    if value is None or value == -1:  # how the hub writes "not published"
        return ""
    if not 0 <= value < len(names):
        raise DataError(f"{place}: class {value}, but the dataset names {len(names)} classes")
    return names[value]
