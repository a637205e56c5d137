"""Layers whose weights have few bits, computed by bitsandbytes: NF4 and FP4 in blocks, INT8 in rows.

Dettmers et al., QLoRA, NeurIPS 2023 (arXiv 2305.14314): a block of weights shares the scale ``max |w|``, a weight is
the number of the nearest of 16 values, and the scales can be quantized in turn. Dettmers et al., LLM.int8(), NeurIPS
2022 (arXiv 2208.07339): a row of weights shares a scale, rows of inputs are quantized as they come, and input columns
with an outlier are multiplied in float.

What these layers hold are plain buffers; the operators are the library's. Its own modules keep a state beside the
weight that is no tensor of the module, change a weight in place at the first answer on a CPU with AVX512-BF16 (scales
are rounded, widths that are no multiple of 32 fail), and cannot save an embedding.

This module imports torch: import it where a model is at hand.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from compress.errors import UnsupportedError
from compress.quantized import Layer, Quantization, require_bitsandbytes

__all__ = ["Embedding4bit", "Embedding8bit", "Linear4bit", "Linear8bit", "bitsandbytes", "empty_layer", "scale_values"]

_SCALES = 256
"""Scales that share a scale of their own: the one number that the library's products accept."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def bitsandbytes() -> Any:
    """Import and return bitsandbytes, with the kernels that it was installed with and no others.

    On a processor with AVX512-BF16 its import asks a hub for a kernel where the package ``kernels`` is installed: code
    from a network that rounds otherwise.

    Raises
    ------
    UnsupportedError
        If it is not installed, or cannot be imported.
    """
    require_bitsandbytes()
    try:
        with _as_installed():
            import bitsandbytes as library
    except (ImportError, OSError, RuntimeError) as error:
        raise UnsupportedError(
            f"bitsandbytes is installed and cannot be imported ({str(error).splitlines()[0]}): "
            f"pip install --force-reinstall 'compress-transformers[bitsandbytes]'"
        ) from error
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_says_something)
    return library


def _says_something(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in str(record.msg)  # said of every product: it is how LLM.int8 rounds its inputs


@contextlib.contextmanager
def _as_installed() -> Iterator[None]:
    """Let an import find no package ``kernels``, and leave uncompiled what it would compile at its first use."""
    absent = object()
    before: Any = sys.modules.get("kernels", absent)
    logger, compiling = logging.getLogger("bitsandbytes.backends.cpu.ops"), torch.compile
    disabled = logger.disabled
    sys.modules["kernels"] = None  # type: ignore[assignment] # importing it now fails, which is warned of
    torch.compile = _uncompiled  # type: ignore[assignment]
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled, torch.compile = disabled, compiling
        if before is absent:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before


def _uncompiled(function: Any = None, **_: Any) -> Any:
    return _uncompiled if function is None else function


@cache
def _openmp() -> Any:
    """Return the OpenMP library that the kernels of bitsandbytes are linked to; None where it cannot be told."""
    loaded = getattr(os, "RTLD_NOLOAD", None)
    if loaded is None:
        return None
    try:
        return ctypes.CDLL("libgomp.so.1", mode=loaded | os.RTLD_LAZY)
    except OSError:
        return None


def _use_the_threads_of_torch() -> None:
    """Let the kernels use as many threads as torch does: wheels of torch often bring an OpenMP library of their own."""
    library = _openmp()
    if library is not None and library.omp_get_max_threads() != torch.get_num_threads():
        library.omp_set_num_threads(torch.get_num_threads())


def scale_values() -> tuple[float, ...]:
    """Return the 256 values between -1 and 1 that a byte of a scale may mean (dynamic, of arXiv 1511.04561)."""
    return tuple(float(value) for value in bitsandbytes().functional.create_dynamic_map())


class _Blocks(torch.nn.Module):
    """A weight ``[rows, columns]`` of 4 bits: ``weight`` has two to a byte, rows filled up with zeros to whole blocks.

    ``absmax`` ``[rows, blocks]`` has a scale per block, float32; with double quantization bytes, each
    ``scale_values[byte] * nested_absmax[number // 256] + nested_offset``.
    """

    weight: torch.Tensor
    absmax: torch.Tensor
    nested_absmax: torch.Tensor
    nested_offset: torch.Tensor
    nested_code: torch.Tensor

    def __init__(self, rows: int, columns: int, how: Quantization) -> None:
        super().__init__()
        self.rows, self.columns, self.how = rows, columns, how
        self.padded = how.padded(columns)
        self.blocks = self.padded // how.block_size
        self.register_buffer("weight", torch.empty(rows, self.padded // 2, dtype=torch.uint8, device="meta"))
        kind = torch.uint8 if how.double_quant else torch.float32
        self.register_buffer("absmax", torch.empty(rows, self.blocks, dtype=kind, device="meta"))
        if how.double_quant:
            groups = -(-rows * self.blocks // _SCALES)
            self.register_buffer("nested_absmax", torch.empty(groups, device="meta"))
            self.register_buffer("nested_offset", torch.empty((), device="meta"))
            self.register_buffer("nested_code", torch.tensor(how.scale_values), persistent=False)

    def quantize(self, weight: torch.Tensor) -> None:
        """Take the values of a float weight; the same on every machine."""
        functional, how = bitsandbytes().functional, self.how
        whole = F.pad(weight.detach().float().cpu(), (0, self.padded - self.columns)).contiguous()
        packed, state = functional.quantize_4bit(whole, blocksize=how.block_size, quant_type=how.method)
        self.weight = packed.view(self.rows, self.padded // 2)
        scales = state.absmax.view(self.rows, self.blocks)
        if not how.double_quant:
            self.absmax = scales
            return
        # numpy sums in one order whatever the threads
        self.nested_offset = torch.tensor(float(np.mean(scales.numpy(), dtype=np.float64)))
        codes, nested = functional.quantize_blockwise(
            (scales - self.nested_offset).flatten(), code=self.nested_code, blocksize=_SCALES
        )
        self.absmax, self.nested_absmax = codes.view(self.rows, self.blocks), nested.absmax

    def extra_repr(self) -> str:
        """Return shape and method."""
        return f"{self.rows}, {self.columns}, {self.how.method}, blocks of {self.how.block_size}"


class Linear4bit(_Blocks):
    """``x W' + b`` with ``W`` of 4 bits.

    Parameters
    ----------
    rows, columns : int
        ``out_features`` and ``in_features``.
    how : Quantization
        Method, blocks, type of the product.
    bias : torch.nn.Parameter or None
        As it was.
    """

    def __init__(self, rows: int, columns: int, how: Quantization, bias: torch.nn.Parameter | None) -> None:
        super().__init__(rows, columns, how)
        self.bias = bias
        self.out_features, self.in_features = rows, columns

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[..., out_features]`` for ``[..., in_features]``."""
        library, how = bitsandbytes(), self.how
        if not inputs.is_cuda:
            _use_the_threads_of_torch()
        kind = _DTYPES[how.compute]
        taken = inputs.to(kind)
        if self.padded != self.columns:
            taken = F.pad(taken, (0, self.padded - self.columns))
        nested = None
        if how.double_quant:
            nested = library.functional.QuantState(
                absmax=self.nested_absmax, code=self.nested_code, blocksize=_SCALES, dtype=torch.float32
            )
        state = library.functional.QuantState(
            absmax=self.absmax.view(-1),
            shape=torch.Size((self.rows, self.padded)),
            blocksize=how.block_size,
            quant_type=how.method,
            dtype=kind,
            offset=self.nested_offset if how.double_quant else None,
            state2=nested,
        )
        bias = None if self.bias is None else self.bias.to(kind)
        product: torch.Tensor = library.matmul_4bit(taken, self.weight.view(-1, 1), quant_state=state, bias=bias)
        return product.to(inputs.dtype)


class Embedding4bit(_Blocks):
    """A table of 4 bits, of which only the rows that are asked for become floats."""

    code: torch.Tensor

    def __init__(self, rows: int, columns: int, how: Quantization, padding_idx: int | None) -> None:
        super().__init__(rows, columns, how)
        self.num_embeddings, self.embedding_dim, self.padding_idx = rows, columns, padding_idx
        values = bitsandbytes().functional.get_4bit_type(how.method, device="cpu")
        self.register_buffer("code", values, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return ``[..., embedding_dim]`` for ids ``[...]``."""
        wanted = ids.flatten()
        packed = self.weight[wanted]
        numbers = torch.stack((packed >> 4, packed & 15), dim=-1).int()  # the first of two weights is in the high bits
        values = self.code[numbers].view(len(wanted), self.blocks, self.how.block_size)
        scales = self.absmax[wanted]
        if self.how.double_quant:
            places = wanted[:, None] * self.blocks + torch.arange(self.blocks, device=ids.device)
            groups = self.nested_absmax[places // _SCALES]
            scales = self.nested_code[scales.int()] * groups + self.nested_offset
        rows = (values * scales[..., None]).view(len(wanted), self.padded)[:, : self.columns]
        return rows.reshape(*ids.shape, self.columns)


class _Rows(torch.nn.Module):
    """A weight ``[rows, columns]`` of 8 bits: ``weight * absmax / 127``, with one ``absmax`` per row."""

    weight: torch.Tensor
    absmax: torch.Tensor

    def __init__(self, rows: int, columns: int, how: Quantization) -> None:
        super().__init__()
        self.rows, self.columns, self.how = rows, columns, how
        self.register_buffer("weight", torch.empty(rows, columns, dtype=torch.int8, device="meta"))
        self.register_buffer("absmax", torch.empty(rows, device="meta"))

    def quantize(self, weight: torch.Tensor) -> None:
        """Take the values of a float weight, by way of float16 as the library does."""
        half = weight.detach().to("cpu", torch.float16).contiguous()
        self.weight, self.absmax, _ = bitsandbytes().functional.int8_vectorwise_quant(half)

    def extra_repr(self) -> str:
        """Return shape and method."""
        return f"{self.rows}, {self.columns}, {self.how.method}"


class Linear8bit(_Rows):
    """``x W' + b`` with ``W`` of 8 bits by LLM.int8().

    Parameters
    ----------
    rows, columns : int
        ``out_features`` and ``in_features``.
    how : Quantization
        The threshold of outliers.
    bias : torch.nn.Parameter or None
        As it was.
    """

    def __init__(self, rows: int, columns: int, how: Quantization, bias: torch.nn.Parameter | None) -> None:
        super().__init__(rows, columns, how)
        self.bias = bias
        self.out_features, self.in_features = rows, columns

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[..., out_features]`` for ``[..., in_features]``."""
        library = bitsandbytes()
        state = library.MatmulLtState(CB=self.weight, SCB=self.absmax)
        state.has_fp16_weights = state.is_training = False
        state.threshold = self.how.threshold
        product: torch.Tensor = library.matmul(inputs, self.weight, state=state, bias=self.bias)
        return product


class Embedding8bit(_Rows):
    """A table of 8 bits, of which only the rows that are asked for become floats."""

    def __init__(self, rows: int, columns: int, how: Quantization, padding_idx: int | None) -> None:
        super().__init__(rows, columns, how)
        self.num_embeddings, self.embedding_dim, self.padding_idx = rows, columns, padding_idx

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return ``[..., embedding_dim]`` for ids ``[...]``."""
        return self.weight[ids] * (self.absmax[ids] / 127)[..., None]


def empty_layer(layer: Layer, how: Quantization, replaced: Any) -> Any:
    """Return the quantized layer that takes the place of a Linear or an Embedding, without values yet."""
    if layer.kind == "linear":
        linear = Linear8bit if how.method == "int8" else Linear4bit
        return linear(layer.rows, layer.columns, how, replaced.bias).train(replaced.training)
    table = Embedding8bit if how.method == "int8" else Embedding4bit
    return table(layer.rows, layer.columns, how, replaced.padding_idx).train(replaced.training)
