"""A teacher's outputs, computed once per text and kept in a file that is mapped into memory.

The file: 8 bytes of magic, the header's length (8 bytes, little endian) and SHA-256 (32 bytes), the header (JSON: what
the outputs depend on, the shapes, the SHA-256 of the body), then from the next multiple of 64 the body: logits float32
``[units, classes]`` and, if asked for, hidden states float16 ``[tokens, layers, hidden]``. A unit is a text or a token,
whichever the task judges.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.files import canonical_json, disk_errors, fsync_directory
from compress.training.distillation.losses import HIDDEN, LOGITS

if TYPE_CHECKING:
    from compress.tasks.base import Features, Task

__all__ = ["TeacherOutputs", "teacher_outputs"]

log = logging.getLogger(__name__)

_MAGIC = b"CMPTEACH"
_HEAD = struct.Struct("<8sQ32s")
_ALIGN = 64
_BATCH = 64
_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class TeacherOutputs:
    """Outputs of a teacher on tokenized rows.

    Attributes
    ----------
    logits : numpy.ndarray
        float32 ``[units, classes]``.
    hidden : numpy.ndarray or None
        float16 ``[tokens, layers, hidden]``.
    lengths : numpy.ndarray
        Tokens per row.
    per_token : bool
        Whether a unit is a token; else it is a row.
    """

    logits: np.ndarray
    hidden: np.ndarray | None
    lengths: np.ndarray
    per_token: bool

    def batch(self, rows: Sequence[int], padded: int) -> Mapping[str, np.ndarray]:
        """Return the outputs of some rows, padded with zeros: what a `compress.training.Extras` returns.

        Parameters
        ----------
        rows
            Row numbers.
        padded
            Tokens that the batch is padded to.
        """
        starts = self.starts
        classes = self.logits.shape[1]
        found: dict[str, np.ndarray] = {}
        if self.per_token:
            logits = np.zeros((len(rows), padded, classes), np.float32)
            for place, row in enumerate(rows):
                logits[place, : self.lengths[row]] = self.logits[starts[row] : starts[row + 1]]
            found[LOGITS] = logits
        else:
            found[LOGITS] = np.array(self.logits[np.asarray(rows)])
        if self.hidden is not None:
            _, layers, width = self.hidden.shape
            hidden = np.zeros((len(rows), layers, padded, width), np.float16)
            for place, row in enumerate(rows):
                hidden[place, :, : self.lengths[row]] = self.hidden[starts[row] : starts[row + 1]].swapaxes(0, 1)
            found[HIDDEN] = hidden
        return found

    @property
    def starts(self) -> np.ndarray:
        """Where each row's tokens begin among those of all rows, and last where they end: ``[rows + 1]``."""
        if "starts" not in self.__dict__:
            self.__dict__["starts"] = np.concatenate([[0], np.cumsum(self.lengths)])
        starts: np.ndarray = self.__dict__["starts"]
        return starts


def teacher_outputs(
    model: Any,
    task: Task,
    features: Features,
    padding: Mapping[str, int],
    *,
    keep_layers: Sequence[int],
    identity: Mapping[str, Any],
    cache: Path,
    device: str,
) -> TeacherOutputs:
    """Return the teacher's outputs on every row, from the file if it is there and whole.

    Parameters
    ----------
    model
        The teacher, or a function without arguments that loads it; called only if the file is not there.
    task, features, padding
        The rows, as in `compress.training.Collator`.
    keep_layers
        Layers, counted from 0, whose output is kept; empty for logits only.
    identity
        Whatever else the outputs depend on: the teacher's digest, the data's fingerprint, the length limit. The
        arithmetic (device, threads, torch's version and kernels) and the layers are added to it.
    cache
        Directory of the file; two processes that want the same outputs compute them once.
    device
        Where the teacher runs.
    """
    from filelock import FileLock

    header = _header(task, features, keep_layers, identity, device)
    name = hashlib.sha256(canonical_json(header)).hexdigest()
    folder = cache / "teacher"
    path = folder / f"{name}.bin"
    lengths = np.asarray(features.lengths)
    with disk_errors(cache):
        folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(cache), FileLock(str(folder / f"{name}.lock")):
        if not _is_whole(path, header):
            teacher = model if hasattr(model, "forward") else model()
            _compute(teacher, task, features, padding, header, path, device)
        else:
            log.info("the teacher's outputs on %d rows are reused", len(features))
    return _map(path, lengths)


def _header(
    task: Task, features: Features, keep_layers: Sequence[int], identity: Mapping[str, Any], device: str
) -> dict[str, Any]:
    import torch

    kernels = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)
    rows = hashlib.sha256()
    for row in features.inputs:
        rows.update(np.asarray(row["input_ids"], np.int64).tobytes())
        rows.update(b"|")
    return {
        "format": 1,
        "identity": dict(identity),
        "layers": [int(layer) for layer in keep_layers],
        "classes": len(task.labels),
        "task": task.name,
        "rows": len(features),
        "tokens": int(sum(features.lengths)),
        "inputs": rows.hexdigest(),
        "arithmetic": {"torch": torch.__version__, "kernels": kernels, "threads": torch.get_num_threads()},
    }


def _compute(
    model: Any,
    task: Task,
    features: Features,
    padding: Mapping[str, int],
    header: Mapping[str, Any],
    path: Path,
    device: str,
) -> None:
    """Run every row once and write the file; a killed attempt leaves only a temporary file, replaced by the next."""
    lengths = np.asarray(features.lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    logits: np.ndarray | None = None
    hidden: np.memmap[Any, Any] | np.ndarray | None = None
    per_token = False
    # The states go to a file as they come: they may exceed memory.
    states_path = path.with_suffix(".states.tmp")
    try:
        for rows, answers, states in _forward(model, task, features, padding, header["layers"], device):
            if logits is None:
                per_token = answers[0].ndim == 2
                logits = np.zeros((int(starts[-1]) if per_token else len(lengths), header["classes"]), np.float32)
            if states is not None and hidden is None:
                shape = (int(starts[-1]), len(header["layers"]), states.shape[-1])
                _reserve(states_path, 2 * int(np.prod(shape)))
                hidden = np.memmap(states_path, np.float16, "r+", shape=shape)
            for place, row in enumerate(rows):
                logits[slice(starts[row], starts[row + 1]) if per_token else row] = answers[place]
                if hidden is not None and states is not None:
                    hidden[starts[row] : starts[row + 1]] = states[place, :, : lengths[row]].swapaxes(0, 1)
        if logits is None:
            raise ValueError("a teacher needs rows to answer on")
        _write(temporary, header, logits, hidden, per_token)
        temporary.replace(path)
    finally:
        for leftover in (states_path, temporary):
            leftover.unlink(missing_ok=True)
    fsync_directory(path.parent)


def _reserve(path: Path, size: int) -> None:
    """Make a file of so many bytes; a full disk is an error here, where a write to a map would kill the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _forward(
    model: Any, task: Task, features: Features, padding: Mapping[str, int], layers: Sequence[int], device: str
) -> Any:
    """Yield ``(rows, logits per row, states [batch, layers, sequence, hidden] or None)``, each row once."""
    import torch

    from compress.console import progress_of
    from compress.training.batches import Collator, sorted_batches

    collator = Collator(task, features, padding)
    model.to(device).eval()
    with torch.inference_mode(), progress_of("teacher", total=len(features), unit="rows") as shown:
        for rows in sorted_batches(features.lengths, _BATCH):
            arrays = collator.arrays(rows, with_labels=False)
            inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
            output = model(**inputs, output_hidden_states=bool(layers))
            states = None
            if layers:
                kept = torch.stack([output.hidden_states[layer + 1] for layer in layers], dim=1)
                states = kept.float().clamp(-_HALF_MAX, _HALF_MAX).half().cpu().numpy()
            yield rows, task.unbatch(output.logits.float().cpu().numpy(), arrays), states
            shown.advance(len(rows))


def _write(
    path: Path, header: Mapping[str, Any], logits: np.ndarray, hidden: np.ndarray | None, per_token: bool
) -> None:
    parts = [np.ascontiguousarray(logits)] + ([] if hidden is None else [hidden])
    body = hashlib.sha256()
    for part in parts:
        body.update(part.reshape(-1).view(np.uint8).data)
    full = {
        **header,
        "logits_shape": list(logits.shape),
        "hidden_shape": None if hidden is None else list(hidden.shape),
        "per_token": per_token,
        "body_sha256": body.hexdigest(),
    }
    text = canonical_json(full)
    with path.open("wb") as file:
        file.write(_HEAD.pack(_MAGIC, len(text), hashlib.sha256(text).digest()))
        file.write(text)
        file.write(b"\0" * (-file.tell() % _ALIGN))
        for part in parts:
            file.write(part.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


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
    return (header, start) if size == start + _body_bytes(header) else None


def _body_bytes(header: Mapping[str, Any]) -> int:
    logits = 4 * int(np.prod(header["logits_shape"]))
    return logits + (2 * int(np.prod(header["hidden_shape"])) if header["hidden_shape"] else 0)


def _is_whole(path: Path, expected: Mapping[str, Any]) -> bool:
    found = _read_header(path)
    if found is None:
        if path.exists():
            log.warning("the kept teacher outputs %s are damaged: computed again", path.name)
        return False
    header, start = found
    if any(header.get(name) != value for name, value in json.loads(canonical_json(expected)).items()):
        return False
    body = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(1 << 20):
            body.update(block)
    if body.hexdigest() != header["body_sha256"]:
        log.warning("the kept teacher outputs %s are damaged: computed again", path.name)
        return False
    return True


def _map(path: Path, lengths: np.ndarray) -> TeacherOutputs:
    found = _read_header(path)
    if found is None:
        raise FileNotFoundError(path)
    header, start = found
    shape = tuple(header["logits_shape"])
    logits = np.memmap(path, np.float32, "r", offset=start, shape=shape)
    hidden = None
    if header["hidden_shape"]:
        after = start + logits.nbytes
        hidden = np.memmap(path, np.float16, "r", offset=after, shape=tuple(header["hidden_shape"]))
    return TeacherOutputs(logits, hidden, lengths, bool(header["per_token"]))
