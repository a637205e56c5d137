"""Training of every sub-network at once: the smallest, the largest and some between, for each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from compress.models.nested import Size, SubNetworks, layers_at
from compress.training.distillation import Scene, Way
from compress.training.distillation.layer_maps import Matching, matching

if TYPE_CHECKING:
    from compress.config.training import Taught
    from compress.training.loop import LossFunction

__all__ = ["Sandwich", "matching_at"]


def matching_at(config: Taught, depth: float, layers: int) -> Matching:
    """Return what a sub-network of some depth is compared with.

    What one of its layers hands to the next is compared with what the teacher hands to that same layer, and last with
    last, as in the authors' code: of six layers a half has 0, 2, 4, compared after layers 1, 3 and 5 of the teacher.

    Parameters
    ----------
    config
        The terms of the loss.
    depth
        Share of the layers.
    layers
        Of the whole model, and of its teacher.
    """
    kept = layers_at(depth, layers)
    ends = [*(layer - 1 for layer in kept[1:]), layers - 1]
    return matching(replace(config, teacher_layers=ends), len(kept), layers)


class Sandwich(Way):
    """The loss is the mean over sub-networks: smallest and largest always, others as drawn.

    The sandwich rule of universally slimmable networks (Yu & Huang, arXiv 1903.05134, section 3.2) over the
    sub-networks of DynaBERT (Hou et al., arXiv 2004.04037): what the ends learn bounds what is between.

    Parameters
    ----------
    networks
        The model's sub-networks.
    sizes
        All that shall work, rising.
    drawn
        How many beside the ends.
    """

    keeps_last: ClassVar[bool] = True

    def __init__(self, networks: SubNetworks, sizes: Sequence[Size], drawn: int) -> None:
        self.networks = networks
        self.ends = list(dict.fromkeys((min(sizes, key=_product), max(sizes, key=_product))))
        self.between = [size for size in sizes if size not in self.ends]
        self.drawn = min(drawn, len(self.between))
        self.depths = sorted({size.depth for size in sizes})

    def matching(self, config: Taught, student_layers: int, teacher_layers: int) -> Matching:
        """Return what the whole model is compared with, and of the teacher whatever any depth is."""
        found = [matching_at(config, depth, teacher_layers) for depth in self.depths]
        parts = dict.fromkeys(part for one in found for part in one.teacher)
        return replace(matching(config, student_layers, teacher_layers), teacher=tuple(parts))

    def begin(self, scene: Scene) -> LossFunction:
        """Return the mean loss over the sub-networks of a batch."""
        layers = self.networks.structure.layers
        losses = {depth: scene.make(matching_at(scene.config, depth, layers)) for depth in self.depths}

        def of_batch(model: Any, batch: dict[str, Any], progress: float) -> torch.Tensor:
            known = losses[self.depths[-1]].answered(batch)
            terms = []
            for size in self.chosen(scene.draws.next(progress)):
                with self.networks.at(size):
                    terms.append(losses[size.depth](model, known, progress))
            return torch.stack(terms).mean()

        return of_batch

    def chosen(self, generator: np.random.Generator) -> list[Size]:
        """Return the sub-networks that a batch trains."""
        places = generator.permutation(len(self.between))[: self.drawn].tolist()
        return [*self.ends, *(self.between[place] for place in places)]


def _product(size: Size) -> float:
    return size.width * size.depth
