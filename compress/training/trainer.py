"""The transformers.Trainer that the loop runs: our batches, our evaluation, our resume state."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from compress.config.schemas import Training
from compress.console import Progress, progress_of
from compress.errors import StepError
from compress.training.arguments import training_arguments
from compress.training.averaging import Average
from compress.training.batches import Augmenter, BatchSampler, Collator, Extras, logits_of
from compress.training.sharing import SharedModel, average_gradients, pack, seed_share
from compress.training.state import TrainingState

if TYPE_CHECKING:
    from compress.tasks.base import Features, Task
    from compress.training.loop import LossFunction
    from compress.training.processes import Team

__all__ = ["follow_trainer", "run_trainer"]

log = logging.getLogger(__name__)

_MODEL_FILE = "model.pt"
_AVERAGE_FILE = "average.pt"


def run_trainer(
    model: Any,
    task: Task,
    train_features: Features,
    validation_features: Features,
    padding: Mapping[str, int],
    config: Training,
    state: TrainingState,
    *,
    seed: int,
    device: str,
    loss_fn: LossFunction,
    extras: Extras | None,
    augmenter: Augmenter | None,
    description: str,
    start_counts: bool,
    keep_last: bool,
    members: Team | None = None,
) -> dict[str, Any]:
    """Train, from the last whole state if there is one; returns the progress as `TrainingState` keeps it.

    Where there are `members`, this is the first of them, and the others follow.
    """
    sampler = BatchSampler(train_features.lengths, config.batch_size, seed)
    updates_per_epoch = -(-len(sampler) // config.gradient_accumulation)
    epoch_end = _EpochEnd(
        model,
        task,
        validation_features,
        padding,
        config,
        state,
        device=device,
        sampler=sampler,
        updates_per_epoch=updates_per_epoch,
        keep_last=keep_last,
    )
    epoch_end.members = members
    resume = state.latest()
    if resume is not None:
        epoch_end.resumed, epoch_end.progress = resume
        log.info("%s: goes on after update %s", description, resume[0].name.rpartition("-")[2])
    elif start_counts:
        model.to(device)
        epoch_end.judge_start(description)
    collate, directory = Collator(task, train_features, padding, extras, augmenter, sampler), state.directory
    if members is not None:
        members.begin(
            pack(
                {
                    "model": model,
                    "collate": collate,
                    "sampler": sampler,
                    "config": config,
                    "loss_fn": loss_fn,
                    "directory": directory,
                    "resumed": epoch_end.resumed,
                    "seed": seed,
                    "device": device,
                    "threads": torch.get_num_threads(),
                }
            )
        )
    with progress_of(description, total=config.epochs * updates_per_epoch, unit="updates") as shown:
        epoch_end.shown = shown
        arguments = training_arguments(config, directory, config.epochs * updates_per_epoch, seed, device)
        _go(model, arguments, _loader(sampler, collate), loss_fn, state, epoch_end, members)
    return epoch_end.progress


def follow_trainer(
    *,
    model: Any,
    collate: Collator,
    sampler: BatchSampler,
    config: Training,
    loss_fn: LossFunction,
    directory: Path,
    resumed: Path | None,
    seed: int,
    device: str,
    members: Team,
) -> None:
    """Take part in the training of another process that calls `run_trainer`; reads its resume state, writes nothing."""
    updates_per_epoch = -(-len(sampler) // config.gradient_accumulation)
    follower = _Follower(model, sampler, updates_per_epoch, members)
    follower.resumed = resumed
    device = members.device(device)
    arguments = training_arguments(config, directory, config.epochs * updates_per_epoch, seed, device)
    _go(model, arguments, _loader(sampler, collate), loss_fn, None, follower, members)


def _loader(sampler: BatchSampler, collate: Collator) -> DataLoader[Any]:
    rows: Any = range(len(sampler.lengths))
    return DataLoader(rows, batch_sampler=sampler, collate_fn=collate)


def _go(
    model: Any,
    arguments: TrainingArguments,
    loader: DataLoader[Any],
    loss_fn: LossFunction,
    state: TrainingState | None,
    around: _EpochEnd | _Follower,
    members: Team | None,
) -> None:
    use_cache = getattr(model.config, "use_cache", None)
    trainer = _Trainer(model=model, args=arguments, callbacks=[around])
    trainer.remove_callback(PrinterCallback)
    trainer.prepare(loader, loss_fn, state, around, members)
    try:
        with warnings.catch_warnings():
            # Recommends calls in an order that Trainer follows; raised where a resumed scheduler is loaded.
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            trainer.train(resume_from_checkpoint=None if around.resumed is None else str(around.resumed))
    finally:
        trainer.accelerator.free_memory()
        model.zero_grad(set_to_none=True)
        if use_cache is not None:
            model.config.use_cache = use_cache


class _Trainer(Trainer):
    """Trainer with our batches and loss, and a resume state that counts only when whole."""

    loss_is_scaled_for_ga = False

    def prepare(
        self,
        loader: DataLoader[Any],
        loss_fn: LossFunction,
        state: TrainingState | None,
        epoch_end: Any,
        members: Team | None,
    ) -> None:
        """Take what the constructor of Trainer has no place for."""
        self.loader = loader
        self.loss_fn = loss_fn
        self.kept = state
        self.epoch_end = epoch_end
        self.members = members

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return our loader; its order needs no generator state, so it is right after a mid-epoch resume too."""
        return self.loader

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch, which must be a number."""
        if self.members is not None:
            batch = self.epoch_end.progress["batches"]
            if self.members.rank > 0:
                seed_share(self.args.seed, self.members.rank, self.state.global_step, batch)
            model = SharedModel(model, self.members)
        loss = self.loss_fn(model, inputs, self.state.global_step / self.state.max_steps)
        value = loss.item()
        if not math.isfinite(value):
            raise StepError(
                f"the loss became {value} at step {self.state.global_step + 1}: the training diverged; "
                f"lower learning_rate (now {self.args.learning_rate:g}) or max_grad_norm"
            )
        self.epoch_end.progress["loss_sum"] += value
        self.epoch_end.progress["batches"] += 1
        return loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of a batch, its gradients computed; of several processes the same in all of them."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.members is not None and self.accelerator.sync_gradients:
            average_gradients(model, self.members)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody reads it, and counting parameters takes a millisecond of every step."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> None:
        return None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.kept is not None
        path = self.kept.begin(self.state.global_step)
        weights, average = self.epoch_end.model.state_dict(), self.epoch_end.average
        # The weights, and two moments of each in AdamW.
        size = 3 * sum(tensor.nbytes for tensor in weights.values()) + (0 if average is None else average.nbytes)
        with self.kept.saving(size):
            torch.save(weights, path / _MODEL_FILE)
            if average is not None:
                average.save(path / _AVERAGE_FILE)
            self._save_optimizer_and_scheduler(str(path))
            self._save_scaler(str(path))
            self._save_rng_state(str(path))
            self.state.save_to_json(str(path / "trainer_state.json"))
        self.kept.complete(path, self.epoch_end.progress)
        self.epoch_end.saved_at = time.monotonic()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        path = Path(resume_from_checkpoint) / _MODEL_FILE
        self.epoch_end.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)


class _EpochEnd(TrainerCallback):
    """Judges each epoch on validation, keeps the best, stops when patience is over, decides when to save."""

    def __init__(
        self,
        model: Any,
        task: Task,
        features: Features,
        padding: Mapping[str, int],
        config: Training,
        state: TrainingState,
        *,
        device: str,
        sampler: BatchSampler,
        updates_per_epoch: int,
        keep_last: bool,
    ) -> None:
        self.model = model
        self.task = task
        self.features = features
        self.padding = padding
        self.config = config
        self.kept = state
        self.device = device
        self.sampler = sampler
        self.keep_last = keep_last
        self.updates_per_epoch = updates_per_epoch
        self.progress: dict[str, Any] = {"best": None, "history": [], "loss_sum": 0.0, "batches": 0}
        self.saved_at = time.monotonic()
        self.shown: Progress | None = None
        self.resumed: Path | None = None
        self.average: Average | None = None
        self.members: Team | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show what a resumed training has behind it; begin or go on with the average."""
        if self.config.average is not None:
            self.average = Average(self.model, self.config.average)
            if self.resumed is not None:
                self.average.load(self.resumed / _AVERAGE_FILE)
        if self.shown is not None:
            self.shown.start_at(state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the sampler the epoch, by whole updates: `state.epoch` is a float."""
        self.sampler.epoch = state.global_step // self.updates_per_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save when it is time; never at an epoch's last update, whose evaluation is still to come."""
        if self.average is not None:
            self.average.update(state.global_step)
        if self.shown is not None:
            self.shown.advance(note=self._note())
        due = time.monotonic() - self.saved_at >= self.config.checkpoint_seconds
        if due and state.global_step % self.updates_per_epoch:
            control.should_save = True
        return control

    def judge_start(self, description: str) -> None:
        """Take the model as it comes for the best so far: epoch 0."""
        value = self._metrics()[self.task.metric]
        log.info("%s: validation %s %.4f before training", description, self.task.metric, value)
        if self._is_better(value, None):
            self.progress["best"] = {"epoch": 0, "metric": value, **self.kept.write_best(0, self.model.state_dict())}

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Evaluate, keep, stop or save."""
        with nullcontext() if self.average is None else self.average.applied():
            self._judge(state.global_step // self.updates_per_epoch, control)
        if self.members is not None:
            self.members.agree(control.should_training_stop)
        return control

    def _judge(self, epoch: int, control: Any) -> None:
        metrics = self._metrics()
        value = metrics[self.task.metric]
        loss = self.progress["loss_sum"] / max(1, self.progress["batches"])
        known = {name: number if math.isfinite(number) else None for name, number in metrics.items()}
        # Sorted, as it comes back from a resume state: equal work gives equal bytes.
        entry = dict(sorted({"epoch": epoch, "loss": loss, **known}.items()))
        history = [*self.progress["history"], entry]
        best = self.progress["best"]
        if self._is_better(value, best):
            best = {"epoch": epoch, "metric": value, **self.kept.write_best(epoch, self.model.state_dict())}
        self.progress = {"best": best, "history": history, "loss_sum": 0.0, "batches": 0}
        log.info(
            "epoch %d/%d: loss %.4f, validation %s %.4f%s",
            *(epoch, self.config.epochs, loss, self.task.metric, value),
            " (best)" if best is not None and best["epoch"] == epoch else "",
        )
        patience = self.config.patience
        stale = epoch - (best["epoch"] if best is not None else 0)
        if epoch >= self.config.epochs or (patience is not None and stale >= patience):
            self.kept.finish(self.progress)
            control.should_training_stop = True
        else:
            control.should_save = True

    def _metrics(self) -> dict[str, float]:
        answers = logits_of(
            self.model, self.task, self.features, self.padding, device=self.device, precision=self.config.precision
        )
        return {name: float(value) for name, value in self.task.metrics(answers, self.features).items()}

    def _is_better(self, value: float, best: Mapping[str, Any] | None) -> bool:
        if math.isnan(value):
            return False
        if best is None or self.keep_last or (best["epoch"] == 0 and value == best["metric"]):
            return True
        return bool(value > best["metric"] if self.task.higher_is_better else value < best["metric"])

    def _note(self) -> str:
        loss = self.progress["loss_sum"] / max(1, self.progress["batches"])
        return f"loss {loss:.4f}"


class _Follower(TrainerCallback):
    """What a process other than the first does around its share of the batches: go on as long as the first does."""

    def __init__(self, model: Any, sampler: BatchSampler, updates_per_epoch: int, members: Team) -> None:
        self.model = model
        self.sampler = sampler
        self.updates_per_epoch = updates_per_epoch
        self.members = members
        self.resumed: Path | None = None
        self.progress: dict[str, Any] = {"loss_sum": 0.0, "batches": 0}

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the sampler the epoch."""
        self.sampler.epoch = state.global_step // self.updates_per_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the batches of the next update from 0, wherever the training was resumed."""
        self.progress["batches"] = 0

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Wait for the evaluation, and stop where it says so."""
        control.should_training_stop = self.members.agree(False)
        return control
