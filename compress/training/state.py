"""What a killed training needs to go on: written whole or not at all, and never trusted unverified.

The directory holds

    state-<update>/        model, optimizer, scheduler, random generators; counts once complete.json is there
    best-<epoch>.safetensors
    finished.json          what the training found, once it is over
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from compress.files import canonical_json, fsync_directory, fsync_tree, sha256_file, write_atomic

if TYPE_CHECKING:
    import torch

__all__ = ["TrainingState"]

log = logging.getLogger(__name__)

_MARKER = "complete.json"
_FINISHED = "finished.json"


class TrainingState:
    """The resume state of one training, in a directory of its own.

    Parameters
    ----------
    directory
        Private to this training; made if absent.
    facts
        What the state depends on (rows, epochs, batch size, seed, ...): a state left behind by another
        training is discarded.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        self.directory = directory
        self.facts = json.loads(json.dumps(dict(facts)))
        directory.mkdir(parents=True, exist_ok=True)

    # --- whole trainings -------------------------------------------------------------------------

    def finished(self) -> dict[str, Any] | None:
        """Return what `finish` was given, if the training is over and its best weights are whole."""
        found = _read_json(self.directory / _FINISHED)
        if found is None or found.get("facts") != self.facts:
            return None
        progress: dict[str, Any] = found["progress"]
        return progress if self._best_is_whole(progress) else None

    def finish(self, progress: Mapping[str, Any]) -> None:
        """Keep what the training found; from now on it is over."""
        _write_json(self.directory / _FINISHED, {"facts": self.facts, "progress": dict(progress)})

    # --- states on the way -----------------------------------------------------------------------

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest whole state and its progress; delete the half-written and the broken."""
        for leftover in self.directory.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
        found: tuple[Path, dict[str, Any]] | None = None
        for path in sorted(self.directory.glob("state-*"), key=_update, reverse=True):
            marker = _read_json(path / _MARKER) if found is None else None
            if marker is not None and marker.get("facts") == self.facts and self._is_whole(path, marker):
                found = path, marker["progress"]
                continue
            if found is None and marker is not None:
                log.warning("the training state %s is damaged or of another training: discarded", path.name)
            shutil.rmtree(path)
        return found

    def saving(self, needed: int) -> AbstractContextManager[None]:
        """Return a context in which a full disk is an OSError; `needed` is about what will be written, in bytes."""
        return _full_disk_is_an_os_error(self.directory, 2 * needed)

    def begin(self, update: int) -> Path:
        """Return an empty directory for the state after so many updates."""
        path = self.directory / f"state-{update}"
        if path.exists():
            shutil.rmtree(path)
        path.mkdir()
        return path

    def complete(self, path: Path, progress: Mapping[str, Any]) -> None:
        """Make a written state count, then delete older states and best weights it does not name."""
        files = {}
        for file in sorted(path.iterdir()):
            files[file.name] = sha256_file(file)
        fsync_tree(path)
        _write_json(path / _MARKER, {"facts": self.facts, "files": files, "progress": dict(progress)})
        fsync_directory(self.directory)
        for other in self.directory.glob("state-*"):
            if other != path:
                shutil.rmtree(other)
        self._drop_other_best(progress)

    # --- best weights ----------------------------------------------------------------------------

    def write_best(self, epoch: int, weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """Keep the weights of an epoch; returns the file's name and hash, to be part of the progress."""
        from safetensors.torch import save_file

        path = self.directory / f"best-{epoch}.safetensors"
        temporary = path.with_suffix(".tmp")
        # Cloned, for safetensors refuses tensors that share memory.
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        with _full_disk_is_an_os_error(self.directory, 2 * sum(tensor.nbytes for tensor in kept.values())):
            save_file(kept, temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        digest = sha256_file(temporary)
        temporary.replace(path)
        fsync_directory(self.directory)
        return {"file": path.name, "sha256": digest}

    def read_best(self, best: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the best weights on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.directory / str(best["file"]))

    def _drop_other_best(self, progress: Mapping[str, Any]) -> None:
        keep = (progress.get("best") or {}).get("file")
        for path in self.directory.glob("best-*.safetensors"):
            if path.name != keep:
                path.unlink()

    def _best_is_whole(self, progress: Mapping[str, Any]) -> bool:
        best = progress.get("best")
        if best is None:
            return True
        path = self.directory / best["file"]
        return path.is_file() and sha256_file(path) == str(best["sha256"])

    def _is_whole(self, path: Path, marker: Mapping[str, Any]) -> bool:
        files: dict[str, str] = marker["files"]
        present = {file.name for file in path.iterdir()} - {_MARKER}
        if present != set(files) or any(sha256_file(path / name) != digest for name, digest in files.items()):
            return False
        return self._best_is_whole(marker["progress"])


def _update(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s cannot be read: ignored", path)
        return None
    return found if isinstance(found, dict) else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, canonical_json(dict(content)))


@contextmanager
def _full_disk_is_an_os_error(directory: Path, needed: int) -> Iterator[None]:
    """Raise ENOSPC where torch and safetensors raise errors of their own for it, which say nothing of a disk."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(directory).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error
        raise
