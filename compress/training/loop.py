"""One training from the first update to the best epoch's weights, whatever interrupts it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compress.config.schemas import Training
from compress.errors import ConfigError, StepError, UnsupportedError
from compress.tasks.padding import padding_of
from compress.training.batches import Augmenter, Extras
from compress.training.processes import process_count, team
from compress.training.reproducible import reproducible
from compress.training.state import TrainingState

if TYPE_CHECKING:
    import torch

    from compress.tasks.base import Features, Task

__all__ = ["LossFunction", "TaskLoss", "TrainingResult", "long_enough", "task_loss", "train"]

log = logging.getLogger(__name__)

LossFunction = Callable[[Any, dict[str, Any], float], "torch.Tensor"]
"""From the model, a batch and the progress of training to the mean loss, a scalar.

A batch holds inputs, ``labels`` and extras, on the model's device; progress is the share of updates done, 0 to 1.
Under several processes the model is a `compress.training.sharing.SharedModel`, and the batch is that of all of them.
"""


class TaskLoss(Protocol):
    """A `LossFunction` that asks nothing of the progress."""

    def __call__(self, model: Any, batch: dict[str, Any], progress: float = 0.0, /) -> torch.Tensor:
        """Return the mean loss of a batch."""
        ...


@dataclass(frozen=True)
class TrainingResult:
    """What a training found.

    Attributes
    ----------
    metric : float
        Best validation value of the task's metric.
    epoch : int
        The epoch it was reached after, counted from 1; of equal ones the earliest. 0 is the model before training,
        where every epoch is worse.
    history : list of dict
        Per epoch: ``epoch``, ``loss`` (mean over its batches) and every
        validation metric (None where it is no number). Holds no times, so that
        equal work gives an equal history.
    """

    metric: float
    epoch: int
    history: list[dict[str, float | None]] = field(default_factory=list)


def train(
    model: Any,
    tokenizer: Any,
    task: Task,
    train_features: Features,
    validation_features: Features,
    config: Training,
    *,
    seed: int,
    device: str,
    threads: int,
    scratch: Path,
    loss_fn: LossFunction | None = None,
    extras: Extras | None = None,
    augmenter: Augmenter | None = None,
    description: str = "training",
    start_counts: bool = False,
    keep_last: bool = False,
) -> TrainingResult:
    """Train a model in place and leave it with the weights of its best epoch, on the CPU, in evaluation mode.

    AdamW (Loshchilov & Hutter, arXiv 1711.05101) with warm-up, decay and clipping, through
    ``transformers.Trainer``. Batch order depends on seed and epoch alone. Killed at any moment and called again with
    the same arguments it goes on from the last whole state and ends with the same bytes as undisturbed. What no row
    reads of the token table stays as it came (`compress.training.read_rows`).

    Parameters
    ----------
    model
        A transformers model with a task head.
    tokenizer
        For its padding values.
    task
        Pads, gives the loss where `loss_fn` is None, and judges.
    train_features, validation_features
        Tokenized rows with labels; validation picks the best epoch.
    config
        Epochs, batch size, learning rate and so on.
    seed
        Seed of batch order and dropout.
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    threads
        Intra-op threads of torch; of several processes on a machine together.
    scratch
        Directory for the resume state; the caller removes it when the work is safe.
    loss_fn
        Returns the loss of a batch; by default the task's own on the model's logits.
    extras
        Further arrays per row of `train_features` that `loss_fn` finds in its batch; of rows that `augmenter` changed
        they are zeros.
    augmenter
        Changes some of the rows of each batch.
    description
        Names the work in the progress display.
    start_counts
        The model as it comes, of epoch 0, may be the best: for one that answers already, which training can spoil.
    keep_last
        The last epoch counts as the best: for a training whose aim validation does not judge.

    Raises
    ------
    ConfigError
        There is nothing to train or to judge on.
    UnsupportedError
        fp16 on a CPU.
    StepError
        The loss became infinite or no number.
    """
    from compress.training.first_token import first_token_only
    from compress.training.read_rows import only_rows, rows_to_read

    _check(train_features, validation_features, config, device)
    config = long_enough(config, len(train_features))
    names = {item.name for item in fields(Training)} - {"checkpoint_seconds"}
    padding = padding_of(tokenizer)
    more = [] if augmenter is None else augmenter.token_ids
    rows = rows_to_read(model, [train_features, validation_features], [padding["input_ids"], *more])
    facts = {
        **{name: value for name, value in asdict(config).items() if name in names},
        "rows": len(train_features),
        "tokens": sum(train_features.lengths),
        "labels": list(task.labels),
        "metric": task.metric,
        "seed": seed,
        "device": device.partition(":")[0],
        "threads": threads,
        "start_counts": start_counts,
        "keep_last": keep_last,
        "processes": process_count(),
        "table": None if rows is None else sha256(rows.tobytes()).hexdigest(),
    }
    state = TrainingState(scratch / "training", facts)
    members = team()
    own_threads = threads if members is None else members.threads(threads)
    with reproducible(seed, own_threads), only_rows(model, rows), first_token_only(model):
        progress = state.finished()
        if progress is None:
            from compress.training.trainer import run_trainer

            progress = run_trainer(
                model,
                task,
                train_features,
                validation_features,
                padding,
                config,
                state,
                seed=seed,
                device=device,
                loss_fn=loss_fn or task_loss(task),
                extras=extras,
                augmenter=augmenter,
                description=description,
                start_counts=start_counts,
                keep_last=keep_last,
                members=members,
            )
        model.to("cpu")
        _restore(model, state, progress)
    best = progress["best"]
    log.info("%s: best %s %.4f on validation after epoch %d", description, task.metric, best["metric"], best["epoch"])
    return TrainingResult(float(best["metric"]), int(best["epoch"]), list(progress["history"]))


def long_enough(config: Training, rows: int) -> Training:
    """Return a training with as many epochs as its `min_updates` need on so many rows."""
    if config.min_updates is None:
        return config
    batches = math.ceil(rows / config.batch_size)
    per_epoch = math.ceil(batches / config.gradient_accumulation)
    epochs = max(config.epochs, math.ceil(config.min_updates / per_epoch))
    if epochs > config.epochs:
        log.info("%d epochs in place of %d, for %d updates at least", epochs, config.epochs, config.min_updates)
    return replace(config, epochs=epochs)


def task_loss(task: Task) -> TaskLoss:
    """Return the task's own loss on the model's logits."""

    def loss(model: Any, batch: dict[str, Any], progress: float = 0.0, /) -> torch.Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return task.loss(model(**inputs).logits.float(), batch["labels"])

    return loss


def _check(train_features: Features, validation_features: Features, config: Training, device: str) -> None:
    for split, features in (("training", train_features), ("validation", validation_features)):
        if len(features) == 0:
            raise ConfigError(f"the {split} split has no rows; raise data.limit or add rows to it")
        if len(features.labels) != len(features):
            raise ConfigError(f"the {split} split has rows without labels; training needs a label for each")
    if config.precision == "fp16" and device.startswith("cpu"):
        raise UnsupportedError("precision=fp16 trains on a GPU only; on this CPU use precision=fp32")


def _restore(model: Any, state: TrainingState, progress: Mapping[str, Any]) -> None:
    best = progress["best"]
    if best is None or not math.isfinite(best["metric"]):
        raise StepError("no epoch reached a validation metric that is a number; lower learning_rate")
    model.load_state_dict(state.read_best(best), strict=True)
    model.eval()
