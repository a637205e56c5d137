"""Peers: what each makes of a checkpoint answers as it should, and what cannot be is refused before any work."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from compress.benchmark.size import size_of
from compress.checkpoint import Checkpoint, Writer, open_checkpoint
from compress.errors import CheckpointError, UnsupportedError
from compress.peers import PEERS, peer_named
from compress.runtime import open_predictor
from compress.runtime.peers import PEER, way_of, write_peer
from compress.steps.base import Context
from compress.steps.companions import copy_companions

LABELS = ("food", "travel", "weather")
WORDS = {"food": ["soup", "bread", "cheese"], "travel": ["train", "ticket", "hotel"], "weather": ["rain", "storm"]}


def rows(count: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    labels = [LABELS[number] for number in generator.integers(0, 3, count)]
    texts = [
        " ".join(["we liked", *generator.choice(WORDS[label], int(generator.integers(1, 5))), "again"])
        for label in labels
    ]
    return pd.DataFrame({"text": texts, "label": labels})


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    from compress import tasks
    from compress.data.base import Data

    folder = tmp_path_factory.mktemp("context")
    (folder / "scratch").mkdir()
    data = Data("made", "text_classification", rows(60, 0), rows(30, 1), rows(30, 2), LABELS, "f" * 64)
    task = tasks.create("text_classification", LABELS, metric="accuracy")
    return Context("peer", task, data, 32, 0, "cpu", 1, folder / "scratch", folder / "cache")


@pytest.fixture
def made(
    checkpoint: Checkpoint, onnx_checkpoint: Checkpoint, context: Context, tmp_path: Path
) -> Callable[..., Checkpoint]:
    def make(name: str, place: str = "made") -> Checkpoint:
        peer = peer_named(name)
        source = {"torch": checkpoint, "onnx": onnx_checkpoint}[peer.reads]
        out = Writer(tmp_path / place / name)
        out.path.mkdir(parents=True)
        copy_companions(source, out)
        peer.make(source, context, out)
        return out.finish(
            format=peer.leaves,
            precision=peer.precision,
            task="text_classification",
            metric="accuracy",
            labels=LABELS,
            max_length=32,
            architecture="bert",
            layers=2,
        )

    return make


def needs(*modules: str) -> Any:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def batch(count: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 24, (count, length))
    mask = np.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {"input_ids": np.where(mask, ids, 0), "attention_mask": mask}


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


# --- what they make ---------------------------------------------------------------------------------


def test_every_peer_says_what_it_is() -> None:
    for name in PEERS:
        peer = peer_named(name)
        assert peer.name == name
        assert peer.reads in ("torch", "onnx")
        assert peer.title


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("onnxruntime", []),
        ("onnxruntime_dynamic_int8", []),
        ("onnxruntime_static_int8", []),
        ("openvino", ["openvino"]),
        ("openvino_nncf_int8", ["openvino", "nncf"]),
    ],
)
def test_a_graph_answers_about_as_the_model(
    name: str, modules: list[str], made: Callable[..., Checkpoint], onnx_checkpoint: Checkpoint
) -> None:
    for module in modules:
        pytest.importorskip(module)
    found = made(name)
    expected = open_predictor(onnx_checkpoint.path, threads=1).logits(batch(4, 12))
    with open_predictor(found.path, threads=1) as predictor:
        logits = predictor.logits(batch(4, 12))
    if peer_named(name).precision == "fp32":
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    else:
        assert correlation(logits, expected) > 0.8
        assert not np.allclose(logits, expected, atol=1e-6)
        assert size_of(found.path, found.format)["precision"] == "int8"


@pytest.mark.parametrize("name", ["tfidf", "static_embeddings"])
def test_a_floor_is_fitted_and_padding_changes_nothing(
    name: str, made: Callable[..., Checkpoint], context: Context
) -> None:
    found = made(name)
    facts = found.manifest.facts[name]
    with open_predictor(found.path, threads=1) as predictor:
        features = context.task.encode(context.data.validation, predictor.tokenizer, 32)
        alone = [predictor.logits({key: np.asarray([value]) for key, value in row.items()}) for row in features.inputs]
        padded = predictor.logits_of(features, batch_size=30)
    np.testing.assert_allclose(np.concatenate(alone), np.stack(padded), atol=1e-5)
    accuracy = context.task.metrics(padded, features)["accuracy"]
    assert accuracy == pytest.approx(facts["validation"]), "the graph is what was judged"
    assert accuracy > 0.9, "words tell the labels"


def test_tfidf_in_onnx_is_that_of_scikit_learn(made: Callable[..., Checkpoint], context: Context) -> None:
    """The features, read off by a head that is the identity's sum, against the vectorizer's own."""
    import onnx
    from sklearn.feature_extraction.text import TfidfVectorizer

    from compress.peers.linear import Linear
    from compress.peers.tfidf import _grams, _graph

    documents = [[5, 6, 7, 5], [6, 7], [8, 5, 6]]
    vectorizer = TfidfVectorizer(analyzer=lambda tokens: _grams(tokens, 2), dtype=np.float32)
    expected = vectorizer.fit_transform(documents).toarray()
    size = expected.shape[1]
    graph = _graph(vectorizer, Linear(np.eye(size, dtype=np.float32), np.zeros(size, np.float32), 0.0))
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString())
    ids = np.asarray([[2, *row, 3, *[0] * (4 - len(row))] for row in documents])
    mask = np.asarray([[1, *[1] * len(row), 1, *[0] * (4 - len(row))] for row in documents])
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(found, expected, atol=1e-6)
    onnx.checker.check_model(graph)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["onnxruntime_dynamic_int8", "onnxruntime_static_int8", "tfidf", "static_embeddings", "torch_compile"]
)
def test_equal_work_gives_equal_bytes(name: str, made: Callable[..., Checkpoint]) -> None:
    assert made(name, "one").digest == made(name, "two").digest


# --- what is compiled -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _compiler(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_compiler")
def test_what_is_timed_was_compiled_before_and_answers_as_the_eager_model(
    made: Callable[..., Checkpoint], checkpoint: Checkpoint
) -> None:
    from torch._dynamo.utils import counters

    from compress.runtime.peers.compiled import CompiledPredictor

    eager = open_predictor(checkpoint.path, threads=1)
    found = open_predictor(made("torch_compile").path, threads=1)
    assert isinstance(found, CompiledPredictor)
    assert found.runtime == "torch.compile"
    counters.clear()
    (timed,) = found.sessions([batch(2, 8)])
    before = dict(counters["stats"])
    assert before["unique_graphs"] == 1, "one whole graph"
    np.testing.assert_allclose(timed().numpy(), eager.logits(batch(2, 8)), atol=1e-4)
    assert dict(counters["stats"]) == before, "nothing was compiled while it ran"


@pytest.mark.slow
@pytest.mark.usefixtures("_compiler")
def test_a_compiled_model_takes_any_length(made: Callable[..., Checkpoint], checkpoint: Checkpoint) -> None:
    eager = open_predictor(checkpoint.path, threads=1)
    found: Any = open_predictor(made("torch_compile").path, threads=1)
    found.tuned = False  # which only takes longer
    for shape in ((4, 12), (3, 7)):
        np.testing.assert_allclose(found.logits(batch(*shape)), eager.logits(batch(*shape)), atol=1e-4)
    several = found.sessions([batch(1, 5), batch(1, 9), batch(1, 5)])
    for run, length in zip(several, (5, 9, 5), strict=True):
        np.testing.assert_allclose(run().numpy(), eager.logits(batch(1, length)), atol=1e-4)


@pytest.mark.slow
@needs("torchao")
@pytest.mark.usefixtures("_compiler")
def test_torchao_stores_integers_and_answers_about_as_the_model(
    made: Callable[..., Checkpoint], checkpoint: Checkpoint
) -> None:
    from compress.benchmark.size import macs_of_torch

    peer = made("torchao_int8")
    assert json.loads((peer.path / "config.json").read_text())["quantization_config"]["quant_method"] == "torchao"
    before, after = size_of(checkpoint.path, "torch"), size_of(peer.path, "torch")
    assert after["precision"] == "int8"
    assert after["weights_bytes"] < before["weights_bytes"]
    eager = open_predictor(checkpoint.path, threads=1)
    found = open_predictor(peer.path, threads=1)
    expected = eager.logits(batch(4, 12))
    assert correlation(found.logits(batch(4, 12)), expected) > 0.95
    (timed,) = found.sessions([batch(4, 12)])
    assert correlation(timed().numpy(), expected) > 0.95
    names = found.input_names
    assert macs_of_torch(found.model, 2, 8, names) == macs_of_torch(eager.model, 2, 8, names)


# --- what is refused --------------------------------------------------------------------------------


def test_a_missing_extra_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"torchao_int8 needs the extra 'peers'.*torchao.*transformers\[peers"):
        peer_named("torchao_int8").check("text_classification")
    peer_named("onnxruntime").check("text_classification")


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"needs a C\+\+ compiler and finds none of"):
        peer_named("torch_compile").check("text_classification")


def test_a_floor_refuses_a_task_that_it_does_not_serve() -> None:
    with pytest.raises(UnsupportedError, match="tfidf serves text_classification, not task=token_classification"):
        peer_named("tfidf").check("token_classification")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"way": "torch_compil"}', "did you mean torch_compile?"),
        ('{"way": "torch_compile", "code": "x"}', "it is to be"),
        ("[]", "it is to be"),
        ("{", "cannot be read"),
    ],
)
def test_a_peer_file_of_anything_else_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / PEER).write_text(content)
    with pytest.raises(CheckpointError) as refused:
        way_of(tmp_path)
    assert message in str(refused.value)


def test_a_peer_is_run_on_the_cpu(made: Callable[..., Checkpoint]) -> None:
    with pytest.raises(UnsupportedError, match="a peer is run on the CPU"):
        open_predictor(made("torch_compile").path, device="cuda")


def test_what_is_no_torchao_model_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    place = tmp_path / "plain"
    shutil.copytree(checkpoint.path, place)
    (place / "checkpoint.json").unlink()
    write_peer(place, "torchao")
    with pytest.raises(CheckpointError, match="says nothing of torchao"):
        open_predictor(place, device="cpu")


def test_a_changed_peer_is_refused(made: Callable[..., Checkpoint]) -> None:
    peer = made("torch_compile")
    (peer.path / PEER).write_text('{"way": "torchao"}')
    with pytest.raises(CheckpointError, match="peer.json is not what was written"):
        open_checkpoint(peer.path)
