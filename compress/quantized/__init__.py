"""Torch models whose layers have few bits: what quantization.json says, the layers, and putting them into a model.

Apart from `compress.models`, on whose source the keys of all trainings depend.
"""

from compress.quantized.description import (
    QUANTIZATION,
    Layer,
    Quantization,
    read_quantization,
    require_bitsandbytes,
)

__all__ = ["QUANTIZATION", "Layer", "Quantization", "read_quantization", "require_bitsandbytes"]
