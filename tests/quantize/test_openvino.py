"""OpenVINO INT8: integers where it says so, one file for every shape, the same bytes and the same logits again."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.benchmark.devices import measuring_device
from compress.checkpoint import open_checkpoint
from compress.config.quantization import OpenVINOQuantization
from compress.errors import CheckpointError, ConfigError, DataError, StepError, UnsupportedError
from compress.steps.base import SourceFacts
from compress.steps.registry import step_for

INSTALLED = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))
needs_extra = pytest.mark.skipif(not INSTALLED, reason="needs the extra openvino")

QUICK = OpenVINOQuantization(max_metric_drop=None, calibration_rows=8)
FP32 = SourceFacts("onnx", "fp32", "bert", 2)


def batch(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(5, 24, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def close(expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether integers compute about the same: a model of random weights magnifies what is rounded."""
    return float(np.corrcoef(expected.ravel(), found.ravel())[0, 1]) > 0.9


# --- what is refused, with or without the extra -------------------------------------------------


def test_a_missing_extra_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"needs the extra 'openvino'.*pip install 'compress-transformers\[open"):
        step_for(OpenVINOQuantization).check(OpenVINOQuantization(), FP32)


def test_a_missing_extra_ends_a_job_before_its_data_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress.cli.app import main

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name in ("openvino", "nncf") else real(name, *rest)
    )
    monkeypatch.setattr("compress.data.prepare", lambda *_: pytest.fail("data was read"))
    line = ["recipe=openvino_int8", "debug=tiny", f"store.path={tmp_path / 'store'}"]
    assert main([*line, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    assert "quantize=openvino needs the extra 'openvino'" in capsys.readouterr().err


def test_quantizing_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="this one is int8"):
        step_for(OpenVINOQuantization).check(OpenVINOQuantization(), SourceFacts("onnx", "int8", "bert", 2))


def test_the_format_alone_stays_fp32() -> None:
    step = step_for(OpenVINOQuantization)
    after = step.after(OpenVINOQuantization(weights="fp32"), FP32)
    assert (after.format, after.precision) == ("openvino", "fp32")
    assert step.after(OpenVINOQuantization(), FP32).precision == "int8"


def test_openvino_is_measured_on_the_cpu_and_a_gpu_asked_for_is_refused() -> None:
    variants = [("torch", "fp32"), ("openvino", "int8")]
    assert measuring_device("cpu", "cpu", "auto", variants) == ("cpu", None)
    device, note = measuring_device("auto", "cuda", "auto", variants)
    assert (device, note) == ("cpu", "measured on the CPU: OpenVINO does not run on CUDA")
    with pytest.raises(UnsupportedError, match="device=cuda: OpenVINO does not run on CUDA"):
        measuring_device("cuda", "cuda", "auto", variants)


def write_openvino(folder: Path, model: bytes, weights: bytes) -> None:
    from compress.checkpoint import Writer

    folder.mkdir()
    (folder / "model.xml").write_bytes(model)
    (folder / "model.bin").write_bytes(weights)
    Writer(folder).finish(
        format="openvino",
        precision="int8",
        task="text_classification",
        metric="accuracy",
        labels=["a", "b"],
        max_length=8,
        architecture="bert",
        layers=1,
    )


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    good, numbers = b'<?xml version="1.0"?>\n<net name="main" version="11"></net>', bytes(64)
    write_openvino(tmp_path / "whole", good, numbers)
    assert open_checkpoint(tmp_path / "whole").format == "openvino"
    for protocol in (2, 4, 5):
        write_openvino(tmp_path / f"{protocol}", good, pickle.dumps({"weight": [1.0]}, protocol))
        with pytest.raises(CheckpointError, match=r"model\.bin holds a pickle"):
            open_checkpoint(tmp_path / f"{protocol}")
    write_openvino(tmp_path / "other", b"<html></html>", numbers)
    with pytest.raises(CheckpointError, match=r"model\.xml is not a model of OpenVINO"):
        open_checkpoint(tmp_path / "other")


def test_a_file_of_another_name_is_still_taken_for_a_pickle(tmp_path: Path) -> None:
    write_openvino(tmp_path / "whole", b'<?xml version="1.0"?><net></net>', bytes(8))
    (tmp_path / "whole" / "pytorch_model.bin").write_bytes(bytes(8))
    with pytest.raises(CheckpointError, match="may hold a pickle"):
        open_checkpoint(tmp_path / "whole")


# --- what it leaves -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dense(made: Callable[[str, bool], tuple[Any, Any]]) -> Any:
    """Return an exported classifier."""
    return made("text_classification", False)[0]


@pytest.fixture(scope="session")
def quantized(
    made: Callable[[str, bool], tuple[Any, Any]], left: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Return the INT8 checkpoint of `dense`."""
    return left(*made("text_classification", False), QUICK, tmp_path_factory.mktemp("openvino") / "int8")


@needs_extra
@pytest.mark.slow
def test_a_file_of_openvino_that_is_no_checkpoint_opens_beside_its_config(quantized: Any, tmp_path: Path) -> None:
    from compress.benchmark.size import size_of
    from compress.runtime import open_predictor

    for file in quantized.path.iterdir():
        name = file.name.replace("model.", "openvino_model.") if file.suffix in (".xml", ".bin") else file.name
        if file.name != "checkpoint.json":
            shutil.copyfile(file, tmp_path / name)
    path = tmp_path / "openvino_model.xml"
    with open_predictor(quantized.path, threads=1) as expected, open_predictor(path, threads=1) as found:
        assert found.task is not None
        np.testing.assert_array_equal(found.logits(batch(3, 9)), expected.logits(batch(3, 9)))
    sizes = size_of(path, "openvino")
    assert sizes["weights_bytes"] == sum((tmp_path / f"openvino_model{end}").stat().st_size for end in (".xml", ".bin"))
    assert sizes["parameters"] == size_of(quantized.path, "openvino")["parameters"]


@needs_extra
@pytest.mark.slow
def test_products_run_in_integer_kernels_and_the_head_does_not(quantized: Any) -> None:
    facts = quantized.manifest.facts["quantize"]
    assert facts["executed"]["integer"] == 2 * 6 + 1  # per layer q, k, v, output, up, down; and the pooler
    assert facts["executed"]["float"] == 1
    assert facts["ignored"] == ["classifier"]


@needs_extra
@pytest.mark.slow
def test_the_embeddings_are_looked_up_as_integers(quantized: Any) -> None:
    facts = quantized.manifest.facts["quantize"]
    assert facts["integer_tables"] == 1
    assert facts["executed"]["kernels"]["Gather i8"] == 1


@needs_extra
@pytest.mark.slow
def test_one_file_serves_every_shape(dense: Any, quantized: Any) -> None:
    from compress.runtime import open_predictor

    with open_predictor(dense, threads=1) as before, open_predictor(quantized, threads=1) as after:
        assert (after.runtime, after.device) == ("openvino", "cpu")
        for rows, length in ((1, 1), (1, 32), (8, 16), (3, 7)):
            one, two = before.logits(batch(rows, length)), after.logits(batch(rows, length))
            assert one.shape == two.shape
            assert two.dtype == np.float32
        assert close(before.logits(batch(32, 6)), after.logits(batch(32, 6)))


@needs_extra
@pytest.mark.slow
def test_padding_changes_nothing(quantized: Any) -> None:
    from compress.runtime import open_predictor

    with open_predictor(quantized, threads=1) as predictor:
        row = batch(1, 9)
        padded = {name: np.pad(values, ((0, 0), (0, 6))) for name, values in row.items()}
        np.testing.assert_allclose(predictor.logits(padded), predictor.logits(row), atol=1e-4)


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": np.full((1, 4), 200)}, "ids too high, the model has 200 tokens"),
        ({"input_ids": np.ones((1, 65), int)}, "too long"),
        ({"input_ids": np.ones((1, 4), int), "token_type_ids": np.ones((1, 4), int)}, "single texts, not pairs"),
        ({"attention_mask": np.ones((1, 4), int)}, "needs input_ids"),
    ],
)
def test_a_bad_batch_is_refused(quantized: Any, inputs: dict[str, np.ndarray], message: str) -> None:
    from compress.runtime import open_predictor

    with open_predictor(quantized, threads=1) as predictor, pytest.raises(DataError, match=message):
        predictor.logits(inputs)


@needs_extra
@pytest.mark.slow
def test_a_session_can_be_run_again_and_threads_be_changed(quantized: Any) -> None:
    from compress.runtime import open_predictor

    with open_predictor(quantized, threads=1) as predictor:
        before = predictor.logits(batch(2, 9))
        run = predictor.session(batch(2, 9))
        run(), run()
        predictor.set_threads(2)
        np.testing.assert_allclose(predictor.logits(batch(2, 9)), before, atol=1e-4)
        with pytest.raises(UnsupportedError, match="does not run on CUDA"):
            open_predictor(quantized, device="cuda")


@needs_extra
@pytest.mark.slow
def test_the_file_s_size_says_what_is_embeddings(dense: Any, quantized: Any) -> None:
    from compress.benchmark.size import macs_of_onnx, macs_of_openvino, size_of
    from compress.onnx_graph import load_graph

    fp32, int8 = size_of(dense.path, "onnx"), size_of(quantized.path, "openvino")
    assert (fp32["precision"], int8["precision"]) == ("fp32", "int8")
    assert int8["parameters"] == pytest.approx(fp32["parameters"], rel=0.01)
    # 200 x 32 integers and a scale per row, 64 positions and 2 token types of 32 floats
    assert int8["embedding_bytes"] == 200 * 32 + 200 * 4 + 64 * 32 * 4 + 2 * 32 * 4
    assert int8["weights_bytes"] == sum((quantized.path / name).stat().st_size for name in ("model.xml", "model.bin"))
    expected = macs_of_onnx(load_graph(dense.path), 2, 16)
    assert macs_of_openvino(quantized.path / "model.xml", 2, 16) == expected


_AGAIN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import build_context, run
from compress.checkpoint import open_checkpoint
from compress.config.quantization import OpenVINOQuantization
from compress.steps.registry import step_for
source, root = open_checkpoint({source!r}), Path({root!r})
config = OpenVINOQuantization(max_metric_drop=None, calibration_rows=8)
run(step_for(OpenVINOQuantization), source, config, build_context(root), root / "int8")
"""


@needs_extra
@pytest.mark.slow
def test_two_processes_write_equal_bytes_without_paths_and_versions(exported: Any, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        code = _AGAIN.format(tests=str(Path(__file__).parent), source=str(exported.path), root=str(tmp_path / seed))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    for name in ("model.xml", "model.bin", "checkpoint.json"):
        first, second = ((tmp_path / seed / "int8" / name).read_bytes() for seed in ("1", "2"))
        assert first == second
        assert str(tmp_path).encode() not in first
    text = (tmp_path / "1" / "int8" / "model.xml").read_text()
    assert "rt_info" not in text
    assert "2026" not in text


# --- dense and pruned, both tasks ---------------------------------------------------------------


@pytest.fixture(scope="session")
def made(both_tasks: Callable[[str, bool], tuple[Any, Any, Any]]) -> Callable[[str, bool], tuple[Any, Any]]:
    """Return a function that gives an exported checkpoint, dense or pruned, and the context of its task."""
    return lambda name, pruned: both_tasks(name, pruned)[1:]


@pytest.fixture(scope="session")
def left(run_step: Any) -> Callable[..., Any]:
    """Return a function that quantizes an export into a folder."""
    return lambda source, context, config, folder: run_step(
        step_for(OpenVINOQuantization), source, config, context, folder
    )


_RELOAD = """
import sys
import numpy as np
import compress
with compress.load({path!r}, threads=1) as model:
    np.save({out!r}, np.concatenate([row.ravel() for row in model.logits_of(
        model.task.encode_raw({items!r}, model.tokenizer, 32))]))
print([name for name in ("torch", "transformers", "nncf", "onnx") if name in sys.modules])
"""


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", ["text_classification", "token_classification"])
def test_it_reloads_to_equal_logits_in_a_new_process_without_torch(
    name: str, pruned: bool, made: Callable[[str, bool], tuple[Any, Any]], left: Callable[..., Any], tmp_path: Path
) -> None:
    from compress.runtime import open_predictor

    source, context = made(name, pruned)
    checkpoint = left(source, context, QUICK, tmp_path / "int8")
    assert checkpoint.manifest.facts["quantize"]["executed"]["float"] == 1
    items: list[Any] = ["soup bread again", "we liked the train near river"]
    if name == "token_classification":
        items = [item.split() for item in items]
    with open_predictor(source, threads=1) as before, open_predictor(checkpoint, threads=1) as after:
        features = after.task.encode_raw(items, after.tokenizer, 32)
        logits = [np.concatenate([row.ravel() for row in one.logits_of(features)]) for one in (before, after)]
        assert len(after.predict(items)) == 2
    assert close(*logits)
    moved = shutil.copytree(checkpoint.path, tmp_path / "moved")
    code = _RELOAD.format(path=str(moved), out=str(tmp_path / "again.npy"), items=items)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert np.load(tmp_path / "again.npy").tobytes() == logits[1].tobytes()


@needs_extra
@pytest.mark.slow
def test_the_config_decides_what_stays_float(
    made: Callable[[str, bool], tuple[Any, Any]], left: Callable[..., Any], tmp_path: Path
) -> None:
    source, context = made("text_classification", False)
    config = OpenVINOQuantization(
        max_metric_drop=None,
        calibration_rows=4,
        ignored=["bert.encoder.layer.0.*"],
        embeddings=False,
        head=True,
        preset="performance",
        smooth_quant=None,
        bias_correction="off",
        activation_range="quantile",
        attention=False,
        reduce_range="true",
    )
    facts = left(source, context, config, tmp_path / "int8").manifest.facts["quantize"]
    assert facts["executed"]["float"] == 6
    assert facts["executed"]["integer"] == 8
    assert facts["integer_tables"] == 0
    assert facts["reduce_range"] is True


@needs_extra
@pytest.mark.slow
def test_the_format_alone_computes_what_the_export_computes(
    made: Callable[[str, bool], tuple[Any, Any]], left: Callable[..., Any], tmp_path: Path
) -> None:
    from compress.runtime import open_predictor

    source, context = made("token_classification", True)
    checkpoint = left(source, context, OpenVINOQuantization(weights="fp32", max_metric_drop=None), tmp_path / "fp32")
    with open_predictor(source, threads=1) as before, open_predictor(checkpoint, threads=1) as after:
        np.testing.assert_allclose(after.logits(batch(2, 9)), before.logits(batch(2, 9)), atol=1e-4)


@needs_extra
@pytest.mark.slow
def test_accuracy_control_gives_products_back_until_the_metric_is_kept(
    made: Callable[[str, bool], tuple[Any, Any]], left: Callable[..., Any], tmp_path: Path
) -> None:
    source, context = made("text_classification", False)
    config = OpenVINOQuantization(max_metric_drop=1.0, calibration_rows=4, accuracy_control=0.0)
    found = left(source, context, config, tmp_path / "int8").manifest.facts["quantize"]["validation"]
    assert found["quantized"] >= found["source"]


@needs_extra
@pytest.mark.slow
def test_the_gate_refuses_what_lost_too_much(
    made: Callable[[str, bool], tuple[Any, Any]],
    left: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, context = made("text_classification", False)
    monkeypatch.setattr("compress.steps.quantize.gate.source_metric", lambda *_: 2.0)
    config = OpenVINOQuantization(max_metric_drop=0.01, calibration_rows=4)
    with pytest.raises(
        StepError, match=r"quantize\.max_metric_drop allows 0\.01\. Try quantize\.accuracy_control=0\.005"
    ):
        left(source, context, config, tmp_path / "int8")


@needs_extra
@pytest.mark.slow
def test_a_pattern_that_matches_nothing_is_refused(
    made: Callable[[str, bool], tuple[Any, Any]], left: Callable[..., Any], tmp_path: Path
) -> None:
    source, context = made("text_classification", False)
    for pattern, message in (("encoder.layer.9.*", "matches no product; there are bert.encoder"), ("*", "nothing in")):
        config = OpenVINOQuantization(max_metric_drop=None, ignored=[pattern])
        with pytest.raises((ConfigError, StepError), match=message):
            left(source, context, config, tmp_path / f"{len(pattern)}")


@needs_extra
@pytest.mark.slow
def test_the_recipe_runs_from_data_to_report(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "compress", "recipe=openvino_int8", "debug=tiny"]
    places = [f"store.path={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run([*line, *places], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    variant = record["variants"]["quantize"]
    assert [variant[key] for key in ("format", "runtime", "precision")] == ["openvino", "openvino", "int8"]
    assert variant["size"]["macs"] == record["variants"]["simplify"]["size"]["macs"]
    assert variant["memory"]["model_bytes"] > 0
    assert {"openvino", "nncf"} <= record["environment"]["packages"].keys()
    card = (tmp_path / "run" / "artifact" / "README.md").read_text()
    assert "library_name: openvino" in card
    done = subprocess.run(
        [sys.executable, "-m", "compress.inspect", str(tmp_path / "run" / "artifact")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "openvino int8, every file as written" in done.stdout
