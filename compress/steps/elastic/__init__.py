"""One model that is trained to hold smaller ones, and the step that cuts one of them out."""

from compress.steps.elastic.cut_step import CutStep
from compress.steps.elastic.step import ElasticStep

__all__ = ["CutStep", "ElasticStep"]
