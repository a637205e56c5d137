"""Every predictor is of one shape: it labels, runs numbers, keeps the order, and refuses what it cannot do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.checkpoint import open_checkpoint
from compress.errors import CheckpointError, ConfigError, DataError, MachineError, UnsupportedError
from compress.runtime import OnnxPredictor, open_predictor
from compress.runtime.base import checked_items

TEXTS = ["soup", "train ticket hotel again today near river friends", "rain storm", "we liked cheese today"]


@pytest.fixture(params=["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def predictor(request: pytest.FixtureRequest, checkpoint: Any) -> Any:
    opened = open_predictor(checkpoint.path, threads=1, device="cpu")
    if request.param == "onnx":
        path = request.getfixturevalue("onnx_file")
        opened = OnnxPredictor(path, task=opened.task, tokenizer=opened.tokenizer, threads=1, max_length=32)
    return opened


def test_predict_gives_a_label_and_scores_per_text(predictor: Any) -> None:
    found = predictor.predict(TEXTS)
    assert len(found) == len(TEXTS)
    for one in found:
        assert one["label"] == max(one["scores"], key=one["scores"].get)
        assert sum(one["scores"].values()) == pytest.approx(1)


def test_rows_come_back_in_order_whatever_the_batches(predictor: Any) -> None:
    features = predictor.task.encode_raw(TEXTS, predictor.tokenizer, 32)
    alone = [predictor.logits_of(predictor.task.encode_raw([text], predictor.tokenizer, 32))[0] for text in TEXTS]
    for batch_size in (1, 3, 32):
        for one, two in zip(predictor.logits_of(features, batch_size), alone, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_missing_mask_is_ones(predictor: Any) -> None:
    ids = np.array([[2, 5, 6, 3]])
    full = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    assert predictor.logits({"input_ids": ids}).dtype == np.float32
    np.testing.assert_array_equal(predictor.logits({"input_ids": ids}), predictor.logits(full))


def test_a_session_can_be_run_again_and_threads_be_changed(predictor: Any) -> None:
    batch = {"input_ids": np.array([[2, 5, 6, 3]])}
    before = predictor.logits(batch)
    run = predictor.session(batch)
    run(), run()
    predictor.set_threads(2)
    assert predictor.threads == 2
    np.testing.assert_allclose(predictor.logits(batch), before, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "needs input_ids"),
        ({"attention_mask": np.ones((1, 4), int)}, "needs input_ids"),
        ({"input_ids": np.ones(4, int)}, r"shape \[4\]"),
        ({"input_ids": np.ones((0, 4), int)}, r"shape \[0, 4\]"),
        ({"input_ids": np.ones((1, 4), int), "pixels": np.ones((1, 4), int)}, "'pixels'"),
        ({"input_ids": np.ones((1, 4), int), "attention_mask": np.ones((1, 5), int)}, r"shape \[1, 5\]"),
        ({"input_ids": np.ones((1, 4))}, "float64"),
        ({"input_ids": np.ones((1, 65), int)}, "too long"),
        ({"input_ids": np.full((1, 4), 24)}, "ids too high"),
        ({"input_ids": np.full((1, 4), -1)}, "0 or higher"),
    ],
)
def test_a_bad_batch_is_refused(predictor: Any, batch: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        predictor.logits(batch)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no texts"),
        ("one text", r"write predict\(\[text\]\)"),
        (7, "takes a list of texts"),
        ([1], "item 0 is 1"),
        (["ok", None], "item 1 is None"),
        (["ok", float("nan")], "item 1 is nan"),
        ([["a", 2]], "item 0"),
        ([[]], "item 0"),
    ],
)
def test_bad_items_are_refused(items: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_items(items)


@pytest.mark.slow
def test_a_model_for_single_texts_refuses_pairs(checkpoint: Any, onnx_file: Path) -> None:
    ours = open_predictor(checkpoint, threads=1)
    opened = OnnxPredictor(onnx_file, task=ours.task, tokenizer=ours.tokenizer, threads=1)
    with pytest.raises(DataError, match="single texts, not pairs"):
        opened.predict([("soup", "rain")])


@pytest.mark.slow
def test_a_bare_onnx_file_takes_numbers_only(onnx_file: Path) -> None:
    opened = open_predictor(onnx_file, threads=1)
    assert opened.input_names == ("input_ids", "attention_mask")
    assert opened.logits({"input_ids": np.array([[2, 5, 3]])}).shape == (1, 3)
    with pytest.raises(UnsupportedError, match="without a task and a tokenizer"):
        opened.predict(["soup"])


def test_a_hugging_face_directory_predicts(model: tuple[Any, Any], checkpoint: Any, tmp_path: Path) -> None:
    for part in model:
        part.save_pretrained(tmp_path)
    expected = open_predictor(checkpoint, threads=1).predict(TEXTS)
    found = open_predictor(tmp_path, threads=1, device="cpu").predict(TEXTS)
    assert [one["label"] for one in found] == [one["label"] for one in expected]


def test_what_cannot_be_opened_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    for name, message in [
        ("absent", "no such file"),
        ("empty", "neither a checkpoint.json nor a config.json"),
        ("weights.bin", "is a file"),
        ("broken.onnx", "cannot open it"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            open_predictor(tmp_path / name, threads=1, device="cpu")
    with pytest.raises(ConfigError, match="threads=0"):
        open_predictor(checkpoint, threads=0)


def test_a_flipped_byte_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint.path, copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_predictor(copy)


def test_an_onnx_file_with_other_inputs_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    for kind, name in ((TensorProto.FLOAT, "input_ids"), (TensorProto.INT64, "pixels")):
        pixels = helper.make_tensor_value_info(name, kind, ["batch", "sequence"])
        logits = helper.make_tensor_value_info("logits", kind, ["batch", "sequence"])
        graph = helper.make_graph([helper.make_node("Identity", [name], ["logits"])], "g", [pixels], [logits])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, str(tmp_path / "other.onnx"))
        with pytest.raises(CheckpointError, match=f"its inputs are {name}"):
            open_predictor(tmp_path / "other.onnx", threads=1, device="cpu")


@pytest.mark.slow
def test_a_missing_provider_is_named(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UnsupportedError, match="no CUDAExecutionProvider"):
        OnnxPredictor(onnx_file, task=None, tokenizer=None, threads=1, device="cuda")


def test_a_gpu_that_is_not_there_is_refused(checkpoint: Any) -> None:
    with pytest.raises(MachineError, match="cuda:99"):
        open_predictor(checkpoint, device="cuda:99")


@pytest.mark.gpu
def test_cuda_agrees_with_cpu(checkpoint: Any) -> None:
    batch = {"input_ids": np.random.default_rng(0).integers(5, 24, (3, 9))}
    cpu, cuda = (open_predictor(checkpoint, threads=1, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda.logits(batch), cpu.logits(batch), atol=1e-3)
    assert cuda.session(batch)().is_cuda


def test_a_run_s_directory_in_place_of_its_artifact_is_named(checkpoint: Any, tmp_path: Path) -> None:
    shutil.copytree(checkpoint.path, tmp_path / "artifact")
    with pytest.raises(CheckpointError, match=r"its model is in .*artifact"):
        open_predictor(tmp_path)
    with pytest.raises(CheckpointError, match=r"its model is in .*artifact"):
        open_checkpoint(tmp_path)
