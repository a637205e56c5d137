"""A checkpoint opens only if every byte is as written."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from compress.checkpoint import MANIFEST, Checkpoint, Writer, copy_checkpoint, open_checkpoint
from compress.errors import CheckpointError
from compress.files import canonical_json


def write(directory: Path) -> Checkpoint:
    directory.mkdir(parents=True)
    out = Writer(directory)
    save_file({"weight": np.arange(6, dtype=np.float32)}, str(directory / "model.safetensors"))
    (directory / "config.json").write_text('{"model_type": "bert"}')
    out.structure = {"layers": 2}
    return out.finish(
        format="torch",
        precision="fp32",
        task="text_classification",
        metric="accuracy",
        labels=("bad", "good"),
        max_length=8,
        architecture="bert",
        layers=2,
        lineage=({"name": "finetune", "kind": "finetune", "config": {}, "key": "k"},),
    )


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "whole").path


def test_it_opens_as_written_also_beside_a_model_card(whole: Path) -> None:
    (whole / "README.md").write_text("anything")
    opened = open_checkpoint(whole)
    assert opened.labels == ("bad", "good")
    assert opened.key == "k"
    assert set(opened.manifest.files) == {"config.json", "model.safetensors", "structure.json"}


def test_equal_work_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert (one.path / MANIFEST).read_bytes() == (two.path / MANIFEST).read_bytes()
    assert str(tmp_path) not in (one.path / MANIFEST).read_text()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), which=st.integers(0, 3))
def test_a_flipped_byte_anywhere_is_refused(whole: Path, position: float, flip: int, which: int) -> None:
    file = sorted(path for path in whole.iterdir() if path.name != "README.md")[which]
    original = file.read_bytes()
    changed = bytearray(original)
    changed[int(position * len(changed))] ^= flip
    file.write_bytes(bytes(changed))
    try:
        with pytest.raises(CheckpointError):
            open_checkpoint(whole)
    finally:
        file.write_bytes(original)
    open_checkpoint(whole)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def add_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def add_file(folder: Path) -> None:
    (folder / "modeling.py").write_text("print()")


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"")


def list_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"[]\n")


def forge(folder: Path, **changes: object) -> None:
    """Change the manifest and make its digest right again."""
    content = {**json.loads((folder / MANIFEST).read_text()), **changes}
    content.pop("digest")
    content["digest"] = hashlib.sha256(canonical_json(content)).hexdigest()
    (folder / MANIFEST).write_bytes(canonical_json(content))


def from_the_future(folder: Path) -> None:
    forge(folder, version=99)


def unknown_format(folder: Path) -> None:
    forge(folder, format="tensorflow")


def leaves_the_folder(folder: Path) -> None:
    forge(folder, files={"../secret": "0" * 64, "model.safetensors": "0" * 64})


def lists_a_pickle(folder: Path) -> None:
    add_pickle(folder)
    digest = hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    files = json.loads((folder / MANIFEST).read_text())["files"]
    forge(folder, files={**files, "pytorch_model.bin": digest})


def pickle_in_place_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": list(range(50))}))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    files = json.loads((folder / MANIFEST).read_text())["files"]
    forge(folder, files={**files, "model.safetensors": digest})


def link_in_place_of_weights(folder: Path) -> None:
    kept = folder.parent / "elsewhere.safetensors"
    shutil.move(folder / "model.safetensors", kept)
    (folder / "model.safetensors").symlink_to(kept)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove_weights, "model.safetensors is missing"),
        (truncate_weights, "truncated"),
        (add_pickle, "never loaded"),
        (add_file, "not listed"),
        (remove_manifest, "no checkpoint.json"),
        (empty_manifest, "damaged"),
        (list_manifest, "damaged"),
        (from_the_future, "version 99"),
        (unknown_format, "not known"),
        (leaves_the_folder, "leaves the folder"),
        (lists_a_pickle, "never loaded"),
        (pickle_in_place_of_weights, "not a safetensors file"),
        (link_in_place_of_weights, "is a link"),
    ],
)
def test_harm_is_refused_with_its_own_message(whole: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(whole)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(whole)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(("place", "message"), [("nowhere", "does not exist"), ("file", "not a directory")])
def test_a_wrong_path_is_refused(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / place)


def test_a_copy_is_real_and_replaces_an_earlier_one(whole: Path, tmp_path: Path) -> None:
    first = copy_checkpoint(open_checkpoint(whole), tmp_path / "copy")
    second = copy_checkpoint(first, tmp_path / "copy2")
    copy_checkpoint(open_checkpoint(whole), tmp_path / "copy")
    shutil.rmtree(whole)
    assert open_checkpoint(second.path).digest == first.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "copy2"]
