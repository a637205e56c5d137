"""Open whatever is there: a checkpoint of ours or of Hugging Face, an ``.onnx`` file, a ``.xml`` file of OpenVINO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CheckpointError, ConfigError, UnsupportedError

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.runtime.base import Predictor
    from compress.runtime.torch_predictor import TorchPredictor

__all__ = ["load", "open_predictor", "open_torch"]

_GRAPHS = (".onnx", ".xml")
"""Endings of single files that hold a whole model, be its numbers beside it."""


def open_predictor(
    path_or_checkpoint: str | os.PathLike[str] | Checkpoint,
    threads: int | None = None,
    device: str = "auto",
    provider: str = "auto",
) -> Predictor:
    """Open a model for inference.

    Parameters
    ----------
    path_or_checkpoint : path or Checkpoint
        A directory that this project wrote (any format), a directory with a fine-tuned Hugging Face
        classifier or tagger in safetensors, an ``.onnx`` file, or a ``.xml`` file of OpenVINO. A directory with a
        ``peer.json`` is run by another project's way (see `compress.runtime.peers`). No network and no store is asked.
    threads : int, optional
        Intra-op threads; by default the cores that this process may use.
    device : str, default "auto"
        ``cpu``, ``cuda``, ``cuda:N``; ``auto`` takes a GPU where there is one, except for INT8, which the
        CUDA provider of ONNX Runtime runs slower than fp32, and for OpenVINO, which runs on the CPU.
    provider : str, default "auto"
        ONNX Runtime's execution provider on a GPU: ``cuda`` (as ``auto``) or ``tensorrt``.

    Returns
    -------
    Predictor
        With ``predict``, ``logits`` and ``session``.

    Raises
    ------
    CheckpointError
        If nothing there can be opened or a file is not what its hash says.
    MachineError, UnsupportedError
        If the device is absent, or an extra that the model needs.
    """
    from compress.checkpoint import Checkpoint, open_checkpoint

    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}; at least 1 is needed")
    threads = threads if threads is not None else _cores()
    if isinstance(path_or_checkpoint, Checkpoint):
        return _open_own(path_or_checkpoint, threads, device, provider)
    path = Path(path_or_checkpoint).expanduser()
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or directory")
    if path.is_file() and path.suffix not in _GRAPHS:
        raise CheckpointError(
            f"{path} is a file; needed is a checkpoint's directory, an .onnx or an OpenVINO .xml file"
        )
    folder = path if path.is_dir() else path.parent
    if (folder / "checkpoint.json").is_file() and (path.is_dir() or path.name in ("model.onnx", "model.xml")):
        return _open_own(open_checkpoint(folder), threads, device, provider)
    if path.is_dir() and not (path / "config.json").is_file():
        inner = path / "artifact"
        hint = f"; its model is in {inner}" if (inner / "checkpoint.json").is_file() else ""
        raise CheckpointError(f"{path} holds neither a checkpoint.json nor a config.json: it is no checkpoint{hint}")
    from compress.runtime.foreign import open_foreign
    from compress.runtime.peers import open_peer, way_of

    if path.is_dir() and way_of(path) is not None:
        return open_peer(path, None, threads, device)
    return open_foreign(path, threads, device, provider)


load = open_predictor


def _open_own(checkpoint: Checkpoint, threads: int, device: str, provider: str) -> Predictor:
    from compress import tasks
    from compress.runtime.peers import open_peer, way_of

    if way_of(checkpoint.path) is not None:
        return open_peer(checkpoint.path, checkpoint, threads, device)
    manifest = checkpoint.manifest
    task = tasks.create(manifest.task, manifest.labels, metric=manifest.metric)
    if checkpoint.format == "onnx":
        from compress.runtime.onnx_predictor import open_onnx

        return open_onnx(
            checkpoint.path,
            task=task,
            threads=threads,
            device=onnx_device(device, checkpoint.precision),
            checkpoint=checkpoint,
            max_length=manifest.max_length,
            provider=provider,
        )
    if checkpoint.format == "openvino":
        from compress.runtime.openvino_predictor import open_openvino

        return open_openvino(
            checkpoint.path,
            task=task,
            threads=threads,
            device=openvino_device(device),
            checkpoint=checkpoint,
            max_length=manifest.max_length,
            inference_precision=str(manifest.facts.get("inference_precision", "f32")),
        )
    if checkpoint.format == "torch":
        return open_torch(checkpoint, threads, torch_device(device))
    raise CheckpointError(f"{checkpoint.path}: format {checkpoint.format!r}; known are torch, onnx and openvino")


def open_torch(checkpoint: Checkpoint, threads: int, device: str) -> TorchPredictor:
    """Open a verified checkpoint of the format torch on a device that is there."""
    from compress import tasks
    from compress.models.torch_io import load_model, load_tokenizer
    from compress.runtime.torch_predictor import TorchPredictor

    manifest = checkpoint.manifest
    return TorchPredictor(
        load_model(checkpoint),
        task=tasks.create(manifest.task, manifest.labels, metric=manifest.metric),
        tokenizer=load_tokenizer(checkpoint.path),
        threads=threads,
        device=device,
        checkpoint=checkpoint,
        max_length=manifest.max_length,
    )


def torch_device(device: str) -> str:
    """Return the device that torch is to use; raises MachineError where it is absent."""
    if device == "cpu":
        return device
    from compress.machine import resolve_device

    return resolve_device(device)


def onnx_device(device: str, precision: str) -> str:
    """Return the device that ONNX Runtime is to use: ``auto`` is the GPU only for a float model it can run there."""
    if device != "auto":
        return device if device == "cpu" else torch_device(device)
    if precision == "int8":
        return "cpu"
    import onnxruntime

    return torch_device(device) if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"


def openvino_device(device: str) -> str:
    """Return the device that OpenVINO is to use: the CPU, or UnsupportedError where a CUDA GPU is asked for."""
    if device in ("auto", "cpu"):
        return "cpu"
    raise UnsupportedError(f"device={device}: OpenVINO does not run on CUDA; use device=cpu or device=auto")


def _cores() -> int:
    from compress.machine import usable_cores

    return usable_cores()
