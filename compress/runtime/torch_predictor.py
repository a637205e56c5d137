"""A model run by torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import DataError
from compress.runtime.base import MODEL_INPUTS, Predictor

if TYPE_CHECKING:
    import torch

    from compress.checkpoint import Checkpoint
    from compress.tasks.base import Task

__all__ = ["TorchPredictor"]


class TorchPredictor(Predictor):
    """Run a transformers model with a task head, in eval mode and without gradients.

    Parameters
    ----------
    model : torch.nn.Module
        Takes token ids, returns an object with ``logits``. Moved to `device`.
    task : Task or None
        What it was trained for.
    tokenizer
        The tokenizer it was trained with.
    threads : int
        Intra-op threads; torch knows one number per process, it is set again before each batch.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    checkpoint : Checkpoint, optional
        Where it came from.
    max_length : int, optional
        Longest input in tokens.
    """

    runtime = "torch"

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        task: Task | None,
        tokenizer: Any,
        threads: int,
        device: str = "cpu",
        checkpoint: Checkpoint | None = None,
        max_length: int = 512,
    ) -> None:
        self.model = model.to(device).eval()
        self.task, self.tokenizer, self.checkpoint = task, tokenizer, checkpoint
        self.threads, self.device, self.max_length = threads, device, max_length
        accepted = inspect.signature(model.forward).parameters
        self.input_names = tuple(name for name in MODEL_INPUTS if name in accepted)

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run one batch; see `Predictor.logits`."""
        inputs = self._tensors(batch)
        found: np.ndarray = self._run(inputs).logits.float().cpu().numpy()
        return found

    def session(self, batch: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        """Return a function that runs `batch` once; on a GPU it waits for the result."""
        import torch

        inputs, model, device = self._tensors(batch), self.model, self.device
        torch.set_num_threads(self.threads)

        def run_cpu() -> Any:
            with torch.inference_mode():
                return model(**inputs).logits

        def run_cuda() -> Any:
            with torch.inference_mode():
                logits = model(**inputs).logits
            torch.cuda.synchronize(device)
            return logits

        return run_cuda if device.startswith("cuda") else run_cpu

    def device_timer(self, batch: Mapping[str, np.ndarray]) -> Callable[[], float] | None:
        """Return a function that times one batch by CUDA events: the GPU's time without the launch before it."""
        if not self.device.startswith("cuda"):
            return None
        import torch

        inputs, model, device = self._tensors(batch), self.model, self.device
        event: Any = torch.cuda.Event
        first, last = event(enable_timing=True), event(enable_timing=True)

        def run() -> float:
            with torch.inference_mode(), torch.cuda.device(device):
                first.record()
                model(**inputs)
                last.record()
            last.synchronize()
            return float(first.elapsed_time(last))

        return run

    def to_transformers(self) -> Any:
        """Return the transformers module itself, pruned or not, in eval mode: for what a predictor does not offer."""
        return self.model

    def set_threads(self, threads: int) -> None:
        """Change the intra-op threads of this process."""
        import torch

        self.threads = threads
        torch.set_num_threads(threads)

    def close(self) -> None:
        """Free the model."""
        import torch

        self.model = torch.nn.Identity()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _tensors(self, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        import torch

        prepared = self._prepare(batch)
        ids = prepared["input_ids"]
        positions = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        if positions is not None and ids.shape[1] > positions:
            raise DataError(f"a batch of the shape {list(ids.shape)} is too long: the model has {positions} positions")
        vocabulary = self.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if ids.max() >= vocabulary:  # on a GPU this would bring down the whole process
            raise DataError(f"input_ids holds {ids.max()}: ids too high, the model has {vocabulary} tokens")
        return {name: torch.from_numpy(values).to(self.device) for name, values in prepared.items()}

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        import torch

        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            return self.model(**inputs)
