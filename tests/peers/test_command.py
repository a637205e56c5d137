"""``python -m compress.peers``: one table of ours and theirs, and what is refused before any work."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compress.cli.peers import main

QUICK = ["debug=tiny", "benchmark.seconds=0.2", "benchmark.min_rounds=4", "benchmark.max_rounds=4"]


@pytest.fixture(autouse=True)
def _nothing_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test of what is refused as soon as work begins."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr("compress.pipeline.steps.set_up", lambda *_: pytest.fail("work began"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "README.md").write_text("before\n\n<!-- results -->\nold\n<!-- end of results -->\nafter\n", "utf-8")
    return folder


def refused(own: list[str], keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*own, "--output", str(tmp_path / "out"), "--", *QUICK, *keys]) == 2
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "keys", "message"),
    [
        (["--peers", "openvin"], [], "--peers openvin: no such peer; did you mean openvino?"),
        (["--ours", "in8"], [], "--ours in8: no such recipe; did you mean int8?"),
        (["--ours", "int8", "int8"], [], "--ours int8: this name is given twice"),
        (["--ours", "a=nowhere"], [], "there is no such file or directory as nowhere"),
        (["--ours", "a=nowhere"], ["seed=0,1"], "write {seed} where their paths differ"),
        (["--peers", "none"], [], "nothing to measure beside the fine-tuned model"),
        (["--peers", "tfidf", "--ours", "tfidf=."], [], "--ours tfidf: a peer has this name"),
        ([], ["quantize.per_channel=false"], "give what it leaves as --ours NAME=PATH"),
        ([], ["seed=0,one"], "seed=0,one: needed are numbers"),
        ([], ["seed=0,0"], "each once"),
        ([], ["finetune.epoch=3"], "did you mean finetune.epochs?"),
        (["--peers", "static_embeddings"], ["task=token_classification"], "not task=token_classification"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    own: list[str], keys: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(own, keys, tmp_path, capsys)


def test_a_peer_that_was_named_needs_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "torchao" else real(name, *rest)
    )
    assert "pip install 'compress-transformers[peers]'" in refused(["--peers", "torchao_int8"], [], tmp_path, capsys)


def test_one_that_was_not_named_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.cli.peers import _chosen

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "torchao" else real(name, *rest)
    )
    peers, left_out = _chosen("all", "text_classification")
    assert "torchao_int8" not in [peer.name for peer in peers]
    assert "tfidf" in [peer.name for peer in peers]
    assert any("torchao_int8 needs the extra 'peers'" in reason for reason in left_out)


def test_a_study_without_marks_is_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "README.md").write_text("nothing", "utf-8")
    assert "needed are the lines <!-- results -->" in refused(["--study", str(study)], [], tmp_path, capsys)


def test_the_study_of_this_project_has_its_marks_and_a_row_for_each_peer(checkout: Path) -> None:
    from compress.peers import PEERS
    from compress.results.marks import marked

    text = marked(checkout / "experiments" / "peers" / "README.md")
    assert "**Question.**" in text
    assert "## Findings" in text
    assert all(f"| `{name}` |" in text for name in PEERS)


@pytest.mark.slow
def test_ours_and_theirs_stand_in_one_table(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [*QUICK, f"store.path={tmp_path / 'store'}"]
    peers = ["--peers", "onnxruntime_dynamic_int8,tfidf", "--study", str(study)]
    first = tmp_path / "first"
    assert main([*peers, "--ours", "int8", "--name", "made", "--output", str(first), "--", *keys]) == 0
    record = json.loads((first / "record.json").read_text())
    assert list(record["variants"]) == ["torch", "onnxruntime_dynamic_int8", "tfidf", "int8"]
    assert record["variants"]["tfidf"]["memory"]["held_bytes"] > 0
    assert (first / "report.html").is_file()
    table = pd.read_csv(first / "results.csv")
    assert list(table["role"]) == ["baseline", "peer", "peer", "ours"]
    assert (table["seeds"] == 1).all()
    ours = record["artifacts"]["int8"]
    monkeypatch.setattr("compress.peers.making._make", lambda *_: pytest.fail("a peer was made twice"))
    second = ["--peers", "tfidf", "--study", str(study), "--ours", f"again={ours}", "--name", "other"]
    assert main([*second, "--output", str(tmp_path / "second"), "--", *keys, "benchmark.memory=false"]) == 0
    text = (study / "README.md").read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.index("### made, 1 seed") < text.index("| **int8** |") < text.index("### other, 1 seed")
    assert "| **again** |" in text
    assert set(pd.read_csv(study / "results.csv")["data"]) == {"made", "other"}
    assert "| **again** |" in capsys.readouterr().out
    assert not list((tmp_path / "second").glob(".benchmark"))


def test_a_table_over_seeds_holds_medians_and_the_widest_interval(study: Path) -> None:
    from compress.results.peers import over_records, write_study

    records = [_record(accuracy, speedup) for accuracy, speedup in ((0.8, 2.0), (0.9, 3.0), (0.85, 4.0))]
    table = over_records(records, "made", {"torch": "torch fp32", "peer": "their INT8"})
    assert list(table["title"]) == ["torch fp32", "their INT8", "ours"]
    row = table.set_index("variant").loc["ours"]
    assert (row["test"], row["test_low"], row["test_high"]) == (0.85, 0.8, 0.9)
    assert (row["speedup.1x32"], row["speedup_low.1x32"], row["speedup_high.1x32"]) == (3.0, 1.9, 4.1)
    for _ in range(2):  # the second time its own rows go
        write_study(study, table)
    text = (study / "README.md").read_text("utf-8")
    assert "### made, 3 seeds" in text
    assert "| **ours** | 0.8500 [0.8000, 0.9000] | 1.00 (1), 3.00x [1.90, 4.10] | 1.0 | 2.0 |" in text
    assert text.count("| **ours** |") == 1


def _record(accuracy: float, speedup: float) -> dict[str, Any]:
    def variant(milliseconds: float) -> dict[str, Any]:
        return {
            "format": "onnx",
            "runtime": "onnxruntime",
            "precision": "int8",
            "metrics": {"accuracy": accuracy},
            "latency": [
                {"device": "cpu", "threads": 1, "batch_size": 1, "sequence_length": 32, "p50_ms": milliseconds}
            ],
            "memory": {"held_bytes": 2_000_000},
            "size": {"weights_bytes": 1_000_000},
        }

    ratio = {"device": "cpu", "batch_size": 1, "sequence_length": 32, "verdict": "faster"}
    compared = {"speedup": [{**ratio, "value": speedup, "low": speedup - 0.1, "high": speedup + 0.1}]}
    return {
        "metric": {"name": "accuracy", "higher_is_better": True},
        "steps": [],
        "baseline": "torch",
        "candidate": "ours",
        "variants": {"torch": variant(3.0), "peer": variant(2.0), "ours": variant(1.0)},
        "comparison": compared,
        "comparisons": {"torch": {}, "peer": compared, "ours": compared},
    }
