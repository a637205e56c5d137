"""One device for all variants of a run, chosen or refused before any work."""

from __future__ import annotations

import pytest

from compress.benchmark import devices
from compress.benchmark.devices import measuring_device
from compress.errors import ConfigError, UnsupportedError

TORCH, FLOAT, INT8 = ("torch", "fp32"), ("onnx", "fp32"), ("onnx", "int8")
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    there = [CPU]
    monkeypatch.setattr(devices, "available_providers", lambda: there)
    return there


def test_torch_alone_asks_nothing_of_onnx_runtime(providers: list[str]) -> None:
    assert measuring_device("auto", "cuda", "auto", [TORCH]) == ("cuda", None)
    assert measuring_device("cpu", "cpu", "auto", [TORCH, INT8]) == ("cpu", None)


def test_what_the_gpu_cannot_run_is_measured_on_the_cpu_beside_its_baseline(providers: list[str]) -> None:
    device, note = measuring_device("auto", "cuda", "auto", [TORCH, FLOAT])
    assert device == "cpu"
    assert "onnxruntime-gpu" in str(note)
    providers.append(CUDA)
    assert measuring_device("auto", "cuda", "auto", [TORCH, FLOAT]) == ("cuda", None)
    device, note = measuring_device("auto", "cuda", "auto", [TORCH, INT8])
    assert device == "cpu"
    assert "slower than fp32" in str(note)


def test_a_gpu_that_was_asked_for_is_used_or_refused(providers: list[str]) -> None:
    with pytest.raises(UnsupportedError, match=f"device=cuda: .* has no {CUDA}, only {CPU}; install onnxruntime-gpu"):
        measuring_device("cuda", "cuda", "auto", [TORCH, INT8])
    providers.append(CUDA)
    assert measuring_device("cuda", "cuda", "auto", [TORCH, INT8]) == ("cuda", None)
    with pytest.raises(UnsupportedError, match=TENSORRT):
        measuring_device("auto", "cuda", "tensorrt", [FLOAT])
    providers.append(TENSORRT)
    assert measuring_device("auto", "cuda", "tensorrt", [FLOAT]) == ("cuda", None)


def test_a_provider_of_a_gpu_is_refused_on_the_cpu(providers: list[str]) -> None:
    with pytest.raises(ConfigError, match="benchmark.provider=tensorrt: needs a GPU, and device=auto is the CPU here"):
        measuring_device("auto", "cpu", "tensorrt", [FLOAT])
