"""Small random models of every family, as Hugging Face directories."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compress.config.schemas import RandomModel
from compress.data.base import Data
from compress.models.families import family
from compress.models.source import resolve
from compress.models.torch_io import build_model
from compress.tasks import create

sys.path.insert(0, str(Path(__file__).parent))  # for `import kinds`

LABELS = {"text_classification": ("bad", "good", "plain"), "token_classification": ("O", "B-X", "I-X")}


@pytest.fixture(scope="session")
def data() -> Data:
    rows = pd.DataFrame({"text": ["the good day", "a bad day, unbelievably"], "label": ["good", "bad"]})
    return Data("made", "text_classification", rows, rows, rows, LABELS["text_classification"], "f" * 64)


@pytest.fixture(scope="session")
def small_bert(data: Data) -> tuple[Any, Any]:
    """Return a random BERT and its tokenizer."""
    task = create("text_classification", LABELS["text_classification"])
    return build_model(resolve(RandomModel(max_length=32)), task, data, seed=0)


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Any]:
    """Return a function that makes a small model of a family."""
    return make_random_model


def make_random_model(architecture: str, task: str, layers: int = 3, **changes: Any) -> Any:
    """Return a small model of a family with the task's head and no weight left at its initial constant."""
    import torch
    from transformers import AutoConfig

    known = family(architecture)
    labels = LABELS[task]
    sizes: dict[str, Any] = {
        known.config_layers: layers,
        known.config_heads: 2,
        known.config_intermediate: 24,
        known.config_hidden: 16,
        "vocab_size": 160,
        "max_position_embeddings": 40,
        "pad_token_id": 1,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        **({"embedding_size": 8} if architecture == "electra" else {}),
        **changes,
    }
    torch.manual_seed(1)
    config = AutoConfig.for_model(architecture, **sizes)
    model = create(task, labels).model_class().from_config(config, attn_implementation=known.attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture
def folder(tmp_path: Path, small_bert: tuple[Any, Any]) -> Path:
    """Return the directory of a whole Hugging Face checkpoint: a BERT without a head."""
    model, tokenizer = small_bert
    path = tmp_path / "model"
    model.bert.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
