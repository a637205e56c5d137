"""``python -m compress.predict`` labels txt, csv and jsonl, and says what is wrong with a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.predict import main


@pytest.mark.parametrize(
    ("name", "content", "flags"),
    [
        ("a.txt", "soup bread\nrain\n", []),
        ("a.csv", 'id,text\n1,"soup, bread"\n2,rain\n', []),
        ("a.tsv", "body\tid\nsoup bread\t1\nrain\t2\n", ["--text", "body"]),
        ("a.jsonl", '{"text": "soup bread"}\n\n{"text": "rain"}\n', []),
        ("a.csv", "text,second\nsoup,rain\nrain,snow\n", ["--text-pair", "second"]),
    ],
)
def test_a_row_in_gives_a_line_out(
    checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, flags: list[str]
) -> None:
    (tmp_path / name).write_text(content)
    assert main([str(checkpoint.path), str(tmp_path / name), *flags]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(line) for line in lines] == [{"label", "score", "scores"}] * 2


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("absent.txt", None, [], "no such file"),
        ("a.xlsx", b"x", [], "readable are .txt"),
        ("empty.txt", b"", [], "no rows"),
        ("a.txt", b"caf\xe9\n", [], "not UTF-8 at byte 3"),
        ("a.txt", b"soup\n", ["--text-pair", "b"], "no columns"),
        ("a.csv", b"body\nsoup\n", [], "line 2: no column 'text'; there are body; choose one with --text"),
        ("a.csv", b"id,text\n1\n", [], "line 2: column 'text' holds None"),
        ("a.jsonl", b'{"text": "soup"}\n{"text": \n', [], "line 2: not JSON"),
        ("a.jsonl", b'["soup"]\n', [], "line 1: list"),
        ("a.jsonl", b'{"text": 3}\n', [], "line 1: column 'text' holds 3"),
    ],
)
def test_a_bad_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, flags: list[str], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["nowhere", str(tmp_path / name), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_a_bad_artifact_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("soup\n")
    assert main([str(tmp_path / "absent"), str(tmp_path / "a.txt")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_import_is_light_and_a_copied_folder_answers_without_store_and_network(checkpoint: Any, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(checkpoint.path, copy)
    code = f"""
import sys, time
start = time.perf_counter()
import compress
seconds = time.perf_counter() - start
heavy = [name for name in ("torch", "transformers", "numpy", "pandas", "onnx", "hydra") if name in sys.modules]
assert not heavy and seconds < 0.3, (heavy, seconds)
assert compress.__version__ and compress.errors.DataError and callable(compress.run)
import socket
def refused(*arguments, **more): raise AssertionError("network")
socket.socket.connect = refused
print(compress.load({str(copy)!r}).predict(["soup today"])[0]["label"])
try:
    compress.nothing
except AttributeError as error:
    assert "it has Run" in str(error)
else:
    raise AssertionError
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"food", "travel", "weather"}
