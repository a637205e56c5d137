"""PyTorch's own ways: compiled, and quantized by torchao and compiled."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, ClassVar

from compress.errors import UnsupportedError
from compress.peers.base import Peer

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.steps.base import Context

__all__ = ["TorchAOInt8", "TorchCompile"]

_WEIGHTS = "model.safetensors"


class _Compiled(Peer):
    """What TorchInductor compiles, in C++, when it is opened."""

    def check(self, task: str) -> None:
        """Refuse a machine without a compiler too."""
        super().check(task)
        compilers = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
        if not any(shutil.which(name) for name in compilers):
            raise UnsupportedError(
                f"{self.name}: torch.compile needs a C++ compiler and finds none of {', '.join(compilers)}; install "
                f"g++, or name one in the environment variable CXX"
            )


class TorchCompile(_Compiled):
    """The fine-tuned model as it is, run by ``torch.compile``; see `compress.runtime.peers.compiled`."""

    name: ClassVar[str] = "torch_compile"
    title: ClassVar[str] = "torch.compile"
    reads: ClassVar[str] = "torch"
    leaves: ClassVar[str] = "torch"

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Copy the weights and say how they are to be run."""
        from compress.runtime.peers import write_peer

        shutil.copyfile(source.path / _WEIGHTS, out.path / _WEIGHTS)
        write_peer(out.path, "torch_compile")


class TorchAOInt8(_Compiled):
    """torchao's INT8 weights, a scale per output channel, and INT8 activations, a scale per token as they come.

    ``Int8DynamicActivationInt8WeightConfig`` at its defaults, but for the range on a processor without VNNI, where its
    documentation asks for a reduced one. Every linear layer is quantized, embeddings are not. Saved by transformers.
    """

    name: ClassVar[str] = "torchao_int8"
    title: ClassVar[str] = "torchao INT8 (dynamic activations), compiled"
    reads: ClassVar[str] = "torch"
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str] = "int8"
    extra: ClassVar[str | None] = "peers"
    needs: ClassVar[tuple[str, ...]] = ("torchao",)
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchao", "transformers")

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Load with a quantization config, save as safetensors."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig
        from transformers import TorchAoConfig

        from compress.machine import has_vnni
        from compress.models.torch_io import quiet
        from compress.runtime.peers import write_peer

        config = TorchAoConfig(Int8DynamicActivationInt8WeightConfig(reduce_range=not has_vnni()))
        with quiet():
            model = context.task.model_class().from_pretrained(
                str(source.path),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                quantization_config=config,
            )
            model.save_pretrained(str(out.path))
        _forget_place(out)
        write_peer(out.path, "torchao")


def _forget_place(out: Writer) -> None:
    """Take out of config.json where the model was loaded from."""
    file = out.path / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
