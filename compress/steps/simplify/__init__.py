"""Another graph of the same function."""

from compress.steps.simplify.rewriting import simplify_graph
from compress.steps.simplify.step import SimplifyStep

__all__ = ["SimplifyStep", "simplify_graph"]
