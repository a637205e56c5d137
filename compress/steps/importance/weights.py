"""Criteria that need no data: chance, and the size of a structure's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from compress.errors import ConfigError
from compress.steps.importance.gates import layout_of
from compress.steps.importance.scores import Batches, Importance, LossOf, Scores

if TYPE_CHECKING:
    import torch

__all__ = ["MagnitudeImportance", "RandomImportance"]


class RandomImportance(Importance):
    """Uniform scores in (0, 1): what every criterion must beat.

    Parameters
    ----------
    seed
        Equal seeds give equal scores.
    """

    name: ClassVar[str] = "random"
    needs_data: ClassVar[bool] = False
    needs_loss: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, model: Any, batches: Batches, loss: LossOf) -> Scores:
        """Draw scores; batches and loss are not read."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        layout = layout_of(model)
        heads = [torch.rand(count, generator=generator, dtype=torch.float64) for count in layout.heads]
        return Scores(heads, [torch.rand(count, generator=generator, dtype=torch.float64) for count in layout.neurons])


class MagnitudeImportance(Importance):
    """Mean absolute value, or root mean square, of all weights that go with a structure.

    Those of a head are its rows of query, key and value and its columns of the attention output; of a neuron its rows
    of the feed-forward input (or inputs, where one gates the other) and its column of the output; biases included
    (Li et al., arXiv 1608.08710, for whole filters).

    Parameters
    ----------
    power
        1 for the mean absolute value, 2 for the root mean square.
    """

    name: ClassVar[str] = "magnitude"
    needs_data: ClassVar[bool] = False
    needs_loss: ClassVar[bool] = False

    def __init__(self, power: int = 2) -> None:
        if power not in (1, 2):
            raise ConfigError(f"magnitude with the norm l{power}: l1 and l2 are known")
        self.power = power

    def scores(self, model: Any, batches: Batches, loss: LossOf) -> Scores:
        """Measure the weights; batches and loss are not read."""
        from compress.models.families import family

        places = family(model.config.model_type)
        size = layout_of(model).head_size
        heads, neurons = [], []
        for layer in places.layer_list(model):
            inputs = [layer.get_submodule(path) for path in (places.query, places.key, places.value)]
            heads.append(self._size(inputs, layer.get_submodule(places.attention_output), size))
            inputs = [layer.get_submodule(path) for path in places.ffn_inputs]
            neurons.append(self._size(inputs, layer.get_submodule(places.ffn_output), 1))
        return Scores(heads, neurons)

    def _size(self, inputs: list[Any], output: Any, width: int) -> torch.Tensor:
        """Return the size per structure of `width` rows of each input and columns of the output."""
        import torch

        parts = [output.weight.T]
        for linear in inputs:
            parts.append(linear.weight)
            if linear.bias is not None:
                parts.append(linear.bias[:, None])
        with torch.no_grad():
            rows = [part.detach().cpu().double().abs().pow(self.power) for part in parts]
            total = sum((row.sum(1) for row in rows), torch.zeros(output.in_features, dtype=torch.float64))
            mean = total.reshape(-1, width).sum(1) / (width * sum(row.shape[1] for row in rows))
            size: torch.Tensor = mean.pow(1 / self.power)
        return size
