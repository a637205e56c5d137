"""One array in a file that is mapped into memory and never trusted unverified.

The file: 8 bytes of magic, the header's length (8 bytes, little endian) and SHA-256 (32 bytes), the header (JSON: what
the array depends on, its type and shape, the SHA-256 of the body), then from the next multiple of 64 the body.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.files import canonical_json

__all__ = ["open_array", "reserve", "write_array"]

log = logging.getLogger(__name__)

_MAGIC = b"CMPTEACH"
_HEAD = struct.Struct("<8sQ32s")
_ALIGN = 64


def reserve(path: Path, size: int) -> None:
    """Make a file of so many bytes; a full disk is an error here, where a write to a map would kill the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def write_array(path: Path, header: Mapping[str, Any], array: np.ndarray) -> None:
    """Write a file whole and to the disk; `path` is a temporary name that the caller renames.

    Parameters
    ----------
    path
        Of the file.
    header
        What the array depends on.
    array
        Contiguous; may be a map of another file.
    """
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    full = {
        **header,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "body_sha256": hashlib.sha256(flat).hexdigest(),
    }
    text = canonical_json(full)
    with path.open("wb") as file:
        file.write(_HEAD.pack(_MAGIC, len(text), hashlib.sha256(text).digest()))
        file.write(text)
        file.write(b"\0" * (-file.tell() % _ALIGN))
        file.write(flat)
        file.flush()
        os.fsync(file.fileno())


def open_array(path: Path, expected: Mapping[str, Any]) -> np.ndarray | None:
    """Return the array, mapped for reading; None if the file is absent, damaged or of another header.

    Every byte is hashed once.
    """
    found = _read_header(path)
    if found is None:
        if path.exists():
            log.warning("the kept teacher outputs %s are damaged: computed again", path.name)
        return None
    header, start = found
    if any(header.get(name) != value for name, value in json.loads(canonical_json(dict(expected))).items()):
        return None
    body = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(1 << 20):
            body.update(block)
    if body.hexdigest() != header["body_sha256"]:
        log.warning("the kept teacher outputs %s are damaged: computed again", path.name)
        return None
    return np.memmap(path, np.dtype(header["dtype"]), "r", offset=start, shape=tuple(header["shape"]))


def _read_header(path: Path) -> tuple[dict[str, Any], int] | None:
    """Return the header and where the body starts; None for a file that is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic, length, digest = _HEAD.unpack(file.read(_HEAD.size))
            if magic != _MAGIC or length > size:
                return None
            text = file.read(length)
    except (FileNotFoundError, struct.error):
        return None
    if hashlib.sha256(text).digest() != digest:
        return None
    header: dict[str, Any] = json.loads(text)
    start = _HEAD.size + length
    start += -start % _ALIGN
    body = int(np.prod(header["shape"])) * np.dtype(header["dtype"]).itemsize
    return (header, start) if size == start + body else None
