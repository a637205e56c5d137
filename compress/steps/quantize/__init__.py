"""Fewer bits per weight."""

from compress.steps.quantize.dynamic import DynamicStep

__all__ = ["DynamicStep"]
