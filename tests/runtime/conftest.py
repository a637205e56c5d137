"""Tiny fine-tuned models on disk: a checkpoint of ours, a Hugging Face directory, an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

LABELS = ("food", "travel", "weather")
WORDS = (
    *("soup", "bread", "cheese", "train", "ticket", "hotel", "rain", "storm", "snow", "we", "liked", "they"),
    *("forgot", "again", "today", "all", "near", "river", "friends"),
)


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
