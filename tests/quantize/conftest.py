"""A tiny random BERT as a checkpoint, its export, and the context that steps get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LABELS = ("food", "travel", "weather")
TAGS = ("O", "B-X", "I-X")
WORDS = (
    *("soup", "bread", "cheese", "train", "ticket", "hotel", "rain", "storm", "snow", "we", "liked", "they"),
    *("forgot", "again", "today", "all", "near", "river", "friends"),
)


def build_checkpoint(folder: Path, positions: int = 64) -> Any:
    """Write a torch checkpoint of a two-layer BERT with random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    from compress.checkpoint import Writer
    from compress.models.torch_io import save_model

    folder.mkdir(parents=True)
    vocab = folder.parent / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{n}" for n in range(376))]))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        num_labels=3,
        initializer_range=0.4,
    )
    model = BertForSequenceClassification(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # all of them 0, one tensor would stand for all in an export
            torch.nn.init.normal_(parameter, std=0.1)
    tokenizer = BertTokenizerFast(vocab=str(vocab))
    out = Writer(folder)
    save_model(out, model, tokenizer, 32)
    return out.finish(
        format="torch",
        precision="fp32",
        task="text_classification",
        metric="accuracy",
        labels=LABELS,
        max_length=32,
        architecture="bert",
        layers=2,
        lineage=({"name": "finetune", "kind": "finetune", "config": {}, "key": "0" * 64},),
    )


def build_context(folder: Path, pairs: bool = False) -> Any:
    """Return what a step gets beside its source and config."""
    import pandas as pd

    from compress import tasks
    from compress.data.base import Data
    from compress.steps.base import Context

    rows = [" ".join(WORDS[start : start + 3 + start % 5]) for start in range(12)]
    frame = pd.DataFrame({"text": rows, "label": [LABELS[number % 3] for number in range(12)]})
    if pairs:
        frame["text_pair"] = rows[::-1]
    data = Data("tiny", "text_classification", frame, frame, frame, LABELS, f"pairs={pairs}")
    task = tasks.create("text_classification", LABELS, metric="accuracy")
    return Context("step", task, data, 32, 0, "cpu", 1, folder / "scratch", folder / "cache")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the torch checkpoint."""
    return build_checkpoint(tmp_path_factory.mktemp("tiny") / "torch")


@pytest.fixture
def context(tmp_path: Path) -> Any:
    """Return a context over single texts."""
    return build_context(tmp_path)


@pytest.fixture(scope="session")
def context_in() -> Callable[..., Any]:
    """Return a function that makes a context with its directories below a folder."""
    return build_context


@pytest.fixture
def pair_context(tmp_path: Path) -> Any:
    """Return a context over pairs of texts."""
    return build_context(tmp_path, pairs=True)


def run(step: Any, source: Any, config: Any, context: Any, folder: Path) -> Any:
    """Run a step into a folder and close the checkpoint, as the pipeline does."""
    from compress.checkpoint import Writer
    from compress.steps.base import SourceFacts

    folder.mkdir(parents=True)
    out = Writer(folder)
    step.run(source, config, context, out)
    facts = SourceFacts(source.format, source.precision, source.architecture, source.layers)
    names = ("task", "metric", "labels", "max_length", "architecture", "layers", "lineage")
    return out.finish(
        format=step.leaves,
        precision=step.after(config, facts).precision,
        **{name: getattr(source.manifest, name) for name in names},
    )


@pytest.fixture(scope="session")
def with_positions(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a torch checkpoint whose table of positions is large enough to be quantized."""
    return build_checkpoint(tmp_path_factory.mktemp("positions") / "torch", positions=160)


@pytest.fixture(scope="session")
def run_step() -> Callable[..., Any]:
    """Return `run`."""
    return run


@pytest.fixture(scope="session")
def exported(source: Any, run_step: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the export of `source`."""
    from compress.config.schemas import Export
    from compress.steps.export import ExportStep

    folder = tmp_path_factory.mktemp("exported")
    return run_step(ExportStep(), source, Export(), build_context(folder), folder / "onnx")


@pytest.fixture(scope="session")
def both_tasks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], tuple[Any, Any, Any]]:
    """Return a function of a task and of whether to prune: a torch checkpoint, its export, and the context."""
    from functools import cache

    import pandas as pd
    import torch
    from transformers import BertConfig, BertTokenizerFast

    from compress import tasks
    from compress.checkpoint import Writer, open_checkpoint
    from compress.config.schemas import Export
    from compress.data.base import Data
    from compress.models.surgery import Cut, cut
    from compress.models.torch_io import save_model
    from compress.steps.base import Context
    from compress.steps.export import ExportStep

    @cache
    def make(name: str, pruned: bool) -> tuple[Any, Any, Any]:
        root = tmp_path_factory.mktemp("made")
        labels = LABELS if name == "text_classification" else TAGS
        rows = [list(WORDS[start : start + 3 + start % 5]) for start in range(12)]
        if name == "text_classification":
            frame = pd.DataFrame({"text": [" ".join(row) for row in rows], "label": [labels[n % 3] for n in range(12)]})
        else:
            tags = [[("O", "B-X", "I-X")[place % 3] for place in range(len(row))] for row in rows]
            frame = pd.DataFrame({"tokens": rows, "tags": tags})
        task = tasks.create(name, labels)
        data = Data("tiny", name, frame, frame, frame, labels, name)
        context = Context("quantize", task, data, 32, 0, "cpu", 1, root / "scratch", root / "cache")
        vocab = root / "vocab.txt"
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        vocab.write_text("\n".join([*special, *WORDS, *(f"##{n}" for n in range(200 - len(special) - len(WORDS)))]))
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = BertConfig(vocab_size=200, max_position_embeddings=64, num_labels=3, initializer_range=0.4, **sizes)
        model = task.model_class().from_config(config).eval()
        if pruned:
            model = cut(model, Cut(heads={0: [1], 1: [0, 2]}, neurons={0: range(20), 1: range(7)}, hidden=[3, 9, 30]))
        source = root / "torch"
        source.mkdir()
        out = Writer(source)
        save_model(out, model, BertTokenizerFast(vocab=str(vocab)), 32)
        facts = {"task": name, "metric": task.metric, "labels": labels, "max_length": 32, "architecture": "bert"}
        out.finish(format="torch", precision="fp32", layers=2, **facts)
        exported = root / "onnx"
        exported.mkdir()
        out = Writer(exported)
        ExportStep().run(open_checkpoint(source), Export(check_rows=8), context, out)
        return open_checkpoint(source), out.finish(format="onnx", precision="fp32", layers=2, **facts), context

    return make
