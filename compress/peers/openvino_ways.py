"""OpenVINO's own ways: the plain export in its format, and NNCF's quantization at its defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compress.peers.base import Peer

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.steps.base import Context

__all__ = ["NNCFInt8", "OpenVINO"]

_MODULES = ("compress.onnx_graph", "compress.openvino_ir")
_SUBSET = 300
"""Calibration rows: the default of ``nncf.quantize``."""


class OpenVINO(Peer):
    """The plain export, converted by OpenVINO and run in fp32.

    Converted from torch directly, it runs in the same kernels.
    """

    name: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO fp32"
    reads: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "openvino"
    extra: ClassVar[str | None] = "peers"
    needs: ClassVar[tuple[str, ...]] = ("openvino",)
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    modules: ClassVar[tuple[str, ...]] = _MODULES

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Convert."""
        from compress.onnx_graph import load_graph
        from compress.openvino_ir import convert_graph, save_model

        save_model(convert_graph(load_graph(source.path)), out.path)


class NNCFInt8(Peer):
    """``nncf.quantize`` with ``model_type=TRANSFORMER`` and everything else as it is by default.

    300 training rows, each alone and so without padding
    (https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html).
    """

    name: ClassVar[str] = "openvino_nncf_int8"
    title: ClassVar[str] = "OpenVINO with NNCF INT8, its defaults"
    reads: ClassVar[str] = "onnx"
    leaves: ClassVar[str] = "openvino"
    precision: ClassVar[str] = "int8"
    extra: ClassVar[str | None] = "peers"
    needs: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    packages: ClassVar[tuple[str, ...]] = ("nncf", "onnx", "openvino")
    modules: ClassVar[tuple[str, ...]] = (*_MODULES, "compress.steps.drawing", "compress.tasks")
    draws: ClassVar[bool] = True

    def make(self, source: Checkpoint, context: Context, out: Writer) -> None:
        """Convert, calibrate, quantize."""
        from compress.onnx_graph import load_graph
        from compress.openvino_ir import convert_graph, save_model
        from compress.peers.calibration import rows_alone
        from compress.steps.quantize.openvino_nncf import quiet_nncf

        model = convert_graph(load_graph(source.path))
        names = [value.get_any_name() for value in model.inputs]
        rows = [{name: row[name] for name in names} for row in rows_alone(context, out.path, _SUBSET)]
        with quiet_nncf() as nncf:
            quantized = nncf.quantize(model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER)
        save_model(quantized, out.path)
