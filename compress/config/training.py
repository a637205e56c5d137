"""Schemas that every training shares."""

from __future__ import annotations

from dataclasses import dataclass

from compress.config.options import option

__all__ = ["DistillWeights", "Taught", "Training"]


@dataclass
class Training:
    """What every step that trains shares."""

    epochs: int = option(3, "passes over the training split", minimum=1)
    batch_size: int = option(32, "examples per update", minimum=1)
    gradient_accumulation: int = option(1, "batches summed up per update", minimum=1)
    learning_rate: float = option(5e-5, "peak learning rate", above=0)
    schedule: str = option("linear", "decay after the warm-up", choices=["linear", "cosine", "constant"])
    warmup_ratio: float = option(0.1, "share of all updates spent warming up", minimum=0, maximum=1)
    weight_decay: float = option(0.01, "AdamW weight decay", minimum=0)
    max_grad_norm: float = option(1.0, "gradient clipping by global norm; 0 is off", minimum=0)
    patience: int | None = option(None, "stop after so many epochs without a better validation metric", minimum=1)
    average: float | None = option(
        None,
        "decay of an exponential moving average of the weights, which is then what is judged and kept; null is off",
        above=0,
        below=1,
    )
    precision: str = option("fp32", "arithmetic of the training", choices=["fp32", "bf16", "fp16"])
    checkpoint_seconds: float = option(
        60.0, "how often the state is kept, so that a killed run can go on", minimum=0, in_key=False
    )


@dataclass
class DistillWeights:
    """Weights of the terms of the distillation loss."""

    task: float = option(0.1, "cross-entropy with the gold labels", minimum=0)
    logits: float = option(
        0.9, "Kullback-Leibler divergence to the teacher's logits, times temperature squared", minimum=0
    )
    hidden: float = option(0.0, "mean-squared error of mapped hidden states", minimum=0)


@dataclass
class Taught(Training):
    """What every training shares in which a teacher has a part."""

    temperature: float = option(2.0, "softens both distributions", above=0)
    weights: DistillWeights = option(DistillWeights(), "weights of the loss terms")
