"""Where variants are measured: all of one run on one device, or their ratios would compare devices."""

from __future__ import annotations

from collections.abc import Iterable

from compress.errors import ConfigError, UnsupportedError

__all__ = ["available_providers", "measuring_device"]

_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


def available_providers() -> list[str]:
    """Return the execution providers of the installed ONNX Runtime."""
    import onnxruntime

    providers: list[str] = onnxruntime.get_available_providers()
    return providers


def measuring_device(
    asked: str, resolved: str, provider: str, variants: Iterable[tuple[str, str | None]]
) -> tuple[str, str | None]:
    """Return the device on which every variant can be measured, and a note where that is not the one resolved.

    Parameters
    ----------
    asked
        ``device`` as given: ``auto`` leaves a choice.
    resolved
        What it came to on this machine: ``cpu`` or ``cuda[:N]``.
    provider
        ``benchmark.provider``.
    variants
        Format and precision of each.

    Raises
    ------
    ConfigError
        If a provider for a GPU is asked for on the CPU.
    UnsupportedError
        If a GPU is asked for and the installed ONNX Runtime, or OpenVINO, cannot use it.
    """
    if resolved == "cpu":
        if provider != "auto":
            raise ConfigError(
                f"benchmark.provider={provider}: needs a GPU, and device={asked} is the CPU here; leave it at auto"
            )
        return resolved, None
    listed = list(variants)
    if any(form == "openvino" for form, _ in listed):
        if asked != "auto":
            raise UnsupportedError(f"device={asked}: OpenVINO does not run on CUDA; set device=cpu or device=auto")
        return "cpu", "measured on the CPU: OpenVINO does not run on CUDA"
    graphs = [precision for form, precision in listed if form == "onnx"]
    if not graphs:
        return resolved, None
    there = available_providers()
    absent = [name for name in [_CUDA, *([_TENSORRT] if provider == "tensorrt" else [])] if name not in there]
    if absent:
        if asked != "auto" or provider == "tensorrt":
            raise UnsupportedError(
                f"device={asked}: the installed ONNX Runtime has no {absent[0]}, only {', '.join(there)}; install "
                f"onnxruntime-gpu in place of onnxruntime, or set device=cpu"
            )
        return "cpu", "measured on the CPU: the installed ONNX Runtime cannot use the GPU (onnxruntime-gpu can)"
    if asked == "auto" and "int8" in graphs:
        return "cpu", "measured on the CPU, for which INT8 ONNX is made: the CUDA provider runs it slower than fp32"
    return resolved, None
