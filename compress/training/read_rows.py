"""Training without the rows of the token table that no text of it reads.

Half of a small encoder's parameters are its token table, and a data set reads a tenth of it. Gradients, clipping and
AdamW go through all of it at every update; here the model trains with a table of the rows that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compress.errors import StepError

if TYPE_CHECKING:
    from compress.tasks.base import Features

__all__ = ["only_rows", "rows_to_read"]

_LEAST_SAVED = 0.1
"""Share of the table that must be unread for a smaller one to be worth it."""
_LOOKUP = "row_of_token"


def rows_to_read(model: Any, features: Sequence[Features], extra: Iterable[int] = ()) -> np.ndarray | None:
    """Return the rows of the token table that a training needs, where a smaller table can take its place.

    Parameters
    ----------
    model
        A transformers model.
    features
        Every tokenized row that will be read while the table is small.
    extra
        Further ids, that of padding for instance.

    Returns
    -------
    numpy.ndarray or None
        int64 ``[rows]``, ascending, each once. None where less than a tenth of the table would be saved, where another
        module shares it (an output embedding), or where it is no plain ``torch.nn.Embedding``.
    """
    table = _table(model)
    if table is None:
        return None
    ids = chain(extra, *(row["input_ids"] for split in features for row in split.inputs))
    rows = np.unique(np.fromiter(ids, np.int64))
    if table.padding_idx is not None:
        rows = np.union1d(rows, [table.padding_idx])
    known = len(rows) > 0 and rows[0] >= 0 and rows[-1] < table.num_embeddings
    return rows if known and len(rows) <= (1 - _LEAST_SAVED) * table.num_embeddings else None


@contextmanager
def only_rows(model: Any, rows: np.ndarray | None) -> Iterator[None]:
    """Have a model's token table hold some rows alone, in place; on leaving it is whole again, with their new values.

    The model is given the same ids as ever. An id that is not among `rows` is an error, never another row. The other
    rows stay exactly as they came; a decay of weights does not reach them.

    Parameters
    ----------
    model
        The model that `rows_to_read` was given.
    rows
        What it answered; None changes nothing.
    """
    table = None if rows is None else _table(model)
    if rows is None or table is None:
        yield
        return
    whole, padding, tokens = table.weight, table.padding_idx, table.num_embeddings
    chosen = torch.from_numpy(rows).to(whole.device)
    # Ids without a row point behind the last one, where the lookup of a row fails on any device.
    row_of = torch.full((tokens,), len(rows), dtype=torch.int64, device=whole.device)
    row_of[chosen] = torch.arange(len(rows), device=whole.device)
    table.register_buffer(_LOOKUP, row_of, persistent=False)
    table.weight = torch.nn.Parameter(whole.detach()[chosen], requires_grad=whole.requires_grad)
    table.num_embeddings = len(rows)
    table.padding_idx = None if padding is None else int(row_of[padding])
    handle = table.register_forward_pre_hook(_to_rows)
    try:
        yield
    finally:
        handle.remove()
        trained = table.weight.detach()
        delattr(table, _LOOKUP)
        with torch.no_grad():
            whole.data = whole.data.to(trained.device)
            whole.data[chosen.to(trained.device)] = trained
        table.weight, table.padding_idx, table.num_embeddings = whole, padding, tokens


def _to_rows(table: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    (ids,) = inputs
    found: torch.Tensor = getattr(table, _LOOKUP).index_select(0, ids.reshape(-1)).view(ids.shape)
    # Elsewhere than on a CPU looking would wait for the device; its kernel of embeddings asserts the same.
    if found.device.type == "cpu" and bool((found == table.num_embeddings).any()):
        unknown = int(ids[found == table.num_embeddings][0])
        raise StepError(f"the model was given the token {unknown}, which is in none of the texts it trains on")
    return (found,)


def _table(model: Any) -> torch.nn.Embedding | None:
    """Return the token table if it is a plain embedding that nothing else reads."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    if type(table) is not torch.nn.Embedding or table.sparse or table.max_norm is not None:
        return None
    uses = [name for name, one in model.named_parameters(remove_duplicate=False) if one is table.weight]
    return table if len(uses) == 1 else None
