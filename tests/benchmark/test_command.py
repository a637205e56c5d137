"""``python -m compress.benchmark``: artifacts of any kind side by side, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.cli.bench import main, named
from compress.errors import CheckpointError, ConfigError

LABELS = ("food", "travel", "weather")
QUICK = ["benchmark.seconds=0.5", "benchmark.launches=1", "benchmark.min_rounds=4", "benchmark.threads=1"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    words = {"food": "soup", "travel": "train", "weather": "rain"}
    lines = [f"{words[label]} near river {number},{label}" for number in range(20) for label in LABELS]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(["text,label", *lines]))
    return file


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    for place in ("one/artifact", "two/artifact", "plain"):
        (tmp_path / place).mkdir(parents=True)
    one, two, plain = (str(tmp_path / place) for place in ("one/artifact", "two/artifact", "plain"))
    assert list(named([one, two, plain])) == ["one/artifact", "two/artifact", "plain"]
    assert list(named([one, one])) == ["one/artifact", "one/artifact (2)"]
    assert named([f"small={one}", two]) == {"small": Path(one), "two/artifact": Path(two)}
    with pytest.raises(ConfigError, match="small: this name is given twice"):
        named([f"small={one}", f"small={two}"])
    with pytest.raises(CheckpointError, match="there is no such file"):
        named([str(tmp_path / "three")])


@pytest.mark.slow
def test_an_artifact_against_itself_gives_the_noise_floor(
    onnx_checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(onnx_checkpoint.path)
    out = tmp_path / "out"
    assert main([path, path, "--output", str(out), "--", "benchmark.shapes=[1x8]", *QUICK]) == 0
    record = json.loads((out / "record.json").read_text())
    assert record["baseline"] != record["candidate"]
    assert record["variants"][record["baseline"]]["metrics"] == {}
    (floor,) = record["benchmark"]["noise_floor"]
    assert floor["low"] < floor["value"] < floor["high"]
    assert "noise floor at 1x8" in capsys.readouterr().err
    assert (out / "report.html").is_file()
    assert not (out / ".benchmark").exists()


@pytest.mark.slow
def test_any_kinds_of_artifact_stand_side_by_side(
    checkpoint: Any, onnx_checkpoint: Any, model: tuple[Any, Any], rows: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    for part in model:
        part.save_pretrained(plain)
    bare = tmp_path / "bare" / "model.onnx"
    bare.parent.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(plain / name, bare.parent / name)
    shutil.copyfile(onnx_checkpoint.path / "model.onnx", bare)
    artifacts = [f"ours={checkpoint.path}", f"onnx={onnx_checkpoint.path}", f"plain={plain}", f"bare={bare}"]
    data = ["data=files", f"data.train={rows}", "benchmark.shapes=[1x8,natural]", f"store.path={tmp_path / 'store'}"]
    assert main([*artifacts, "--output", str(tmp_path / "out"), "--", *data, *QUICK]) == 0
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert list(record["variants"]) == ["ours", "onnx", "plain", "bare"]
    assert len({json.dumps(variant["metrics"]) for variant in record["variants"].values()}) == 1
    assert all(found["agreement"] == 1 for found in record["comparisons"].values())
    assert [row["sequence_length"] for row in record["variants"]["bare"]["latency"]] == [8, None]
    assert record["variants"]["bare"]["size"]["weights_bytes"] == bare.stat().st_size
    assert record["variants"]["plain"]["precision"] == "fp32"


@pytest.mark.slow
def test_a_missed_budget_is_exit_status_3(onnx_checkpoint: Any, checkpoint: Any, tmp_path: Path) -> None:
    asked = ["benchmark.shapes=[1x8]", "budget.min_size_ratio=100", *QUICK]
    arguments = [str(checkpoint.path), str(onnx_checkpoint.path), "--output", str(tmp_path / "out"), "--", *asked]
    assert main(arguments) == 3


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["finetune.epochs=3"], "finetune.epochs=3: nothing is trained here"),
        (["recipe=int8"], "recipe=int8: nothing is trained here"),
        (["benchmark.shapes=[natural]"], "natural means the lengths of real texts; add data="),
        (["benchmark.shape=[1x8]"], "did you mean benchmark.shapes?"),
        (["device=cuda"], "no such GPU here"),
        (["benchmark.provider=tensorrt"], "benchmark.provider=tensorrt: needs a GPU"),
    ],
)
def test_keys_that_cannot_be_are_refused(
    keys: list[str], message: str, onnx_checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(onnx_checkpoint.path), "--output", str(tmp_path / "out"), "--", *keys]
    assert message in refused(arguments, capsys)


def test_what_is_no_artifact_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file or directory" in refused([str(tmp_path / "nothing")], capsys)


@pytest.mark.slow
def test_other_labels_than_the_datas_are_refused(
    checkpoint: Any, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text(rows.read_text().replace("weather", "sports"))
    data = ["data=files", f"data.train={rows}", f"store.path={tmp_path / 'store'}", *QUICK]
    message = refused([str(checkpoint.path), "--output", str(tmp_path / "out"), "--", *data], capsys)
    assert "only in the data [sports], only in the model [weather]" in message


@pytest.mark.slow
def test_an_onnx_file_of_other_inputs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Identity", ["pixels"], ["out"])], "g", [value], [out])
    file = tmp_path / "image.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(file))
    message = refused([str(file), "--output", str(tmp_path / "out"), "--", *QUICK], capsys)
    assert "its inputs are pixels; needed are input_ids" in message


@pytest.mark.slow
def test_a_bare_onnx_file_reads_no_texts(
    onnx_file: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["data=files", f"data.train={rows}", f"store.path={tmp_path / 'store'}", *QUICK]
    message = refused([str(onnx_file), "--output", str(tmp_path / "out"), "--", *data], capsys)
    assert "without a config.json and a tokenizer beside it cannot read texts" in message
