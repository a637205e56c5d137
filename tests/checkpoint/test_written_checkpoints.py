"""Equal contents give equal bytes; a copy is whole; inspect shows and verifies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.checkpoint import MANIFEST, Checkpoint, Manifest, Writer, copy_checkpoint, open_checkpoint
from compress.errors import CheckpointError, MachineError
from compress.inspect import main as inspect

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé漢\n"'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes by its path."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def test_equal_contents_give_equal_bytes_in_any_process(make: Callable[[Path], Checkpoint], tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    conftest = Path(__file__).with_name("conftest.py")
    for seed in ("1", "2"):
        folder = tmp_path / f"seed{seed}"
        code = f"import runpy, sys, pathlib;runpy.run_path({str(conftest)!r})['write'](pathlib.Path({str(folder)!r}))"
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
        assert tree(folder) == tree(first.path)
    assert str(tmp_path) not in (first.path / MANIFEST).read_text()


@given(facts=st.dictionaries(st.text("abé", max_size=3), JSON, max_size=3), labels=st.lists(st.text(), max_size=4))
def test_manifest_serialises_one_way_whatever_the_order_of_its_facts(
    facts: dict[str, object], labels: list[str]
) -> None:
    labels = [label for label in labels if label.isprintable()]
    manifest = Manifest("torch", "fp32", "t", "m", tuple(labels), 8, "bert", 1, facts=facts)
    turned = replace(manifest, facts=dict(reversed(facts.items())))
    assert manifest.to_bytes() == turned.to_bytes()


def test_copy_is_byte_equal_and_replaces_what_was_there(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "run" / "artifact"
    target.mkdir(parents=True)
    (target / "old.bin").write_bytes(b"x")
    copied = copy_checkpoint(checkpoint, target)
    assert tree(target) == tree(checkpoint.path)
    assert open_checkpoint(target).digest == copied.digest == checkpoint.digest
    assert [path.name for path in target.parent.iterdir()] == ["artifact"]
    copy_checkpoint(open_checkpoint(target), target)
    assert tree(target) == tree(checkpoint.path)


def test_copy_onto_a_file_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "artifact").write_text("mine")
    with pytest.raises(MachineError, match="there is a file"):
        copy_checkpoint(checkpoint, tmp_path / "artifact")
    assert (tmp_path / "artifact").read_text() == "mine"


def test_model_card_and_licence_are_free_to_change(checkpoint: Checkpoint) -> None:
    for name in ("README.md", "LICENSE", ".gitattributes"):
        (checkpoint.path / name).write_text(name)
    (checkpoint.path / ".git").mkdir()
    (checkpoint.path / ".git" / "HEAD").write_text("x")
    assert open_checkpoint(checkpoint.path).digest == checkpoint.digest


def finish(out: Writer, format: str = "torch") -> Checkpoint:
    """Finish with a minimal manifest."""
    return out.finish(
        format=format,
        precision="fp32",
        task="t",
        metric="m",
        labels=["a"],
        max_length=8,
        architecture="bert",
        layers=1,
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "state.PT"])
def test_writer_refuses_a_pickle(name: str, checkpoint: Checkpoint) -> None:
    (checkpoint.path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="may hold a pickle"):
        finish(Writer(checkpoint.path))


def test_writer_refuses_a_link_and_a_format_without_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(checkpoint.path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a link"):
        finish(Writer(folder))
    with pytest.raises(CheckpointError, match=r"needs model\.onnx"):
        finish(Writer(checkpoint.path), format="onnx")


def test_inspect_shows_a_checkpoint_and_refuses_a_damaged_one(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert inspect([str(checkpoint.path)]) == 0
    shown = capsys.readouterr().out
    for part in ("[bold]no", "ja, größer", "finetune", '{"epochs": 3}', "model.safetensors", "largest_difference"):
        assert part in shown
    (checkpoint.path / "config.json").write_text("{}")
    assert inspect([str(checkpoint.path)]) == 2
    captured = capsys.readouterr()
    assert "config.json is not what was written" in captured.err
    assert captured.out == ""
