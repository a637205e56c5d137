"""A two-layer BERT with dropout learning an easy rule; also a program that trains it, to be killed by tests.

``python tiny_training.py SCRATCH OUTPUT [field=value ...]`` writes the best weights and the history to OUTPUT, under a
launcher of several processes too. Beside the fields of a training there are ``dropout``, ``rows`` and ``loss``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from compress.config.schemas import Training
from compress.tasks import create
from compress.tasks.base import Features, Task
from compress.training import LossFunction, TrainingResult, train
from compress.training.loop import task_loss
from compress.training.processes import alone_or_together

TOKENIZER = SimpleNamespace(pad_token_id=0, pad_token_type_id=0)


def tiny_task() -> Task:
    return create("text_classification", ["a", "b", "c"])


def tiny_model(layers: int = 2, seed: int = 0, dropout: float = 0.1) -> Any:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForSequenceClassification(config).eval()


def tiny_features(rows: int, seed: int) -> Features:
    generator = random.Random(seed)
    inputs, labels = [], []
    for _ in range(rows):
        ids = [generator.randrange(3, 50) for _ in range(generator.randrange(3, 20))]
        inputs.append({"input_ids": [1, *ids], "attention_mask": [1] * (len(ids) + 1)})
        labels.append(ids[0] % 3)
    return Features(inputs, labels)


def tiny_training(
    scratch: Path,
    model: Any,
    *,
    start_counts: bool = False,
    loss_fn: LossFunction | None = None,
    rows: int = 90,
    **options: Any,
) -> TrainingResult:
    config = Training(**{"epochs": 3, "batch_size": 8, "learning_rate": 5e-3, "checkpoint_seconds": 60.0, **options})
    return train(
        model,
        TOKENIZER,
        tiny_task(),
        tiny_features(rows, 0),
        tiny_features(40, 1),
        config,
        seed=3,
        device="cpu",
        threads=1,
        scratch=scratch,
        start_counts=start_counts,
        loss_fn=loss_fn,
    )


def wide_loss(model: Any, batch: dict[str, Any], progress: float) -> Any:
    """Return means over rows and over tokens, of all rows together, and of weights beside the model's call."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    output = model(**inputs, output_hidden_states=True)
    states, mask = output.hidden_states[-1], batch["attention_mask"][..., None]
    texts = normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    apart = cross_entropy(texts @ texts.T, torch.arange(len(texts)))
    size = ((model.classifier(states) * mask) ** 2).sum() / mask.sum()
    return cross_entropy(output.logits, batch["labels"]) + apart + 0.1 * size


def failing_loss(model: Any, batch: dict[str, Any], progress: float) -> Any:
    """Return a loss that is no number in the second half."""
    loss = wide_loss(model, batch, progress)
    return loss * float("nan") if progress > 0.5 else loss


def killing_loss(model: Any, batch: dict[str, Any], progress: float) -> Any:
    """Return the loss of the model, and end the process in the second half."""
    if progress > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
    return task_loss(tiny_task())(model, batch)


def in_a_way(name: str, model: Any, dropout: float) -> LossFunction:
    """Return the loss of a training in which layers are replaced, or of which smaller models are trained too."""
    from compress.config.training import DistillWeights, Replacement, Taught
    from compress.models.nested import Size, SubNetworks
    from compress.steps.elastic.sandwich import Sandwich
    from compress.training.distillation import Draws, Scene, Way
    from compress.training.distillation.layer_maps import matching
    from compress.training.distillation.replacement import Replacing
    from compress.training.distillation.terms import DistillationLoss

    config, teacher = Taught(weights=DistillWeights(task=1.0, logits=0.0)), tiny_model(4, dropout=dropout)
    way: Way = Replacing(Replacement(rate=0.4, full_at=0.6))
    if name == "sandwich":
        sizes = [Size(width, depth) for width in (0.5, 1.0) for depth in (0.5, 1.0)]
        way = Sandwich(SubNetworks(model, [0.5, 1.0]), sizes, 1)
    scene = Scene(
        model,
        lambda: teacher,
        config,
        matching(config, 2, 4),
        lambda pairs: DistillationLoss(tiny_task(), config, model, pairs),
        Draws(3),
    )
    return way.begin(scene)


LOSSES = {"task": None, "wide": wide_loss, "failing": failing_loss, "killing": killing_loss}


def main() -> int:
    from safetensors.torch import save_file

    scratch, output = Path(sys.argv[1]), Path(sys.argv[2])
    options = {name: json.loads(value) for name, value in (argument.split("=") for argument in sys.argv[3:])}
    dropout, loss = options.pop("dropout", 0.1), options.pop("loss", "task")
    model = tiny_model(dropout=dropout)
    options["loss_fn"] = LOSSES[loss] if loss in LOSSES else in_a_way(loss, model, dropout)
    result = tiny_training(scratch, model, **options)
    output.mkdir(parents=True)
    save_file(model.state_dict(), output / "model.safetensors")
    (output / "history.json").write_text(json.dumps([result.metric, result.epoch, result.history]))
    (output / "config.json").write_text(model.config.to_json_string())
    return 0


if __name__ == "__main__":
    sys.exit(alone_or_together(main))
