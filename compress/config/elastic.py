"""Schemas of the steps around one model that holds smaller ones."""

from __future__ import annotations

from dataclasses import dataclass

from compress.config.options import option
from compress.config.training import DistillWeights, Taught

__all__ = ["Elastic", "Subnetwork"]


@dataclass
class Elastic(Taught):
    """Train the model so that its first heads and neurons, in every so many layers, are models too (DynaBERT)."""

    widths: list[float] = option(
        [0.25, 0.5, 0.75, 1.0], "shares of each layer's heads and neurons that are models too", above=0, maximum=1
    )
    depths: list[float] = option([0.5, 0.75, 1.0], "shares of the layers that are models too", above=0, maximum=1)
    drawn: int = option(1, "sub-networks drawn for each batch beside the smallest and the largest", minimum=0)
    # A small encoder takes a larger learning rate than BERT-base does.
    learning_rate: float = option(3e-4, "peak learning rate", above=0)
    temperature: float = option(1.0, "softens both distributions", above=0)
    weights: DistillWeights = option(
        DistillWeights(task=0.0, logits=1.0, hidden=1.0, embeddings=0.1), "weights of the loss terms"
    )
    calibration_rows: int = option(1024, "training rows that decide which heads and neurons are first", minimum=8)
    shape: str = option("1x32", "BATCHxTOKENS of the multiply-accumulates that are listed for each sub-network")


@dataclass
class Subnetwork:
    """Cut one of the models that elastic trained out of it; nothing is trained."""

    width: float = option(0.5, "share of each layer's heads and neurons, one of elastic.widths", above=0, maximum=1)
    depth: float = option(0.5, "share of the layers, one of elastic.depths", above=0, maximum=1)
