"""Whatever is not as it was written is refused, each with a message of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.checkpoint import MANIFEST, Checkpoint, copy_checkpoint, open_checkpoint
from compress.errors import CheckpointError
from compress.files import canonical_json


def reseal(folder: Path, **changes: Any) -> None:
    """Change a manifest as an attacker would: hashes of the files and its own digest made to agree."""
    file = folder / MANIFEST
    content = json.loads(file.read_bytes())
    del content["digest"]
    names = [name for name in content["files"] if (folder / name).is_file()]
    content["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    content.update(changes)
    content["digest"] = hashlib.sha256(canonical_json(content)).hexdigest()
    file.write_bytes(canonical_json(content))


def test_whole_checkpoint_opens_and_says_what_it_is(checkpoint: Checkpoint) -> None:
    opened = open_checkpoint(checkpoint.path)
    assert opened.manifest == checkpoint.manifest
    assert (opened.format, opened.precision, opened.layers, opened.key) == ("torch", "fp32", 2, "ab" * 32)
    assert opened.digest == hashlib.sha256((checkpoint.path / MANIFEST).read_bytes()).hexdigest()


def test_every_flipped_bit_of_every_file_is_refused(checkpoint: Checkpoint) -> None:
    for name in (*checkpoint.manifest.files, MANIFEST):
        file = checkpoint.path / name
        whole = file.read_bytes()
        for position in range(len(whole)):
            for bit in (0x01, 0x20, 0x80):
                flipped = bytearray(whole)
                flipped[position] ^= bit
                file.write_bytes(flipped)
                with pytest.raises(CheckpointError):
                    open_checkpoint(checkpoint.path)
        file.write_bytes(whole)
    open_checkpoint(checkpoint.path)


def test_every_truncation_is_refused(checkpoint: Checkpoint) -> None:
    for name in (*checkpoint.manifest.files, MANIFEST):
        file = checkpoint.path / name
        whole = file.read_bytes()
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                open_checkpoint(checkpoint.path)
        file.write_bytes(whole + b"\n")
        with pytest.raises(CheckpointError):
            open_checkpoint(checkpoint.path)
        file.write_bytes(whole)


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": 1}))
    return buffer.getvalue()


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _link(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "elsewhere.json")
    (folder / "config.json").symlink_to(folder.parent / "elsewhere.json")


def _link_folder(folder: Path) -> None:
    (folder / "vocab").rename(folder.parent / "elsewhere")
    (folder / "vocab").symlink_to(folder.parent / "elsewhere")


def _escape(folder: Path, name: str) -> None:
    (folder.parent / "outside.json").write_text("{}")
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    reseal(folder, files={**files, name: hashlib.sha256(b"{}").hexdigest()})


def _replace_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    reseal(folder)


def _onnx_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.onnx").write_bytes(pickle.dumps({"weight": 1}))
    content = json.loads((folder / MANIFEST).read_bytes())
    names = ["model.onnx", *(name for name in content["files"] if name != "model.safetensors")]
    reseal(
        folder,
        format="onnx",
        files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names},
    )


def _text(folder: Path, old: bytes, new: bytes) -> None:
    file = folder / MANIFEST
    whole = file.read_bytes()
    assert old in whole
    file.write_bytes(whole.replace(old, new, 1))


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (_cut, "is truncated"),
    "a missing file": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "no manifest": (lambda d: (d / MANIFEST).unlink(), "no checkpoint.json"),
    "an empty manifest": (lambda d: (d / MANIFEST).write_bytes(b""), "is damaged"),
    "a manifest that is a list": (lambda d: (d / MANIFEST).write_bytes(b"[]"), "expected an object"),
    "a manifest nested too deep": (lambda d: (d / MANIFEST).write_bytes(b"[" * 100_000), "is damaged"),
    "an added file": (lambda d: (d / "notes.txt").write_text("x"), "notes.txt is not listed"),
    "an added file in a folder": (lambda d: (d / "vocab" / "x.txt").write_text("x"), "vocab/x.txt is not listed"),
    "an added pytorch_model.bin": (lambda d: (d / "pytorch_model.bin").write_bytes(b""), "may hold a pickle"),
    "an added .PKL": (lambda d: (d / "state.PKL").write_bytes(b""), "may hold a pickle"),
    "an added link": (lambda d: (d / "more").symlink_to(d.parent), "more is not listed"),
    "an added pipe": (lambda d: os.mkfifo(d / "pipe"), "pipe is not listed"),
    "a listed link": (_link, "is a link"),
    "a linked folder": (_link_folder, "is not listed"),
    "a path out of the folder": (lambda d: _escape(d, "../outside.json"), "leaves the folder"),
    "an absolute path": (lambda d: _escape(d, "/etc/hostname"), "leaves the folder"),
    "a path that comes back": (lambda d: _escape(d, "vocab/../config.json"), "leaves the folder"),
    "a listed pickle": (
        lambda d: ((d / "x.pt").write_bytes(b"{}"), _escape(d, "x.pt")),
        "x.pt may hold a pickle",
    ),
    "a later version": (lambda d: reseal(d, version=2), "update the package"),
    "an impossible version": (lambda d: reseal(d, version=0), "version 0"),
    "an unknown format": (lambda d: reseal(d, format="pickle"), "is not known"),
    "a format without its weights": (lambda d: reseal(d, format="onnx"), "lists no model.onnx"),
    "a wrong own digest": (lambda d: _text(d, b'"digest": "', b'"digest": "0'), "its digest differs"),
    "other labels": (lambda d: _text(d, b"[bold]no", b"[bold]on"), "its digest differs"),
    "another layout": (lambda d: _text(d, b"\n", b"\n "), "its digest differs"),
    "a key given twice": (lambda d: _text(d, b'"layers": 2', b'"layers": 1,\n  "layers": 2'), "its digest differs"),
    "a number that is none": (lambda d: _text(d, b"1.5e-06", b"NaN"), "is damaged"),
    "a lone surrogate": (lambda d: _text(d, b"[bold]no", b"\\ud800"), "is damaged"),
    "a manifest without labels": (lambda d: _text(d, b'"labels"', b'"lables"'), "it lacks 'labels'"),
    "layers as text": (lambda d: reseal(d, layers="2"), "layers is not of the type"),
    "a max_length of true": (lambda d: reseal(d, max_length=True), "max_length is not of the type"),
    "a format that is a list": (lambda d: reseal(d, format=["torch"]), "format"),
    "a lineage of texts": (lambda d: reseal(d, lineage=["finetune"]), "is damaged"),
    "a lineage without keys": (lambda d: reseal(d, lineage=[{"name": "x"}]), "lineage is not of the type"),
    "labels that are numbers": (lambda d: reseal(d, labels=[1, 2]), "labels is not of the type"),
    "a pickle as model.safetensors": (lambda d: _replace_weights(d, pickle.dumps({"w": 1})), "not a safetensors file"),
    "a torch archive as model.safetensors": (lambda d: _replace_weights(d, _torch_zip()), "not a safetensors file"),
    "empty weights": (lambda d: _replace_weights(d, b""), "not a safetensors file"),
    "a header without offsets": (lambda d: _replace_weights(d, _header(b'{"w": {}}')), "not a safetensors file"),
    "a header with short offsets": (
        lambda d: _replace_weights(d, _header(b'{"w": {"data_offsets": [0]}}')),
        "not a safetensors file",
    ),
    "a header with text as offset": (
        lambda d: _replace_weights(d, _header(b'{"w": {"data_offsets": [0, "8"]}}')),
        "is truncated",
    ),
    "a header nested too deep": (lambda d: _replace_weights(d, _header(b"[" * 100_000)), "not a safetensors file"),
    "bytes after the last tensor": (
        lambda d: _replace_weights(d, (d / "model.safetensors").read_bytes() + b"\x80"),
        "longer than its header says",
    ),
    "a pickle as model.onnx": (_onnx_pickle, "not an ONNX model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_own_message(case: str, checkpoint: Checkpoint) -> None:
    spoil, message = REFUSED[case]
    spoil(checkpoint.path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(checkpoint.path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.exit_status == 2


def test_what_is_no_directory_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not a directory"):
        open_checkpoint(checkpoint.path / MANIFEST)


def test_copy_of_a_checkpoint_changed_since_it_was_opened_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    (checkpoint.path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        copy_checkpoint(checkpoint, tmp_path / "out" / "artifact")
    reseal(checkpoint.path)
    with pytest.raises(CheckpointError, match="was changed while it was copied"):
        copy_checkpoint(checkpoint, tmp_path / "out" / "artifact")
    assert list((tmp_path / "out").iterdir()) == []
