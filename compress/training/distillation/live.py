"""A teacher that answers while its student trains: on rows that no kept output can be of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from compress.training.distillation.entries import ANSWERED, LOGITS, SHARE, part_name
from compress.training.distillation.inside import Part, Probe

__all__ = ["LiveTeacher"]


class LiveTeacher:
    """Teachers in evaluation mode that answer the rows of a batch which have no kept outputs; logits are averaged.

    Parameters
    ----------
    models
        The teachers; several give no parts of their inside.
    parts
        What of its inside a single one gives.
    device
        Where they run.
    """

    def __init__(self, models: Sequence[Any], parts: Sequence[Part], device: str) -> None:
        self.models = [model.to(device).eval().requires_grad_(False) for model in models]
        self.parts = tuple(parts)
        self.probes = [Probe(model, parts) for model in self.models]
        self.rows = 0

    def answers(self, known: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the batch's teacher entries with the rows filled in that were not answered.

        Parameters
        ----------
        known
            The batch. Without an entry `ANSWERED` no row is.
        inputs
            Its model inputs, ``[batch, sequence]``.
        """
        from compress.training.distillation.terms import mixed

        rows = len(inputs["input_ids"])
        answered = known.get(ANSWERED)
        open_rows = torch.arange(rows) if answered is None else (~answered).nonzero()[:, 0]
        if not len(open_rows):
            return {}
        device = inputs["input_ids"].device
        open_rows = open_rows.to(device)
        self.rows += len(open_rows)
        found: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for model, probe in zip(self.models, self.probes, strict=True):
                own = mixed(inputs, known, model.get_input_embeddings()) if SHARE in known else dict(inputs)
                logits, inside = probe(model, {name: value[open_rows] for name, value in own.items()})
                entries = {LOGITS: logits / len(self.models)}
                entries |= {part_name(part): values.float() for part, values in inside.items()}
                for name, values in entries.items():
                    found[name] = values if name not in found else found[name] + values
        if answered is None:
            return found
        whole = {}
        for name, values in found.items():
            whole[name] = known[name].to(values.dtype).index_copy(0, open_rows, values)
        return whole
