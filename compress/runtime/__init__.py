"""One predictor per checkpoint format: torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.runtime.base import Predictor

if TYPE_CHECKING:
    from compress.runtime.onnx_predictor import OnnxPredictor, open_onnx
    from compress.runtime.opening import load, open_predictor
    from compress.runtime.openvino_predictor import OpenVINOPredictor, open_openvino
    from compress.runtime.torch_predictor import TorchPredictor

__all__ = [
    "OnnxPredictor",
    "OpenVINOPredictor",
    "Predictor",
    "TorchPredictor",
    "load",
    "open_onnx",
    "open_openvino",
    "open_predictor",
]

_HOMES = {
    "OnnxPredictor": "compress.runtime.onnx_predictor",
    "OpenVINOPredictor": "compress.runtime.openvino_predictor",
    "TorchPredictor": "compress.runtime.torch_predictor",
    "load": "compress.runtime.opening",
    "open_onnx": "compress.runtime.onnx_predictor",
    "open_openvino": "compress.runtime.openvino_predictor",
    "open_predictor": "compress.runtime.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
