"""ONNX Runtime's own ways: a plain export, and its two quantizers at their defaults."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.onnx_graph import MODEL_FILE, canonicalise, load_graph, save_graph
from compress.peers.base import Peer

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.steps.base import Context

__all__ = ["CALIBRATION_ROWS", "DynamicInt8", "Exported", "StaticInt8"]

CALIBRATION_ROWS = 128
"""Training rows that ranges come from; ONNX Runtime's quantizer has no default of its own."""

_PACKAGES = ("onnx", "onnxruntime", "torch", "transformers")


class Exported(Peer):
    """The graph that ``torch.onnx.export`` writes, run by ONNX Runtime, whose own fusions happen when it opens it."""

    name: ClassVar[str] = "onnxruntime"
    title: ClassVar[str] = "ONNX Runtime fp32"
    reads: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "onnx"

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Copy the graph."""
        for file in source.path.glob(f"{MODEL_FILE}*"):
            shutil.copyfile(file, out.path / file.name)


class DynamicInt8(Peer):
    """``quantize_dynamic`` of the plain export, signed 8-bit weights with a scale per matrix.

    So optimum does it, too: ``ORTQuantizer`` with ``AutoQuantizationConfig.avx512_vnni(is_static=False,
    per_channel=False)`` (https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization).
    """

    name: ClassVar[str] = "onnxruntime_dynamic_int8"
    title: ClassVar[str] = "ONNX Runtime INT8 dynamic, as optimum"
    reads: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "onnx"
    precision: ClassVar[str] = "int8"
    packages: ClassVar[tuple[str, ...]] = _PACKAGES
    modules: ClassVar[tuple[str, ...]] = ("compress.onnx_graph",)

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Quantize."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        target = context.scratch / "quantized.onnx"
        with _quiet():
            quantize_dynamic(source.path / MODEL_FILE, target, weight_type=QuantType.QInt8)
        _keep(target, out)


class StaticInt8(Peer):
    """``quantize_static`` after ``quant_pre_process``, both at their defaults.

    QDQ, signed 8-bit weights and activations, a scale per matrix, ranges from least to largest
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), of training rows that are given
    one by one.
    """

    name: ClassVar[str] = "onnxruntime_static_int8"
    title: ClassVar[str] = "ONNX Runtime INT8 static, its defaults"
    reads: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "onnx"
    precision: ClassVar[str] = "int8"
    packages: ClassVar[tuple[str, ...]] = _PACKAGES
    modules: ClassVar[tuple[str, ...]] = ("compress.onnx_graph", "compress.steps.drawing", "compress.tasks")
    draws: ClassVar[bool] = True

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Prepare, calibrate, quantize."""
        from onnxruntime.quantization import quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        from compress.peers.calibration import rows_alone

        prepared, target = context.scratch / "prepared.onnx", context.scratch / "quantized.onnx"
        inputs = [value.name for value in load_graph(source.path).graph.input]
        with _quiet():
            quant_pre_process(str(source.path / MODEL_FILE), str(prepared), auto_merge=True)
            quantize_static(prepared, target, _reader(rows_alone(context, out.path, CALIBRATION_ROWS), inputs))
        _keep(target, out)


def _reader(rows: list[dict[str, Any]], inputs: list[str]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows = iter([{name: row[name] for name in inputs} for row in rows])

        def get_next(self) -> Any:
            return next(self._rows, None)

    return Rows()


def _keep(file: Path, out: Writer) -> None:
    """Write a graph that a quantizer left as this project writes graphs, to the same bytes every time."""
    import onnx

    graph = onnx.load(str(file))
    canonicalise(graph)
    save_graph(graph, out.path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the quantizers advise and print."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        root.setLevel(level)
