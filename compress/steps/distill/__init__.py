"""Train a smaller student to answer as its teacher does."""

from compress.steps.distill.step import DistillStep

__all__ = ["DistillStep"]
