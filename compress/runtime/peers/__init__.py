"""Other projects' ways to run a model of torch, named by the ``peer.json`` of a directory: to measure them beside ours.

``peer.json`` is ``{"way": NAME}`` in a directory that holds the model: a checkpoint of this project or one of Hugging
Face. It names one of `WAYS` and nothing else, so neither a pickle nor code of the directory is run.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CheckpointError
from compress.files import canonical_json
from compress.machine import need_extra

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.runtime.base import Predictor

__all__ = ["PEER", "WAYS", "Way", "open_peer", "way_of", "write_peer"]

PEER = "peer.json"


@dataclass(frozen=True)
class Way:
    """How a directory is opened.

    Attributes
    ----------
    module : str
        Holds the function ``open_way(directory, checkpoint, threads, device)``, which returns a Predictor.
    imports : tuple of str
        What opening and running import, so that a benchmark can import it before it measures memory.
    extra : str or None
        Extra of this project that brings `needs`.
    needs : tuple of str
        Modules that must be there.
    """

    module: str
    imports: tuple[str, ...]
    extra: str | None = None
    needs: tuple[str, ...] = ()


_COMPILER = ("torch._dynamo", "torch._inductor.compile_fx", "torch._inductor.freezing")

WAYS = {
    "torch_compile": Way("compress.runtime.peers.compiled", _COMPILER),
    "torchao": Way("compress.runtime.peers.quantized", (*_COMPILER, "torchao.quantization"), "peers", ("torchao",)),
}
"""By the name that peer.json gives."""


def write_peer(directory: Path, way: str) -> None:
    """Write peer.json into a directory that holds a model."""
    assert way in WAYS
    (directory / PEER).write_bytes(canonical_json({"way": way}))


def way_of(directory: Path) -> Way | None:
    """Return how a directory wants to be opened; None without a peer.json.

    Raises
    ------
    CheckpointError
        If peer.json is not as described above.
    """
    file = directory / PEER
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{file} cannot be read: {error}; it is to be {{"way": NAME}}') from error
    name = content.get("way") if isinstance(content, dict) else None
    if name not in WAYS or set(content) != {"way"}:
        near = difflib.get_close_matches(str(name), WAYS, n=1)
        hint = f"; did you mean {near[0]}?" if near and near[0] != name else ""
        raise CheckpointError(
            f'{file} holds {content!r:.80}; it is to be {{"way": NAME}} with one of {", ".join(WAYS)}{hint}'
        )
    return WAYS[name]


def open_peer(directory: Path, checkpoint: Checkpoint | None, threads: int, device: str) -> Predictor:
    """Open a directory with a peer.json.

    Parameters
    ----------
    directory
        Holds peer.json and the model.
    checkpoint
        The same directory, verified, where it is a checkpoint of ours.
    threads
        Intra-op threads.
    device
        ``auto`` or ``cpu``.

    Raises
    ------
    CheckpointError
        If it cannot be opened.
    UnsupportedError
        If an extra is missing, or for another device.
    """
    way = way_of(directory)
    assert way is not None
    if way.extra is not None:
        need_extra(way.extra, way.needs, f"{directory}: a model run by {', '.join(way.needs)}")
    found: Predictor = import_module(way.module).open_way(directory, checkpoint, threads, device)
    return found
