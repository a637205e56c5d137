"""A model that ``torch.compile`` compiles for the CPU, at the settings that serve inference there best."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import CheckpointError, UnsupportedError
from compress.runtime.torch_predictor import TorchPredictor

if TYPE_CHECKING:
    import torch

    from compress.checkpoint import Checkpoint

__all__ = ["CompiledPredictor", "cpu_only", "open_way"]

_RUNS = 2
"""Runs of each new shape before it is handed out: the first compiles, the second finds what the first left."""


class CompiledPredictor(TorchPredictor):
    """Run a transformers model through TorchInductor.

    Weights are constants of the graph (``freezing``), so that they are packed once for oneDNN and MKL, and products
    are tuned (``max_autotune``); see torch/_inductor/config.py and
    https://docs.pytorch.org/tutorials/unstable/max_autotune_on_CPU_tutorial.html. Kernels are made for one number of
    threads, so each number compiles anew. What is timed is compiled for its own shape, and compiled before it is
    handed out; texts at many lengths, and `logits`, share a graph with dynamic shapes.

    Parameters
    ----------
    model : torch.nn.Module
        As of `TorchPredictor`; so are all others but this one. The CPU is the only device.
    tuned : bool
        Whether kernels of products are tried out for what is timed.
    """

    runtime = "torch.compile"

    def __init__(self, model: torch.nn.Module, *, tuned: bool = True, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.tuned = tuned
        self._any_shape: Any = None

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run one batch; see `Predictor.logits`. The first call compiles."""
        import torch

        inputs = self._tensors(batch)
        if self._any_shape is None:
            torch.compiler.reset()
            self._any_shape = self._compile(dynamic=True, tuned=False)  # which changes the time, not the answers
        with self._compiling():
            found: np.ndarray = self._any_shape(**inputs).logits.float().numpy()
        return found

    def session(self, batch: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        """Return a function that runs `batch` once, compiled for its shape; it replaces what was handed out before."""
        return self.sessions([batch])[0]

    def sessions(self, batches: Sequence[Mapping[str, np.ndarray]]) -> list[Callable[[], Any]]:
        """Return a function per batch; one shape is compiled for itself, several share a graph of dynamic shapes.

        Everything compiled before is dropped: else the compiler would sooner or later meet its limit of variants of
        one model and go on uncompiled.
        """
        import torch

        prepared = [self._tensors(batch) for batch in batches]
        shapes = {tuple(inputs["input_ids"].shape): inputs for inputs in prepared}
        torch.compiler.reset()
        self._any_shape = None
        run = self._compile(dynamic=len(shapes) > 1, tuned=self.tuned)
        with self._compiling():
            for inputs in shapes.values():
                for _ in range(_RUNS):
                    run(**inputs)

        def session(inputs: Mapping[str, torch.Tensor]) -> Callable[[], Any]:
            def once() -> Any:
                with torch.inference_mode():
                    return run(**inputs).logits

            return once

        return [session(inputs) for inputs in prepared]

    def set_threads(self, threads: int) -> None:
        """Change the intra-op threads; what was compiled for another number is dropped."""
        super().set_threads(threads)
        self._any_shape = None

    def close(self) -> None:
        """Free the model and what was compiled of it."""
        import torch

        super().close()
        self._any_shape = None
        torch.compiler.reset()

    def _compile(self, *, dynamic: bool, tuned: bool) -> Any:
        import torch

        options: dict[str, Any] = {"freezing": True, "max_autotune": tuned, "cpp.threads": self.threads}
        options["compile_threads"] = 1  # in this process: it forks none that would stay
        return torch.compile(self.model, dynamic=dynamic, options=options)

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        """Hold what the compiler reads when a call compiles: it must know of freezing before it sees the options."""
        import torch
        from torch._dynamo import config as tracing
        from torch._inductor import config as inductor

        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with (
            torch.inference_mode(),
            inductor.patch(freezing=True),
            tracing.patch(fail_on_recompile_limit_hit=True),
        ):
            yield


def cpu_only(directory: Path, device: str) -> None:
    """Refuse a GPU: the settings here are those of a CPU."""
    if device not in ("auto", "cpu"):
        raise UnsupportedError(f"{directory}: device={device}: a peer is run on the CPU; use device=cpu or device=auto")


def open_way(directory: Path, checkpoint: Checkpoint | None, threads: int, device: str) -> CompiledPredictor:
    """Open a torch checkpoint of ours, or a Hugging Face directory, to be compiled."""
    from compress.runtime.foreign import open_foreign
    from compress.runtime.opening import open_torch

    cpu_only(directory, device)
    if checkpoint is not None and checkpoint.format != "torch":
        raise CheckpointError(
            f"{directory}: torch.compile takes a checkpoint of torch, this one is {checkpoint.format}"
        )
    plain = open_foreign(directory, threads, "cpu") if checkpoint is None else open_torch(checkpoint, threads, "cpu")
    assert isinstance(plain, TorchPredictor)
    return CompiledPredictor(
        plain.model,
        task=plain.task,
        tokenizer=plain.tokenizer,
        threads=threads,
        checkpoint=checkpoint,
        max_length=plain.max_length,
    )
