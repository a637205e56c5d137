"""Models that this project did not write: to predict with and to measure beside ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CheckpointError
from compress.models.families import TASK_OF_HEAD, families
from compress.runtime.base import Predictor

if TYPE_CHECKING:
    from compress.tasks.base import Task

__all__ = ["Folder", "attention_of", "describe_folder", "open_foreign"]

_LENGTH_UNKNOWN = 512


@dataclass(frozen=True)
class Folder:
    """What the files beside a model's weights say of it.

    Attributes
    ----------
    config : dict
        config.json, with the name of the head as ``_head``; empty without one.
    task : Task or None
        With the labels of the head; None where no head is known.
    tokenizer
        As transformers loads it; None without a task.
    max_length : int
        Longest input in tokens.
    """

    config: dict[str, Any]
    task: Task | None
    tokenizer: Any
    max_length: int


def describe_folder(folder: Path) -> Folder:
    """Read config.json and the tokenizer of a directory, as far as they are there."""
    from compress import tasks

    config = _config(folder)
    name = next((task for ending, task in TASK_OF_HEAD.items() if str(config.get("_head")).endswith(ending)), None)
    task = tasks.create(name, _labels(config, folder)) if name is not None else None
    tokenizer, length = None, int(config.get("max_position_embeddings") or _LENGTH_UNKNOWN)
    if task is not None:
        from compress.models.torch_io import load_tokenizer

        tokenizer = load_tokenizer(folder)
        length = min(length, int(getattr(tokenizer, "model_max_length", length) or length))
    return Folder(config, task, tokenizer, length)


def open_foreign(path: Path, threads: int, device: str, provider: str = "auto") -> Predictor:
    """Open a Hugging Face directory with a fine-tuned head, an ``.onnx`` file, or a ``.xml`` file of OpenVINO.

    Beside a file, config.json and a tokenizer are used if present; without them only numbers go in and out.

    Raises
    ------
    CheckpointError
        If it holds no head that is known, or weights in another form than safetensors.
    """
    from compress.runtime.onnx_predictor import OnnxPredictor
    from compress.runtime.opening import onnx_device, openvino_device, torch_device
    from compress.runtime.openvino_predictor import OpenVINOPredictor
    from compress.runtime.torch_predictor import TorchPredictor

    folder = path if path.is_dir() else path.parent
    found = describe_folder(folder)
    known: dict[str, Any] = {"task": found.task, "tokenizer": found.tokenizer, "max_length": found.max_length}
    if path.suffix == ".onnx" and path.is_file():
        precision = "int8" if "int8" in path.stem or "quant" in path.stem else "fp32"
        where = onnx_device(device, precision)
        return OnnxPredictor(path, **known, threads=threads, device=where, provider=provider)
    if path.suffix == ".xml" and path.is_file():
        return OpenVINOPredictor(path, **known, threads=threads, device=openvino_device(device))
    if found.task is None:
        raise CheckpointError(
            f"{folder}: its config.json names {found.config.get('_head') or 'no architecture'}; needed is a fine-tuned "
            f"model that ends with {' or '.join(TASK_OF_HEAD)}"
        )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: no .safetensors file; other forms of weights are not read")
    model = found.task.model_class().from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation=attention_of(found.config),
    )
    return TorchPredictor(model.float(), **known, threads=threads, device=torch_device(device))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config["_head"] = next(iter(config.get("architectures") or []), None)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a Hugging Face config: {error}") from error
    return config


def _labels(config: dict[str, Any], folder: Path) -> list[str]:
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        return [names[str(number)] for number in range(len(names))]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json: id2label must name the classes 0..n-1, has {names}") from error


def attention_of(config: dict[str, Any]) -> str | None:
    """Return the attention of the model's family; None, which is transformers' own choice, where it is in none."""
    known = families().get(str(config.get("model_type")))
    return known.attention if known is not None else None
