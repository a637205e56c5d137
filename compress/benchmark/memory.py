"""Resident memory of this process and of a GPU, and what a runtime takes before it holds a model."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from compress.errors import CheckpointError, UnsupportedError
from compress.quantized import QUANTIZATION

__all__ = ["can_reset", "device_memory", "import_runtime", "peak_rss", "reset_peak", "resident"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def resident() -> int:
    """Return the bytes of this process that are in memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_rss() -> int:
    """Return the most bytes that were in memory at once since the start, or since `reset_peak` where that works."""
    peak = _status("VmHWM")
    if peak is not None:
        return max(peak, resident())  # the kernel brings its peak up to date only now and then
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def can_reset() -> bool:
    """Return whether this system lets a process begin its peak anew."""
    return _status("VmHWM") is not None and os.access(_CLEAR, os.W_OK)


def reset_peak() -> bool:
    """Let the peak begin anew (Linux: 5 into clear_refs, see proc(5)); returns whether the system can."""
    if not can_reset():
        return False
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def device_memory(device: str) -> dict[str, Any]:
    """Return the GPU's memory in bytes: torch's own peak, and what the driver says is taken from the device.

    Both are None on the CPU; the driver's figure counts other processes on the same GPU too and needs the package
    nvidia-ml-py (extra ``gpu``).
    """
    if not device.startswith("cuda"):
        return {"peak_device_bytes": None, "driver_device_bytes": None}
    peak = None
    if "torch" in sys.modules:
        import torch

        peak = torch.cuda.max_memory_allocated(device) or None
    return {"peak_device_bytes": peak, "driver_device_bytes": _driver_bytes(device)}


def _driver_bytes(device: str) -> int | None:
    from compress.benchmark.energy import nvml_handle

    found = nvml_handle(device)
    if found is None:
        return None
    nvml, handle = found
    return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def import_runtime(path: Path, threads: int | None) -> None:
    """Import what opening `path` will import, so that the memory and the time that follow are the model's alone.

    Parameters
    ----------
    path
        The artifact.
    threads
        Of the pools, which are started too; None runs nothing, for a process that is going to fork.
    """
    for module in ("numpy", "pandas", "compress.runtime.opening"):
        import_module(module)
    manifest = path / "checkpoint.json"
    form = json.loads(manifest.read_text(encoding="utf-8")).get("format") if manifest.is_file() else None
    if path.suffix == ".onnx" or form == "onnx":
        for module in ("onnxruntime", "tokenizers", "compress.runtime.onnx_predictor"):
            import_module(module)
    elif path.suffix == ".xml" or form == "openvino":
        for module in ("openvino", "tokenizers", "compress.runtime.openvino_predictor"):
            import_module(module)
    else:
        _import_torch(path, threads)
        _import_peer(path)


def _import_peer(path: Path) -> None:
    from compress.runtime.peers import way_of

    try:
        way = way_of(path)
    except CheckpointError:  # opening it says what is wrong
        return
    for module in () if way is None else (way.module, *way.imports):
        with contextlib.suppress(ImportError):  # opening it says which extra is missing
            import_module(module)


def _import_torch(path: Path, threads: int | None) -> None:
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoTokenizer,
    )

    for module in ("safetensors.torch", "compress.models.torch_io", "compress.runtime.torch_predictor"):
        import_module(module)
    if (path / QUANTIZATION).is_file():
        from compress.quantized.layers import bitsandbytes

        try:
            bitsandbytes()
        except UnsupportedError:  # opening it will say so
            return
    if threads is not None:
        _start_torch(threads)
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):  # opening it will say what is wrong
        return
    for model in (AutoModelForSequenceClassification, AutoModelForTokenClassification):
        if type(config) in model._model_mapping:  # noqa: SLF001 - transformers has no other way to ask
            model._model_mapping[type(config)]  # noqa: SLF001 - imports the module of the architecture


def _start_torch(threads: int) -> None:
    """Start the thread pools, and let the first products page in their kernels, whoever asks for them."""
    import torch

    torch.set_num_threads(threads)
    small = torch.nn.TransformerEncoderLayer(64, 4, 256, activation="gelu", batch_first=True).eval()
    table = torch.nn.Embedding(32, 64)
    for _ in range(2):
        with torch.inference_mode():
            mask = torch.zeros(1, 1, 16, 16)
            hidden = torch.nn.functional.layer_norm(table(torch.ones(1, 16, dtype=torch.int64)), (64,))
            heads = hidden.view(1, 16, 4, 16).transpose(1, 2)
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
            torch.tanh(small(hidden))
            square = torch.ones(256, 1024)
            torch.nn.functional.gelu(torch.nn.functional.linear(square, torch.ones(1024, 1024)))
