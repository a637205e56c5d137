"""Where checkpoints live: content-addressed, atomic, locked. ``python -m compress.store`` looks after it.

Layout below the root: ``objects/KEY`` whole checkpoints, ``tmp`` those being written, ``scratch/KEY`` what a killed
step left to go on from, ``cache`` prepared data and teacher outputs, ``locks``, ``used/KEY`` when a key was last used.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.checkpoint import Checkpoint, Writer, open_checkpoint
from compress.errors import CheckpointError, CompressError, MachineError
from compress.files import disk_errors, replace_tree

__all__ = ["Entry", "Store", "default_path", "main"]

log = logging.getLogger(__name__)

_STALE_SECONDS = 7 * 86_400
"""Age from which a killed step's resume state is no longer kept."""


def default_path() -> Path:
    """Return the per-user store: ``$XDG_CACHE_HOME/compress`` or ``~/.cache/compress``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compress"


@dataclass(frozen=True)
class Entry:
    """One checkpoint of the store: its key, path, bytes on disk and when it was last used (seconds since the epoch)."""

    key: str
    path: Path
    bytes: int
    used: float


class Store:
    """A directory of checkpoints by key.

    Parameters
    ----------
    path
        The root; None for the per-user default.
    max_bytes
        Bound that `prune` keeps to; None for no bound.
    readonly
        Open without creating or changing anything.

    Raises
    ------
    MachineError
        If the root cannot be written to.
    """

    def __init__(self, path: Path | None = None, max_bytes: int | None = None, *, readonly: bool = False) -> None:
        self.path = (path or default_path()).expanduser().absolute()
        self.max_bytes = max_bytes
        self.readonly = readonly
        self._held: set[tuple[int, int, str]] = set()
        if readonly:
            return
        try:
            with disk_errors(self.path):
                for name in ("objects", "tmp", "scratch", "cache", "locks", "used"):
                    (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(
                f"cannot make the store at {self.path}: {error.strerror}; set store.path to a writable folder"
            ) from error
        if not os.access(self.path / "objects", os.W_OK):
            raise MachineError(f"cannot write to the store at {self.path}; set store.path to a writable folder")
        self._remove_abandoned("tmp")

    @property
    def cache(self) -> Path:
        """Directory of what all steps share."""
        return self.path / "cache"

    def contains(self, key: str) -> bool:
        """Whether a whole checkpoint lies under the key (not verified)."""
        return (self.path / "objects" / key / "checkpoint.json").is_file()

    def get(self, key: str) -> Checkpoint | None:
        """Return the verified checkpoint of a key; a damaged one is thrown away with a warning and counts as absent."""
        checkpoint, fault = self._open(key)
        if fault is not None and not self.readonly:
            with self.lock(key):  # another process may have put a sound one there, or be about to
                checkpoint, fault = self._open(key)
                if fault is not None:
                    log.warning("the store's checkpoint is damaged and will be made again: %s", fault)
                    self._discard(key)
        if checkpoint is not None and not self.readonly:
            self.touch(key)
        return checkpoint

    def _open(self, key: str) -> tuple[Checkpoint | None, CheckpointError | None]:
        directory = self.path / "objects" / key
        if not directory.exists():
            return None, None
        try:
            return open_checkpoint(directory), None
        except CheckpointError as error:
            return None, error

    def _discard(self, key: str) -> None:
        """Remove a checkpoint under its lock; it is moved away first, so that no half of it is ever seen."""
        with disk_errors(self.path), contextlib.suppress(FileNotFoundError):
            aside = Path(tempfile.mkdtemp(dir=self.path / "tmp", prefix=f"{key}."))
            (self.path / "objects" / key).rename(aside / "tree")
            shutil.rmtree(aside, ignore_errors=True)
        (self.path / "used" / key).unlink(missing_ok=True)

    def touch(self, key: str) -> None:
        """Note that a key was used now."""
        with disk_errors(self.path):
            (self.path / "used" / key).touch()

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold a key for this process; a second one waits and says so. The system frees it if the holder dies.

        The thread that holds a key through this store may take it again.
        """
        from filelock import FileLock, Timeout

        holder = (os.getpid(), threading.get_ident(), key)
        if holder in self._held:
            yield
            return
        with disk_errors(self.path):
            lock = FileLock(self.path / "locks" / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("another process is at the same step; waiting for its result")
                lock.acquire()
        self._held.add(holder)
        try:
            yield
        finally:
            self._held.discard(holder)
            lock.release()

    @contextlib.contextmanager
    def _lock_if_free(self, key: str) -> Iterator[bool]:
        """Hold a key if nobody does, this process included; yields whether it is held now."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / "locks" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextlib.contextmanager
    def building(self, key: str) -> Iterator[Writer]:
        """Write a checkpoint in a temporary directory that takes its place under the key only when it is whole.

        Takes `lock` where it is not held yet. The body must call ``finish`` on the writer.

        Raises
        ------
        MachineError
            If the disk is full (exit status 1) or refuses the write.
        CheckpointError
            If the body did not finish the checkpoint.
        """
        with self.lock(key), disk_errors(self.path):
            for stale in (self.path / "tmp").glob(f"{key}.*"):
                shutil.rmtree(stale, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=self.path / "tmp", prefix=f"{key}."))
            try:
                yield Writer(temporary)
                open_checkpoint(temporary, verify=False)
                replace_tree(temporary, self.path / "objects" / key)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        self.touch(key)

    def scratch(self, key: str) -> Path:
        """Return the directory of a step's resume state, made if need be."""
        path = self.path / "scratch" / key
        with disk_errors(self.path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def drop_scratch(self, key: str) -> None:
        """Remove a step's resume state."""
        shutil.rmtree(self.path / "scratch" / key, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """Return every checkpoint, the least recently used first."""
        found = []
        for path in sorted((self.path / "objects").glob("*")):
            used = _modified(self.path / "used" / path.name) or _modified(path)
            found.append(Entry(path.name, path, _bytes_below(path), used))
        return sorted(found, key=lambda entry: (entry.used, entry.key))

    def prune(self, max_bytes: int | None, keep: Collection[str] = ()) -> list[str]:
        """Remove what is stale and then the least recently used, until at most `max_bytes` are left.

        Parameters
        ----------
        max_bytes
            Bytes to keep to, shared caches included; None removes only what is stale.
        keep
            Keys that stay in any case, as those do that a process is working on.

        Returns
        -------
        list of str
            Keys removed.
        """
        self._remove_abandoned("tmp")
        self._remove_abandoned("scratch", keep, older_than=_STALE_SECONDS)
        if max_bytes is None:
            return []
        entries = self.entries()
        caches = sorted(self.cache.glob("*/*"), key=_modified)
        total = sum(entry.bytes for entry in entries) + sum(_bytes_below(path) for path in caches)
        removed = []
        for entry in entries:
            if total <= max_bytes:
                break
            if entry.key in keep:
                continue
            with self._lock_if_free(entry.key) as free:
                if not free:
                    continue
                self._discard(entry.key)
            total -= entry.bytes
            removed.append(entry.key)
        for path in caches:
            if total <= max_bytes:
                break
            total -= _bytes_below(path)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return removed

    def _remove_abandoned(self, folder: str, keep: Collection[str] = (), older_than: float = 0.0) -> None:
        """Remove what dead processes left in ``tmp`` or ``scratch``: old enough, and its key held by nobody."""
        for path in (self.path / folder).glob("*"):
            key = path.name.partition(".")[0]
            if key in keep or time.time() - _modified(path) < older_than:
                continue
            with self._lock_if_free(key) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)

    def verify(self) -> dict[str, str]:
        """Hash every checkpoint; returns the fault of each that is damaged, by key."""
        faults = {}
        for entry in self.entries():
            try:
                open_checkpoint(entry.path)
            except CheckpointError as error:
                faults[entry.key] = str(error)
        return faults


def _modified(path: Path) -> float:
    """Return when a path last changed, in seconds since the epoch; 0 for one that another process removed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _bytes_below(path: Path) -> int:
    """Return the bytes of a file or of all files below a directory; what vanishes meanwhile counts nothing."""
    total = 0
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            if file.is_file():
                total += file.stat().st_size
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m compress.store list|verify|prune``; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m compress.store", description="Look after the store of checkpoints."
    )
    parser.add_argument("action", choices=["list", "verify", "prune"])
    parser.add_argument("--path", type=Path, help="the store (default: the per-user cache)")
    parser.add_argument("--max-bytes", type=int, help="prune: keep to this size (default: remove only what is stale)")
    given = parser.parse_args(arguments)
    if given.max_bytes is not None and given.max_bytes < 0:
        parser.error("--max-bytes must not be negative")
    root = given.path or default_path()
    if not (root / "objects").is_dir():
        print(f"error: {root} is no store; give --path", file=sys.stderr)
        return 2
    try:
        store = Store(root)
        if given.action == "list":
            _print_entries(store)
        elif given.action == "prune":
            removed = store.prune(given.max_bytes)
            left = sum(entry.bytes for entry in store.entries()) / 1e6
            print(f"removed {len(removed)} checkpoints; {left:.1f} MB left in {root}")
        else:
            faults = store.verify()
            for key, fault in faults.items():
                print(f"{key}: {fault}")
            print(f"{len(store.entries())} checkpoints, {len(faults)} damaged")
            return 1 if faults else 0
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _print_entries(store: Store) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "steps", "format", "MB", "last used", title=str(store.path))
    for entry in store.entries():
        try:
            manifest = open_checkpoint(entry.path, verify=False).manifest
            steps, form = (
                " → ".join(str(step["name"]) for step in manifest.lineage),
                f"{manifest.format} {manifest.precision}",
            )
        except CheckpointError:
            steps, form = "damaged", "-"
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        table.add_row(entry.key[:16], steps, form, f"{entry.bytes / 1e6:.1f}", used)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
