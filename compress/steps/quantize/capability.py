"""What a method of quantization saves on this machine: bytes always, time only where a kernel computes in few bits.

Imports neither torch nor a runtime, so that a plan can say it before any work.
"""

from __future__ import annotations

import platform
from collections.abc import Collection

from compress.machine import has_vnni, isa

__all__ = ["METHODS", "cautions"]

METHODS = ("onnx_int8", "onnx_blocks", "bitsandbytes_4bit", "bitsandbytes_4bit_bf16", "bitsandbytes_int8")
"""What can be asked about: INT8 products in ONNX Runtime, weights in blocks there (MatMulNBits), bitsandbytes."""


def cautions(method: str, device: str) -> list[str]:
    """Return what a method does not save here, a sentence each; nothing where it saves time, memory and bytes.

    Parameters
    ----------
    method
        One of `METHODS`.
    device
        Where the model will run: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    found = _CUDA[method] if device.startswith("cuda") else _on_cpu(method, isa())
    return [found] if found else []


_CUDA = {
    "onnx_int8": (
        "INT8 on the CUDA provider of ONNX Runtime saves bytes and no time: it runs slower than fp32 there; "
        "set device=cpu, for which it is made"
    ),
    "onnx_blocks": (
        "weights in blocks on the CUDA provider of ONNX Runtime save bytes and memory; time only for models far larger "
        "than an encoder"
    ),
    "bitsandbytes_4bit": (
        "4-bit weights of bitsandbytes on a GPU save bytes and memory; time only for models far larger than an encoder"
    ),
    "bitsandbytes_4bit_bf16": (
        "4-bit weights of bitsandbytes on a GPU save bytes and memory; time only for models far larger than an encoder"
    ),
    "bitsandbytes_int8": (
        "LLM.int8 of bitsandbytes on a GPU saves bytes and memory and no time: inputs are quantized in steps of their "
        "own"
    ),
}


def _on_cpu(method: str, flags: Collection[str]) -> str | None:
    here = f"this CPU ({_named(flags)})"
    if method == "onnx_int8":
        if has_vnni():
            return None
        return (
            f"INT8 on {here} saves bytes and memory, but little time: products of 8 bits have no instruction of their "
            f"own without VNNI, AMX or Arm's dot product"
        )
    if method == "onnx_blocks":
        return f"weights in blocks (MatMulNBits) on {here} save bytes and little or no time: INT8 products run faster"
    if method.startswith("bitsandbytes_4bit"):
        return _four_bits(here, method.endswith("bf16"), bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags)))
    if "avx512f" in flags:
        return (
            f"LLM.int8 of bitsandbytes on {here} saves bytes and memory and costs time: inputs are quantized in steps "
            f"of their own, and only the products are integers"
        )
    return (
        f"LLM.int8 of bitsandbytes on {here} saves bytes and memory and costs time: without AVX-512 its products are "
        f"floats too"
    )


def _four_bits(here: str, asked: bool, there: bool) -> str:
    """Return what dequantization costs; figures are of MiniLM on AVX512-BF16."""
    saved = f"4-bit weights of bitsandbytes on {here} save bytes and memory"
    if asked and there:
        return (
            f"{saved}; time only in large batches, where products of bf16 make up for turning weights into floats "
            f"(8 x 128 tokens 1.4x faster than fp32, 1 x 32 as fast)"
        )
    found = f"{saved} and cost time: every product turns its weights into floats first"
    if asked:
        return f"{found}, and products of bf16 have no instruction of their own"
    return f"{found}; compute=bf16 makes up for it in large batches" if there else found


def _named(flags: Collection[str]) -> str:
    telling = ("amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimddp", "asimd")
    return next((flag for flag in telling if flag in flags), platform.machine())
