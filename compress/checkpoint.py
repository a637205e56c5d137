"""The directory that steps pass on: written once, described by itself, opened only if every byte is as written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from compress.errors import CheckpointError, MachineError
from compress.files import canonical_json, disk_errors, fsync_tree, replace_tree, sha256_file
from compress.weight_files import check_weights

__all__ = ["FORMATS", "MANIFEST", "VERSION", "Checkpoint", "Manifest", "Writer", "copy_checkpoint", "open_checkpoint"]

MANIFEST = "checkpoint.json"
VERSION = 1
FORMATS = {"torch": "model.safetensors", "onnx": "model.onnx", "openvino": "model.xml"}
"""Formats and the file that each must hold."""

_UNLISTED = {"README.md", "LICENSE", ".gitattributes", ".git"}
_RAW = {("openvino", "model.bin")}
"""Files that bear the ending of a pickle and are none: the numbers that OpenVINO's model.xml points into."""
_PICKLES = {".bin", ".pt", ".pth", ".th", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}


@dataclass(frozen=True)
class Manifest:
    """What checkpoint.json says.

    Attributes
    ----------
    format : str
        ``torch``, ``onnx`` or ``openvino``.
    precision : str
        ``fp32``, ``int8``, ...
    task, metric : str
        The task and its main metric.
    labels : tuple of str
        By class index.
    max_length : int
        Longest input in tokens.
    architecture : str
        ``model_type`` of the Hugging Face config.
    layers : int
        Transformer layers.
    lineage : tuple of dict
        Each step that led here: ``name``, ``kind``, ``config``, ``key``.
    files : dict
        SHA-256 of every file by its path relative to the checkpoint.
    facts : dict
        What the last step found out, e.g. how far an export is from torch.
    """

    format: str
    precision: str
    task: str
    metric: str
    labels: tuple[str, ...]
    max_length: int
    architecture: str
    layers: int
    lineage: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the bytes of checkpoint.json, its own digest included."""
        content = {
            "version": VERSION,
            "format": self.format,
            "precision": self.precision,
            "task": self.task,
            "metric": self.metric,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "architecture": self.architecture,
            "layers": self.layers,
            "lineage": [dict(entry) for entry in self.lineage],
            "files": dict(self.files),
            "facts": dict(self.facts),
        }
        content["digest"] = hashlib.sha256(canonical_json(content)).hexdigest()
        return canonical_json(content)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    manifest: Manifest

    @property
    def format(self) -> str:
        """``torch``, ``onnx`` or ``openvino``."""
        return self.manifest.format

    @property
    def precision(self) -> str:
        """``fp32``, ``int8``, ..."""
        return self.manifest.precision

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels by class index."""
        return self.manifest.labels

    @property
    def architecture(self) -> str:
        """``model_type`` of the Hugging Face config."""
        return self.manifest.architecture

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return self.manifest.layers

    @property
    def lineage(self) -> tuple[Mapping[str, Any], ...]:
        """Each step that led here."""
        return self.manifest.lineage

    @property
    def key(self) -> str:
        """Store key of the step that wrote it; empty for a checkpoint without lineage."""
        return str(self.lineage[-1]["key"]) if self.lineage else ""

    @property
    def digest(self) -> str:
        """SHA-256 of checkpoint.json, which covers every file."""
        return hashlib.sha256(self.manifest.to_bytes()).hexdigest()


class Writer:
    """Collects a new checkpoint in a directory; nothing counts until `finish`.

    Attributes
    ----------
    path : pathlib.Path
        Where to write the files.
    facts : dict
        Small deterministic facts for the manifest.
    structure : dict or None
        Written as structure.json if set.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.facts: dict[str, Any] = {}
        self.structure: dict[str, Any] | None = None

    def finish(
        self,
        *,
        format: str,
        precision: str,
        task: str,
        metric: str,
        labels: Sequence[str],
        max_length: int,
        architecture: str,
        layers: int,
        lineage: Sequence[Mapping[str, Any]] = (),
    ) -> Checkpoint:
        """Hash and sync every file, write checkpoint.json last, and return the checkpoint.

        Raises
        ------
        CheckpointError
            If the weights are missing, or a file is a link or may hold a pickle.
        """
        if self.structure is not None:
            (self.path / "structure.json").write_bytes(canonical_json(self.structure))
        names = sorted(
            file.relative_to(self.path).as_posix()
            for file in self.path.rglob("*")
            if not file.is_dir() and not _unlisted(file.relative_to(self.path))
        )
        if FORMATS.get(format) not in names:
            raise CheckpointError(
                f"{self.path}: a checkpoint of format {format!r} needs {FORMATS.get(format)}; found {names}"
            )
        manifest = Manifest(
            format,
            precision,
            task,
            metric,
            tuple(labels),
            max_length,
            architecture,
            layers,
            tuple(lineage),
            {name: sha256_file(self.path / name) for name in names},
            dict(self.facts),
        )
        _check_types(self.path, manifest)
        _check_names(self.path, manifest)
        (self.path / MANIFEST).write_bytes(manifest.to_bytes())
        fsync_tree(self.path)
        return Checkpoint(self.path, manifest)


def _hint(directory: Path) -> str:
    """Return where the checkpoint is, if a run's directory was given in its place."""
    inner = directory / "artifact"
    return f"; this is a run's directory, its model is in {inner}" if (inner / MANIFEST).is_file() else ""


def open_checkpoint(path: str | os.PathLike[str], verify: bool = True) -> Checkpoint:
    """Open a checkpoint directory.

    Parameters
    ----------
    path
        The directory.
    verify
        Whether to hash every file; without it only checkpoint.json and the names are checked.

    Raises
    ------
    CheckpointError
        If anything is missing, changed, added, of a later version or a pickle.
    """
    directory = Path(path)
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {directory} {what}; give the folder that holds {MANIFEST}")
    file = directory / MANIFEST
    if file.is_symlink() or not file.is_file():
        raise CheckpointError(
            f"checkpoint {directory} has no {MANIFEST}: it is no checkpoint of this project, or not whole"
            f"{_hint(directory)}"
        )
    manifest = _read_manifest(file)
    _check_names(directory, manifest)
    if verify:
        for name, expected in manifest.files.items():
            _check_digest(directory, name, expected)
    for name in manifest.files:
        check_weights(directory / name)
    return Checkpoint(directory, manifest)


def _read_manifest(file: Path) -> Manifest:
    try:
        raw = file.read_bytes()
        content = json.loads(raw)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; copy the checkpoint anew") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is damaged: expected an object")
    version = content.get("version")
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{file} is damaged: version {version!r}")
    if version > VERSION:
        raise CheckpointError(f"{file} has version {version}; this release reads up to {VERSION}: update the package")
    try:
        manifest = Manifest(
            **{
                name: content[name]
                for name in ("format", "precision", "task", "metric", "max_length", "architecture", "layers")
            },
            labels=tuple(content["labels"]),
            lineage=tuple(content["lineage"]),
            files=dict(content["files"]),
            facts=dict(content["facts"]),
        )
        as_written = manifest.to_bytes() == raw
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{file} is damaged: {reason}; copy the checkpoint anew") from error
    if not as_written:
        raise CheckpointError(f"{file} is not what was written (its digest differs); copy the checkpoint anew")
    _check_types(file, manifest)
    if manifest.format not in FORMATS:
        raise CheckpointError(f"{file}: format {manifest.format!r} is not known; known: {', '.join(FORMATS)}")
    if FORMATS[manifest.format] not in manifest.files:
        raise CheckpointError(f"{file} lists no {FORMATS[manifest.format]}")
    return manifest


def _check_types(file: Path, manifest: Manifest) -> None:
    """Refuse a manifest whose digest is right and whose content is not: validated once, here at the boundary."""
    texts = (manifest.format, manifest.precision, manifest.task, manifest.metric, manifest.architecture)
    entries = [[entry.get(name) for name in ("name", "kind", "key")] for entry in manifest.lineage]
    sound = {
        "format, precision, task, metric or architecture": all(isinstance(text, str) for text in texts),
        "labels": all(isinstance(label, str) for label in manifest.labels),
        "max_length": type(manifest.max_length) is int and manifest.max_length > 0,
        "layers": type(manifest.layers) is int and manifest.layers >= 0,
        "lineage": all(isinstance(value, str) for entry in entries for value in entry)
        and all(isinstance(entry.get("config"), Mapping) for entry in manifest.lineage),
        "files": all(isinstance(digest, str) and len(digest) == 64 for digest in manifest.files.values()),
    }
    for name, holds in sound.items():
        if not holds:
            raise CheckpointError(f"{file}: {name} is not of the type that checkpoint.json has there")


def _unlisted(relative: Path) -> bool:
    """Whether a file is none of those that the manifest lists: itself, and what loading never reads."""
    return relative.parts[0] in _UNLISTED or relative.as_posix() == MANIFEST


def _check_names(directory: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not name:
            raise CheckpointError(f"checkpoint {directory}: the file name {name!r} leaves the folder")
        if parts.suffix.lower() in _PICKLES and (manifest.format, name) not in _RAW:
            raise CheckpointError(f"checkpoint {directory}: {name} may hold a pickle, which is never loaded")
        file = directory / name
        if file.is_symlink():
            raise CheckpointError(f"checkpoint {directory}: {name} is a link; copy the file itself")
        if not file.is_file():
            raise CheckpointError(f"checkpoint {directory} is not whole: {name} is missing; copy it anew")
    for file in sorted(directory.rglob("*")):
        relative = file.relative_to(directory)
        if _unlisted(relative) or (file.is_dir() and not file.is_symlink()):
            continue
        if relative.as_posix() not in manifest.files:
            kind = (
                "may hold a pickle, which is never loaded"
                if file.suffix.lower() in _PICKLES
                else f"is not listed in {MANIFEST}"
            )
            raise CheckpointError(f"checkpoint {directory}: {relative.as_posix()} {kind}; remove it")


def _check_digest(directory: Path, name: str, expected: str) -> None:
    file = directory / name
    try:
        if sha256_file(file) == expected:
            return
    except OSError as error:
        raise CheckpointError(f"checkpoint {directory}: {name} cannot be read: {error.strerror}") from error
    check_weights(file)  # says more where it can: truncated, a pickle
    raise CheckpointError(f"checkpoint {directory}: {name} is not what was written (its SHA-256 differs); copy it anew")


def copy_checkpoint(source: Checkpoint, destination: Path) -> Checkpoint:
    """Make a real, verified copy of a checkpoint; `destination` appears whole or not at all.

    An earlier checkpoint at `destination` is replaced.

    Raises
    ------
    CheckpointError
        If the source is no longer what it was when it was opened.
    MachineError
        If `destination` cannot be written to, or the disk is full.
    """
    if destination.exists() and not destination.is_dir():
        raise MachineError(f"cannot copy a checkpoint to {destination}: there is a file; move it away")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(destination):
        temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
        try:
            for name in (*source.manifest.files, MANIFEST):
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    shutil.copyfile(source.path / name, target)
                except FileNotFoundError as error:
                    raise CheckpointError(f"checkpoint {source.path} is not whole: {name} is missing") from error
            if open_checkpoint(temporary).digest != source.digest:
                raise CheckpointError(f"checkpoint {source.path} was changed while it was copied; run again")
            fsync_tree(temporary)
            temporary.chmod(0o755)
            replace_tree(temporary, destination)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return Checkpoint(destination, source.manifest)
