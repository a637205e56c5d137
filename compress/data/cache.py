"""Prepared splits on disk, so that a second run, and a plan, need not read and clean the data again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.data.base import SPLITS
from compress.data.fingerprint import fingerprint
from compress.data.rows import Row
from compress.errors import MachineError

__all__ = ["read_entry", "read_meta", "write_entry"]

_STALE_SECONDS = 3600.0
_TEMPORARY = ".tmp-"


def read_meta(folder: Path) -> dict[str, Any] | None:
    """Return what an entry says of itself, or None where there is none or it is not whole."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        sizes = {name: (folder / f"{name}.json").stat().st_size for name in SPLITS}
        whole = meta["bytes"] == sizes and meta.keys() >= {"fingerprint", "labels", "rows", "cleaning", "label_counts"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta if whole else None


def read_entry(folder: Path, task: str) -> tuple[dict[str, list[Row]], dict[str, Any]] | None:
    """Return the splits and meta data of an entry, or None where it is absent or its content has changed."""
    meta = read_meta(folder)
    if meta is None:
        return None
    splits: dict[str, list[Row]] = {}
    try:
        for name in SPLITS:
            content = json.loads((folder / f"{name}.json").read_bytes())
            splits[name] = [Row(n, tuple(i), tuple(t)) for n, (i, t) in enumerate(content, start=1)]
    except (OSError, ValueError, TypeError):
        return None
    same = fingerprint(splits, meta["labels"], task) == meta["fingerprint"]
    return (splits, meta) if same else None


def write_entry(folder: Path, splits: dict[str, list[Row]], meta: dict[str, Any]) -> None:
    """Write an entry whole or not at all; whatever stood there is replaced.

    Raises
    ------
    MachineError
        If the disk is full (exit status 1) or the cache cannot be written (2).
    """
    with _disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _drop_stale(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
        try:
            sizes = {}
            for name in SPLITS:
                content = [[row.inputs, row.targets] for row in splits[name]]
                sizes[name] = _write(temporary / f"{name}.json", json.dumps(content, separators=(",", ":")))
            _write(temporary / "meta.json", json.dumps({**meta, "bytes": sizes}, indent=1))
            _sync(temporary)
            if folder.exists():
                folder.rename(temporary.with_name(temporary.name + "-replaced"))
            try:
                temporary.rename(folder)
            except OSError as error:
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                    raise  # otherwise another process has just written the same content
            _sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(temporary.with_name(temporary.name + "-replaced"), ignore_errors=True)


def _write(path: Path, text: str) -> int:
    with path.open("w", encoding="ascii") as file:
        written = file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return written


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_stale(parent: Path) -> None:
    """Remove what processes that were killed while writing have left."""
    for entry in parent.glob(_TEMPORARY + "*"):
        try:
            stale = time.time() - entry.stat().st_mtime > _STALE_SECONDS
        except OSError:
            continue
        if stale:
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        advice = "free disk space" if full else "make it writable"
        problem = MachineError(
            f"prepared data cannot be written to {folder.parent}: {error.strerror or error}; "
            f"{advice}, or set store.path to another disk"
        )
        problem.exit_status = 1 if full else 2
        raise problem from error
