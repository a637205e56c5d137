"""A model run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import CheckpointError, DataError, UnsupportedError
from compress.runtime.base import Predictor, checked_inputs
from compress.runtime.encoder import TextEncoder

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.tasks.base import Task

__all__ = ["OnnxPredictor", "open_onnx"]

_ERRORS_ONLY = 3


class OnnxPredictor(Predictor):
    """Run an ``.onnx`` file that takes token ids and returns logits.

    Threads spin while they wait, as is ONNX Runtime's default; graph optimisations are all on, and made
    when the file is opened, for the machine that opens it.

    Parameters
    ----------
    path : pathlib.Path
        The ``.onnx`` file; external data is looked for beside it.
    task, tokenizer, checkpoint
        As far as they are known; see `Predictor`.
    threads : int
        Intra-op threads.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    max_length : int, optional
        Longest input in tokens.
    provider : str
        On a GPU: ``cuda``, ``tensorrt`` (which compiles when it opens, and leaves to CUDA what it cannot do), or
        ``auto``, which is ``cuda``.

    Raises
    ------
    CheckpointError
        If the file is not such a model.
    UnsupportedError
        If the installed ONNX Runtime has no provider for `device`.
    """

    runtime = "onnxruntime"

    def __init__(
        self,
        path: Path,
        *,
        task: Task | None,
        tokenizer: Any,
        threads: int,
        device: str = "cpu",
        checkpoint: Checkpoint | None = None,
        max_length: int = 512,
        provider: str = "auto",
    ) -> None:
        self.path, self.provider = path, provider
        self.task, self.tokenizer, self.checkpoint = task, tokenizer, checkpoint
        self.threads, self.device, self.max_length = threads, device, max_length
        self._session = self._open()
        self.input_names, self.output_name = self._signature()

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run one batch; see `Predictor.logits`."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        feeds = self._prepare(batch)
        try:
            found: np.ndarray = self._session.run([self.output_name], feeds)[0]
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            shape = list(feeds["input_ids"].shape)
            raise DataError(
                f"a batch of the shape {shape} does not fit {self.path.name} (too long, or ids too high): {error}"
            ) from error
        return found.astype(np.float32, copy=False)

    def session(self, batch: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        """Return a function that runs `batch` once; on a GPU inputs and outputs stay there, and it waits."""
        feeds, session, names = self._prepare(batch), self._session, [self.output_name]
        if self.device == "cpu":
            return lambda: session.run(names, feeds)
        binding = session.io_binding()
        for name, values in feeds.items():
            binding.bind_ortvalue_input(name, _on_device(values, self.device))
        binding.bind_output(self.output_name, "cuda", _number(self.device))

        def run() -> Any:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return binding

        return run

    def set_threads(self, threads: int) -> None:
        """Change the intra-op threads; opens the file again, because a session keeps its pool."""
        if threads != self.threads:
            self.threads = threads
            self._session = self._open()

    def close(self) -> None:
        """Free the session and its threads."""
        self._session = None

    def _open(self) -> Any:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        if not self.path.is_file():
            raise CheckpointError(f"{self.path}: no such ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = _ERRORS_ONLY
        wanted = _wanted(self.device, self.provider)
        absent = [name for name in wanted if name not in onnxruntime.get_available_providers()]
        if absent:
            raise UnsupportedError(
                f"device={self.device}: the installed ONNX Runtime has no {absent[0]}, only "
                f"{', '.join(onnxruntime.get_available_providers())}; install onnxruntime-gpu or use device=cpu"
            )
        number = {"device_id": _number(self.device)}
        providers: list[Any] = [*((name, number) for name in wanted), "CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except (
            state.Fail,
            state.InvalidArgument,
            state.InvalidGraph,
            state.InvalidProtobuf,
            state.NoModel,
            state.NotImplemented,
            state.RuntimeException,
        ) as error:
            raise CheckpointError(f"{self.path}: ONNX Runtime cannot open it: {error}") from error
        silent = [name for name in wanted if name not in session.get_providers()]
        if silent:
            raise UnsupportedError(
                f"device={self.device}: ONNX Runtime has the {silent[0]} but could not start it (driver or "
                f"libraries missing or of another version); use device=cpu"
            )
        return session

    def _signature(self) -> tuple[tuple[str, ...], str]:
        types = {value.name: str(value.type) for value in self._session.get_inputs()}
        names = checked_inputs(self.path, types, "tensor(int64)")
        outputs = [value.name for value in self._session.get_outputs()]
        if "logits" not in outputs and len(outputs) != 1:
            raise CheckpointError(f"{self.path}: its outputs are {', '.join(outputs)}; needed is logits")
        return names, "logits" if "logits" in outputs else outputs[0]


def open_onnx(
    directory: Path,
    *,
    task: Task | None,
    threads: int,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    max_length: int = 512,
    provider: str = "auto",
) -> OnnxPredictor:
    """Open the ``model.onnx`` and the tokenizer in a directory, be it a whole checkpoint yet or not.

    Without a task there is no use for a tokenizer, and none is read.
    """
    return OnnxPredictor(
        directory / "model.onnx",
        task=task,
        tokenizer=None if task is None else TextEncoder(directory),
        threads=threads,
        device=device,
        checkpoint=checkpoint,
        max_length=max_length,
        provider=provider,
    )


def _wanted(device: str, provider: str) -> list[str]:
    """Return the execution providers that must be there, beside the CPU's."""
    if device == "cpu":
        return []
    return [*(["TensorrtExecutionProvider"] if provider == "tensorrt" else []), "CUDAExecutionProvider"]


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _on_device(values: np.ndarray, device: str) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", _number(device))
