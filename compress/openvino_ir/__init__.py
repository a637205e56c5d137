"""Models of OpenVINO (``model.xml`` and ``model.bin``): written to the same bytes every time, read and counted."""

from compress.openvino_ir.executed import executed_kernels
from compress.openvino_ir.files import MODEL_FILE, WEIGHTS_FILE, convert_graph, save_model
from compress.openvino_ir.names import name_operations
from compress.openvino_ir.reading import Constant, read_constants

__all__ = [
    "MODEL_FILE",
    "WEIGHTS_FILE",
    "Constant",
    "convert_graph",
    "executed_kernels",
    "name_operations",
    "read_constants",
    "save_model",
]
