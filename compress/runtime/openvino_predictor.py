"""A model run by OpenVINO."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import CheckpointError, DataError, UnsupportedError
from compress.machine import need_extra
from compress.models.families import families
from compress.openvino_ir import MODEL_FILE, WEIGHTS_FILE
from compress.runtime.base import Predictor, checked_inputs
from compress.runtime.encoder import TextEncoder

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.tasks.base import Task

__all__ = ["OpenVINOPredictor", "cpu_properties", "open_openvino"]


def cpu_properties(threads: int, inference_precision: str = "f32") -> dict[str, Any]:
    """Return the properties that a model is compiled with for the CPU.

    One stream, so that one request has all of the threads (the latency hint); the threads asked for are used even
    where two of them share a core; nothing is kept on disk. `inference_precision` is what floats are computed in:
    ``f32``, or ``bf16`` where the processor has it. OpenVINO's own default would be bf16 on such a processor.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,
        "INFERENCE_PRECISION_HINT": inference_precision,
    }


class OpenVINOPredictor(Predictor):
    """Run a ``model.xml`` that takes token ids and returns logits, on the CPU.

    Parameters
    ----------
    path : pathlib.Path
        The ``.xml`` file; the weights are in the ``.bin`` beside it.
    task, tokenizer, checkpoint
        As far as they are known; see `Predictor`.
    threads : int
        Threads of a request.
    device : str
        ``cpu``.
    max_length : int, optional
        Longest input in tokens.
    inference_precision : str
        What floats are computed in: ``f32`` or ``bf16``.

    Raises
    ------
    CheckpointError
        If the file is not such a model.
    UnsupportedError
        Without the extra ``openvino``, for another device, or for bf16 where the processor has none.
    """

    runtime = "openvino"

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
        inference_precision: str = "f32",
    ) -> None:
        need_extra("openvino", ["openvino"], f"{path}: a model in the format openvino")
        if device != "cpu":
            raise UnsupportedError(f"device={device}: OpenVINO does not run on CUDA; use device=cpu or device=auto")
        self.path, self.inference_precision = path, inference_precision
        self.task, self.tokenizer, self.checkpoint = task, tokenizer, checkpoint
        self.threads, self.device, self.max_length = threads, device, max_length
        self._model = self._read()
        self.input_names, self._vocabulary = self._signature()
        self._positions = _positions(path.parent / "config.json")
        self._compiled = self._compile()
        self._request = self._compiled.create_infer_request()

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run one batch; see `Predictor.logits`."""
        feeds = self._feeds(batch)
        try:
            found: np.ndarray = self._request.infer(feeds, share_inputs=True)[0]
        except RuntimeError as error:
            shape = list(feeds["input_ids"].shape)
            raise DataError(
                f"a batch of the shape {shape} does not fit {self.path.name} (too long, or ids too high): {error}"
            ) from error
        return found.astype(np.float32, copy=False)

    def session(self, batch: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        """Return a function that runs `batch` once; its inputs are set once, its output is read in place."""
        from openvino import Tensor

        feeds, request = self._feeds(batch), self._compiled.create_infer_request()
        tensors = {name: Tensor(values, shared_memory=True) for name, values in feeds.items()}
        for name, tensor in tensors.items():
            request.set_tensor(name, tensor)

        def run() -> Any:
            request.infer(share_outputs=True)
            return tensors

        return run

    def set_threads(self, threads: int) -> None:
        """Change the threads of a request; compiles the model again."""
        if threads != self.threads:
            self.threads = threads
            self._request = None
            self._compiled = self._compile()
            self._request = self._compiled.create_infer_request()

    def executed(self) -> dict[str, Any]:
        """Count what the model does in integers and in floats; see `compress.openvino_ir.executed_kernels`."""
        from compress.openvino_ir import executed_kernels

        return executed_kernels(self._compiled)

    def close(self) -> None:
        """Free the model and its threads."""
        self._request = self._compiled = self._model = None

    def _feeds(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the inputs, checked: beyond a table's end OpenVINO reads zeros instead of refusing."""
        feeds = self._prepare(batch)
        ids = feeds["input_ids"]
        if self._positions is not None and ids.shape[1] > self._positions:
            shape = list(ids.shape)
            raise DataError(f"a batch of the shape {shape} is too long: the model has {self._positions} positions")
        highest = int(ids.max())
        if self._vocabulary is not None and highest >= self._vocabulary:
            raise DataError(f"input_ids holds {highest}: ids too high, the model has {self._vocabulary} tokens")
        return feeds

    def _read(self) -> Any:
        import openvino

        weights = self.path.with_suffix(".bin")
        for file in (self.path, weights):
            if not file.is_file():
                raise CheckpointError(f"{file}: no such file; a model of OpenVINO is {MODEL_FILE} and {WEIGHTS_FILE}")
        try:
            return openvino.Core().read_model(str(self.path), str(weights))
        except RuntimeError as error:
            raise CheckpointError(f"{self.path}: OpenVINO cannot read it: {error}") from error

    def _compile(self) -> Any:
        import openvino

        core = openvino.Core()
        if self.inference_precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UnsupportedError(
                f"{self.path}: made for inference in bf16, which this processor has not; quantize with "
                f"inference_precision=f32"
            )
        try:
            return core.compile_model(self._model, "CPU", cpu_properties(self.threads, self.inference_precision))
        except RuntimeError as error:
            raise CheckpointError(f"{self.path}: OpenVINO cannot open it: {error}") from error

    def _signature(self) -> tuple[tuple[str, ...], int | None]:
        inputs = {name: value for value in self._model.inputs for name in value.get_names()}
        types = {name: str(value.get_element_type().get_type_name()) for name, value in inputs.items()}
        names = checked_inputs(self.path, types, "i64")
        if len(self._model.outputs) != 1:
            raise CheckpointError(f"{self.path}: it has {len(self._model.outputs)} outputs; needed is logits alone")
        return names, _rows(inputs["input_ids"])


def open_openvino(
    directory: Path,
    *,
    task: Task | None,
    threads: int,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    max_length: int = 512,
    inference_precision: str = "f32",
) -> OpenVINOPredictor:
    """Open the ``model.xml`` and the tokenizer in a directory, be it a whole checkpoint yet or not.

    Without a task there is no use for a tokenizer, and none is read.
    """
    return OpenVINOPredictor(
        directory / MODEL_FILE,
        task=task,
        tokenizer=None if task is None else TextEncoder(directory),
        threads=threads,
        device=device,
        checkpoint=checkpoint,
        max_length=max_length,
        inference_precision=inference_precision,
    )


def _positions(config: Path) -> int | None:
    """Return the longest input that the table of positions has room for, by config.json; None where it is not said."""
    if not config.is_file():
        return None
    content = json.loads(config.read_text(encoding="utf-8"))
    rows, known = content.get("max_position_embeddings"), families().get(str(content.get("model_type")))
    if not isinstance(rows, int):
        return None
    return rows - int(content.get("pad_token_id") or 0) - 1 if known and known.positions_after_padding else rows


def _rows(ids: Any) -> int | None:
    """Return how many rows the tables have that token ids are looked up in; None where none is found."""
    found, waiting = [], list(ids.get_target_inputs())
    while waiting:
        reader = waiting.pop()
        node = reader.get_node()
        if node.get_type_name() == "Convert":
            waiting.extend(node.output(0).get_target_inputs())
        elif node.get_type_name() == "Gather" and reader.get_index() == 1:
            shape = node.input_value(0).get_partial_shape()
            if shape.rank.is_static and shape[0].is_static:
                found.append(shape[0].get_length())
    return min(found, default=None)
