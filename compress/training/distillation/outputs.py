"""A teacher's outputs, computed once per text and kept in files that are mapped into memory.

A file for the logits, float32 ``[units, classes]``, and one for each part of the teacher's inside that a loss asks for,
float16 ``[tokens, width]``: a job that asks for other parts computes only those. A unit is a text or a token, whichever
the task judges.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.files import canonical_json, disk_errors, fsync_directory
from compress.training.distillation.arrays import open_array, reserve, write_array
from compress.training.distillation.entries import LOGITS, part_name
from compress.training.distillation.inside import Part, Probe, width_of

if TYPE_CHECKING:
    from compress.tasks.base import Features, Task

__all__ = ["TeacherOutputs", "teacher_outputs"]

log = logging.getLogger(__name__)

_BATCH = 64
_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class TeacherOutputs:
    """Outputs of a teacher on tokenized rows.

    Attributes
    ----------
    logits : numpy.ndarray
        float32 ``[units, classes]``.
    parts : mapping of Part to numpy.ndarray
        float16 ``[tokens, width]`` of each.
    lengths : numpy.ndarray
        Tokens per row.
    per_token : bool
        Whether a unit is a token; else it is a row.
    """

    logits: np.ndarray
    parts: Mapping[Part, np.ndarray]
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
        found: dict[str, np.ndarray] = {}

        def padded_tokens(array: np.ndarray) -> np.ndarray:
            values = np.zeros((len(rows), padded, array.shape[1]), array.dtype)
            for place, row in enumerate(rows):
                values[place, : self.lengths[row]] = array[starts[row] : starts[row + 1]]
            return values

        found[LOGITS] = padded_tokens(self.logits) if self.per_token else np.array(self.logits[np.asarray(rows, int)])
        for part, array in self.parts.items():
            found[part_name(part)] = padded_tokens(array)
        return found

    def row(self, number: int) -> np.ndarray:
        """Return the logits of a row: ``[classes]`` or ``[tokens, classes]``."""
        place = slice(self.starts[number], self.starts[number + 1]) if self.per_token else number
        logits: np.ndarray = self.logits[place]
        return logits

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
    parts: Sequence[Part],
    identity: Mapping[str, Any],
    cache: Path,
    device: str,
    most_bytes: float = float("inf"),
) -> TeacherOutputs | None:
    """Return the teacher's outputs on every row, from the files where they are there and whole.

    Parameters
    ----------
    model
        The teacher, or a function without arguments that loads it; called only if a file is not there.
    task, features, padding
        The rows, as in `compress.training.Collator`.
    parts
        What of its inside is kept; empty for logits only.
    identity
        Whatever else the outputs depend on: the teacher's digest, the data's fingerprint, the length limit. The
        arithmetic (device, threads, torch's version and kernels) is added to it.
    cache
        Directory of the files; two processes that want the same outputs compute them once.
    device
        Where the teacher runs.
    most_bytes
        Of all parts together.

    Returns
    -------
    TeacherOutputs or None
        None where the parts would be more than `most_bytes`: nothing is computed then.
    """
    from filelock import FileLock

    header = _header(task, features, identity, device)
    folder = cache / "teacher" / hashlib.sha256(canonical_json(header)).hexdigest()
    names: list[Part | None] = [None, *parts]
    with disk_errors(cache):
        folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(cache), FileLock(str(folder / "lock")):
        found = {part: open_array(_path(folder, part), _with_part(header, part)) for part in names}
        missing = [part for part in names if found[part] is None]
        if missing:
            teacher = (model if hasattr(model, "forward") else model()).to(device).eval()
            wanted = [part for part in missing if part is not None]
            if _bytes(teacher, features, parts) > most_bytes:
                return None
            _compute(teacher, task, features, padding, header, folder, wanted, device, logits=None in missing)
            found |= {part: open_array(_path(folder, part), _with_part(header, part)) for part in missing}
        else:
            log.info("the teacher's outputs on %d rows are reused", len(features))
    logits = found.pop(None)
    whole = {part: array for part, array in found.items() if part is not None and array is not None}
    if logits is None or len(whole) != len(set(parts)):
        raise FileNotFoundError(f"{folder}: the teacher's outputs were removed while they were read")
    return TeacherOutputs(logits, whole, np.asarray(features.lengths), bool(task.unit_is_token))


def _path(folder: Path, part: Part | None) -> Path:
    return folder / f"{'logits' if part is None else f'{part[0]}{part[1]}'}.bin"


def _with_part(header: Mapping[str, Any], part: Part | None) -> dict[str, Any]:
    return {**header, "part": None if part is None else list(part)}


def _header(task: Task, features: Features, identity: Mapping[str, Any], device: str) -> dict[str, Any]:
    import torch

    kernels = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)
    rows = hashlib.sha256()
    for row in features.inputs:
        rows.update(np.asarray(row["input_ids"], np.int64).tobytes())
        rows.update(b"|")
    return {
        "format": 2,
        "identity": dict(identity),
        "classes": len(task.labels),
        "task": task.name,
        "rows": len(features),
        "tokens": int(sum(features.lengths)),
        "inputs": rows.hexdigest(),
        "arithmetic": {"torch": torch.__version__, "kernels": kernels, "threads": torch.get_num_threads()},
    }


def _bytes(model: Any, features: Features, parts: Sequence[Part]) -> int:
    """Return the size of all parts."""
    return 2 * sum(features.lengths) * sum(width_of(model, part) for part in parts)


def _compute(
    model: Any,
    task: Task,
    features: Features,
    padding: Mapping[str, int],
    header: Mapping[str, Any],
    folder: Path,
    parts: Sequence[Part],
    device: str,
    *,
    logits: bool,
) -> None:
    """Run every row once and write the files; a killed attempt leaves temporary files, replaced by the next."""
    from compress.console import progress_of
    from compress.training.batches import sorted_batches

    lengths = np.asarray(features.lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    units = int(starts[-1]) if task.unit_is_token else len(lengths)
    answered = np.zeros((units, header["classes"]), np.float32)
    # Parts go to files as they come: they may exceed memory.
    maps: dict[Part, np.ndarray] = {}
    with ExitStack() as leftovers, progress_of("teacher", total=len(features), unit="rows") as shown:
        batches = sorted_batches(features.lengths, _BATCH)
        for rows, answers, states in _forward(model, task, features, padding, parts, device, batches):
            for part, values in states.items():
                if part not in maps:
                    raw = _path(folder, part).with_suffix(".raw")
                    leftovers.callback(raw.unlink, missing_ok=True)
                    shape = (int(starts[-1]), values.shape[-1])
                    reserve(raw, 2 * int(np.prod(shape)))
                    maps[part] = np.memmap(raw, np.float16, "r+", shape=shape)
                for place, row in enumerate(rows):
                    maps[part][starts[row] : starts[row + 1]] = values[place, : lengths[row]]
            for place, row in enumerate(rows):
                answered[slice(starts[row], starts[row + 1]) if task.unit_is_token else row] = answers[place]
            shown.advance(len(rows))
        for name, array in [*maps.items(), *([(None, answered)] if logits else [])]:
            temporary = _path(folder, name).with_suffix(".tmp")
            leftovers.callback(temporary.unlink, missing_ok=True)
            write_array(temporary, _with_part(header, name), array)
            temporary.replace(_path(folder, name))
    fsync_directory(folder)


def _forward(
    model: Any,
    task: Task,
    features: Features,
    padding: Mapping[str, int],
    parts: Sequence[Part],
    device: str,
    batches: Sequence[Sequence[int]],
) -> Iterator[tuple[Sequence[int], list[np.ndarray], dict[Part, np.ndarray]]]:
    """Yield ``(rows, logits per row, part -> float16 [batch, sequence, width])``."""
    import torch

    from compress.training.batches import Collator

    collator = Collator(task, features, padding)
    probe = Probe(model, parts)
    try:
        for rows in batches:
            arrays = collator.arrays(rows, with_labels=False)
            inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
            with torch.inference_mode():
                logits, inside = probe(model, inputs)
                states = {
                    part: values.float().clamp(-_HALF_MAX, _HALF_MAX).half().cpu().numpy()
                    for part, values in inside.items()
                }
            yield rows, task.unbatch(logits.cpu().numpy(), arrays), states
    finally:
        probe.close()
