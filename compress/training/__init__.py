"""The one training loop that every step which trains shares, and the inference that judges it."""

from compress.training.batches import Extras, batch_order, logits_of
from compress.training.loop import LossFunction, TrainingResult, train
from compress.training.reproducible import reproducible

__all__ = [
    "Extras",
    "LossFunction",
    "TrainingResult",
    "batch_order",
    "logits_of",
    "reproducible",
    "train",
]
