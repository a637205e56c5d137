"""A model that torchao quantized, as transformers saves it, compiled: without compiling its kernels are slow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CheckpointError
from compress.runtime.peers.compiled import CompiledPredictor, cpu_only

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint

__all__ = ["open_way"]


def open_way(directory: Path, checkpoint: Checkpoint | None, threads: int, device: str) -> CompiledPredictor:
    """Open a directory that ``save_pretrained`` wrote of a model with a ``TorchAoConfig``.

    Integers and scales are in model.safetensors; how they are put together is in its header and in config.json.
    """
    from compress import tasks
    from compress.models.torch_io import load_tokenizer, quiet
    from compress.runtime.foreign import attention_of, describe_folder

    cpu_only(directory, device)
    described = describe_folder(directory)
    if checkpoint is not None:
        manifest = checkpoint.manifest
        task = tasks.create(manifest.task, manifest.labels, metric=manifest.metric)
        tokenizer, length = load_tokenizer(directory), manifest.max_length
    elif described.task is not None:
        task, tokenizer, length = described.task, described.tokenizer, described.max_length
    else:
        raise CheckpointError(f"{directory}: its config.json names no fine-tuned head")
    if (described.config.get("quantization_config") or {}).get("quant_method") != "torchao":
        raise CheckpointError(f"{directory}: its config.json says nothing of torchao (quantization_config)")
    with quiet():
        model = task.model_class().from_pretrained(
            str(directory),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention_of(described.config),
        )
    # Trying out kernels for products of integers ends in a KeyError of TorchInductor (torch 2.13): oneDNN's are taken.
    return CompiledPredictor(
        model, tuned=False, task=task, tokenizer=tokenizer, threads=threads, checkpoint=checkpoint, max_length=length
    )
