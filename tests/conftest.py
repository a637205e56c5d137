"""What every test shares: no network, GPU tests only where there is one, a store of its own, tiny models on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LABELS = ("food", "travel", "weather")
WORDS = (
    *("soup", "bread", "cheese", "train", "ticket", "hotel", "rain", "storm", "snow", "we", "liked", "they"),
    *("forgot", "again", "today", "all", "near", "river", "friends"),
)

# Set before any test imports transformers or datasets, which read them once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of a parallel run a core of its own; two that each use every core wait for one another."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker.isdigit() and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu where torch sees none; torch is imported only if there is such a test."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's store out of the tests, and the tests out of it."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo what a job run inside a test did to the package's logger."""
    logger = logging.getLogger("compress")
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield
    logger.setLevel(before[0])
    logger.propagate = before[1]
    for handler in [found for found in logger.handlers if found not in before[2]]:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return a BERT of random weights and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    vocab = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: number for number, name in enumerate(LABELS)}}
    config = BertConfig(vocab_size=24, max_position_embeddings=64, initializer_range=0.4, **sizes, **names)
    return BertForSequenceClassification(config).eval(), BertTokenizerFast(vocab=str(vocab))


@pytest.fixture(scope="session")
def checkpoint(model: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a torch checkpoint of ours."""
    from compress.checkpoint import Writer
    from compress.models.torch_io import save_model

    out = Writer(tmp_path_factory.mktemp("checkpoint"))
    save_model(out, *model, 32)
    return out.finish(
        format="torch",
        precision="fp32",
        task="text_classification",
        metric="accuracy",
        labels=LABELS,
        max_length=32,
        architecture="bert",
        layers=2,
    )


@pytest.fixture(scope="session")
def onnx_file(model: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a bare ``.onnx`` file with the inputs of single texts."""
    import copy

    from compress.onnx_graph import save_graph
    from compress.steps.export import export_graph

    folder = tmp_path_factory.mktemp("bare")
    save_graph(export_graph(copy.deepcopy(model[0]), ("input_ids", "attention_mask"), 20, folder / "scratch"), folder)
    (folder / "scratch").rmdir()
    return folder / "model.onnx"


@pytest.fixture(scope="session")
def onnx_checkpoint(checkpoint: Any, onnx_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an ONNX checkpoint of ours."""
    import shutil

    from compress.checkpoint import Writer
    from compress.steps.companions import copy_companions

    out = Writer(tmp_path_factory.mktemp("onnx") / "checkpoint")
    out.path.mkdir()
    copy_companions(checkpoint, out)
    shutil.copyfile(onnx_file, out.path / "model.onnx")
    return out.finish(
        format="onnx",
        precision="fp32",
        task="text_classification",
        metric="accuracy",
        labels=LABELS,
        max_length=32,
        architecture="bert",
        layers=2,
    )
