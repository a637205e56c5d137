"""Training with a teacher: its outputs, computed once, and the losses that compare with them."""

from compress.training.distillation.checks import asks_teacher, check_teacher, check_terms
from compress.training.distillation.layer_maps import matching
from compress.training.distillation.material import unlabelled_key
from compress.training.distillation.teaching import Lesson, teach
from compress.training.distillation.ways import Draws, Scene, Way

__all__ = [
    "Draws",
    "Lesson",
    "Scene",
    "Way",
    "asks_teacher",
    "check_teacher",
    "check_terms",
    "matching",
    "teach",
    "unlabelled_key",
]
