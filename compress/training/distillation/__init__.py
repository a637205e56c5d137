"""Training with a teacher: its outputs, computed once, and the losses that compare with them."""

from compress.training.distillation.teaching import Lesson, asks_teacher, check_teacher, check_terms, teach

__all__ = ["Lesson", "asks_teacher", "check_teacher", "check_terms", "teach"]
