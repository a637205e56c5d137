"""Writing files and directories so that they are either whole or not there, and hashing them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import CompressError, MachineError

__all__ = [
    "canonical_json",
    "disk_errors",
    "fsync_directory",
    "fsync_tree",
    "replace_tree",
    "sha256_file",
    "write_atomic",
]


_NEARLY_FULL = 1 << 20
"""Free bytes below which a failed write is put down to the disk."""


def canonical_json(value: Any) -> bytes:
    """Return the one way this project writes a value as JSON: sorted keys, two spaces, UTF-8, a last newline."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Make every file and name below a directory durable."""
    for folder, _, names in os.walk(path):
        for name in names:
            with (Path(folder) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        fsync_directory(Path(folder))


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that is never seen half-written: a temporary file beside it, synced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def replace_tree(directory: Path, target: Path) -> None:
    """Put a directory in another's place on the same disk: what was there is moved aside first, then removed.

    A reader finds the old one whole, the new one whole or, for a moment, none.
    """
    aside = None
    if target.exists():
        aside = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f"{directory.name}.old"))
        target.rename(aside / "tree")
    directory.rename(target)
    fsync_directory(target.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a disk that is full or refuses writes below `path` into a `MachineError` that says what to do.

    A refusal elsewhere, for instance of the user's data, is not blamed on `path` and passes.
    """
    try:
        yield
    except CompressError:
        raise
    except Exception as error:
        if _disk_is_full(error, path):
            failure = MachineError(
                f"no space left on the disk of {getattr(error, 'filename', None) or path}; free some, run "
                "`python -m compress.store prune`, or set store.path to a larger disk; the run goes on from the "
                "last whole step"
            )
            failure.exit_status = 1
            raise failure from error
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        if isinstance(error, OSError) and error.errno in refused and _concerns(error, path):
            raise MachineError(
                f"cannot write to {error.filename or path}: {error.strerror}; set store.path to a writable folder"
            ) from error
        raise


def _disk_is_full(error: Exception, path: Path) -> bool:
    """Whether an error comes of a full disk; libraries wrap ENOSPC, and torch's writer hides it altogether."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if "No space left on device" in str(error):
        return True
    try:
        return shutil.disk_usage(path).free < _NEARLY_FULL
    except OSError:
        return False


def _concerns(error: OSError, path: Path) -> bool:
    """Whether the file that an error names lies below `path` or on the way to it."""
    if not isinstance(error.filename, str | os.PathLike):
        return True
    named = Path(error.filename).absolute()
    return named.is_relative_to(path.absolute()) or path.absolute().is_relative_to(named)
