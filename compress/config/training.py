"""Schemas that every training shares."""

from __future__ import annotations

from dataclasses import dataclass

from compress.config.options import option

__all__ = ["Augmentation", "Decoupled", "DistillWeights", "Relations", "Replacement", "Stage", "Taught", "Training"]


@dataclass
class Training:
    """What every step that trains shares."""

    epochs: int = option(3, "passes over the training split", minimum=1)
    min_updates: int | None = option(
        None, "updates at least: with few rows there are as many more epochs; null leaves it at epochs", minimum=1
    )
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
    """Weights of the terms of the distillation loss; one of weight 0 is not computed."""

    task: float = option(0.1, "cross-entropy with the gold labels", minimum=0)
    task_end: float | None = option(
        None, "of task at the last update, reached in equal steps; null keeps task", minimum=0
    )
    logits: float = option(
        0.9, "Kullback-Leibler divergence to the teacher's logits, times temperature squared", minimum=0
    )
    logits_mse: float = option(0.0, "mean-squared error of logits", minimum=0)
    decoupled: float = option(0.0, "decoupled divergence to the teacher's logits (DKD)", minimum=0)
    hidden: float = option(0.0, "mean-squared error of mapped hidden states", minimum=0)
    embeddings: float = option(0.0, "mean-squared error of the embeddings' output", minimum=0)
    tokens: float = option(0.0, "distance of mapped hidden states, token by token (ZipLM)", minimum=0)
    cosine: float = option(0.0, "one minus the cosine of mapped hidden states (DistilBERT)", minimum=0)
    attention: float = option(0.0, "mean-squared error of mapped attention scores (TinyBERT)", minimum=0)
    minilm: float = option(0.0, "attention and value relations of the last layer (MiniLM)", minimum=0)
    relations: float = option(
        0.0, "query, key and value relations of a layer, whatever the heads (MiniLMv2)", minimum=0
    )
    contrastive: float = option(0.0, "a text's mean hidden state against those of the batch (InfoNCE)", minimum=0)
    rdrop: float = option(0.0, "divergence of two passes with other dropout (R-Drop)", minimum=0)


@dataclass
class Decoupled:
    """Weights within the decoupled divergence."""

    alpha: float = option(1.0, "of the target class against all others", minimum=0)
    beta: float = option(2.0, "of the others among themselves", minimum=0)


@dataclass
class Relations:
    """What relations are compared, and where."""

    heads: int | None = option(
        None,
        "relation heads that queries, keys and values are cut into; null is the teacher's heads, or the most below "
        "that divide both models' widths",
        minimum=1,
    )
    layer: int | None = option(None, "the teacher's layer, counted from 0; null is its last", minimum=0)


@dataclass
class Augmentation:
    """Rows changed as they are drawn, and answered by the teacher as they come."""

    share: float = option(0.0, "of the rows of a batch that are changed; 0 is off", minimum=0, maximum=1)
    mask: float = option(0.15, "of a changed row's tokens that become the mask token", minimum=0, maximum=0.9)
    delete: float = option(0.1, "of a changed row's tokens that go", minimum=0, maximum=0.9)
    mix: float = option(0.5, "chance that a changed row gets a span of another row", minimum=0, maximum=1)
    mixup: float | None = option(
        None, "changed rows are mixed in pairs after the embedding, by Beta(mixup, mixup); null is off", above=0
    )


@dataclass
class Stage(Training):
    """A training before the one that teaches answers; its data and its layer map are those of the latter."""

    epochs: int = option(0, "passes over the training split before answers are taught; 0 is off", minimum=0)
    # A small encoder takes a larger learning rate than BERT-base does.
    learning_rate: float = option(5e-4, "peak learning rate", above=0)
    weights: DistillWeights = option(DistillWeights(task=0.0, logits=0.0), "weights of its loss terms")


@dataclass
class Replacement:
    """Student layers that stand in, one by one, for blocks of their teacher's layers (BERT-of-Theseus)."""

    rate: float | None = option(
        None,
        "probability at the start that a student layer runs and not its block; null or 0 is off",
        minimum=0,
        maximum=1,
    )
    full_at: float = option(
        0.5,
        "share of the updates at which it is 1, reached in equal steps; embeddings and head learn after it",
        above=0,
        maximum=1,
    )


@dataclass
class Taught(Training):
    """What every training shares in which a teacher has a part."""

    temperature: float = option(2.0, "softens both distributions", above=0)
    weights: DistillWeights = option(DistillWeights(), "weights of the loss terms")
    layer_map: str = option(
        "uniform",
        "which teacher layers the student's are compared with: spread over the depth, the last, every k-th, or "
        "anew in each batch the nearest student layer",
        choices=["uniform", "last", "skip", "nearest"],
    )
    teacher_layers: list[int] | None = option(
        None, "teacher layers, counted from 0, of the student's in order; null leaves it to layer_map", minimum=0
    )
    decoupled: Decoupled = option(Decoupled(), "weights within weights.decoupled")
    relations: Relations = option(Relations(), "of weights.relations and weights.minilm")
    contrastive_temperature: float = option(0.1, "of weights.contrastive", above=0)
    augment: Augmentation = option(Augmentation(), "changed rows beside the data as they are")
    unlabelled: str | None = option(
        None, "file of further texts, one a line or a table as data=files reads it, labelled by the teacher alone"
    )
    teacher_bytes: float = option(
        4e9,
        "hidden states of the teacher that may be kept on disk; beyond, it answers again in each epoch",
        minimum=0,
        in_key=False,
    )
