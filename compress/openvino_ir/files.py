"""From ONNX to OpenVINO, and to ``model.xml`` and ``model.bin``: equal models give equal bytes."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from compress.openvino_ir.names import name_operations

if TYPE_CHECKING:
    import onnx
    import openvino

__all__ = ["MODEL_FILE", "WEIGHTS_FILE", "convert_graph", "save_model"]

MODEL_FILE = "model.xml"
WEIGHTS_FILE = "model.bin"


def convert_graph(graph: onnx.ModelProto) -> openvino.Model:
    """Return an ONNX graph as a model of OpenVINO, with the names of `name_operations`."""
    import openvino

    from compress.onnx_graph import MODEL_FILE as ONNX_FILE
    from compress.onnx_graph import save_graph

    with tempfile.TemporaryDirectory() as folder:
        save_graph(graph, Path(folder))
        model = openvino.Core().read_model(str(Path(folder) / ONNX_FILE))
        # A copy holds its own weights; the model itself maps the file, which goes.
        model = model.clone()
    name_operations(model)
    return model


def save_model(model: openvino.Model, directory: Path) -> None:
    """Write a model into `directory`; operations are renamed by `name_operations`.

    What tells of the process that made it goes: versions, the settings and paths of converters, the names of
    intermediate values.
    """
    import openvino

    name_operations(model)
    path = directory / MODEL_FILE
    openvino.serialize(model, str(path), str(directory / WEIGHTS_FILE))
    tree = ET.parse(path)  # noqa: S314 - just written by OpenVINO
    root = tree.getroot()
    root.set("name", "main")
    for notes in root.findall("rt_info"):
        root.remove(notes)
    for layer in root.iterfind("layers/layer"):
        for notes in layer.findall("rt_info"):
            layer.remove(notes)
        for port in layer.iterfind("output/port"):
            if layer.attrib["type"] != "Parameter" and port.attrib.get("names") != "logits":
                port.attrib.pop("names", None)
    tree.write(path, encoding="utf-8", xml_declaration=True)
