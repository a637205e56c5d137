"""A peer's artifact, made once for equal inputs: it lives in the store, whole or not at all, as what a step writes."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from compress.errors import MachineError
from compress.keys import step_key
from compress.machine import isa
from compress.pipeline.quiet import working
from compress.steps.base import Context
from compress.steps.companions import copy_companions

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.job import JobConfig
    from compress.peers.base import Peer
    from compress.pipeline.steps import Setting

__all__ = ["make_peer"]

log = logging.getLogger(__name__)


def make_peer(peer: Peer, source: Checkpoint, job: JobConfig, setting: Setting) -> Checkpoint:
    """Return what a peer makes of a checkpoint: from the store, or made now.

    Parameters
    ----------
    peer
        The peer.
    source
        A checkpoint of the format that it reads.
    job, setting
        The job that left `source`, and what its steps worked with.

    Raises
    ------
    CompressError
        If it cannot be made.
    """
    task, store = setting.task, setting.store
    key = step_key(
        source_key=source.digest,
        kind=f"peer/{peer.name}",
        config={},
        resolved={"max_length": job.model.max_length, "metric": task.metric, "flags": isa()},
        data_fingerprint=setting.data.fingerprint,
        inputs={},
        seed=job.seed if peer.draws else None,
        device_kind=None,
        threads=None,
        packages=peer.packages,
        modules=("compress.peers", *peer.modules),
    )
    with store.lock(key):
        found = store.get(key)
        if found is not None:
            log.info("%s: reused", peer.name)
            return found
        log.info("%s: running", peer.name)
        start = time.perf_counter()
        with working(store.path):
            _make(peer, source, key, job, setting)
        log.info("%s: done in %.1f s", peer.name, time.perf_counter() - start)
        found = store.get(key)
    if found is None:
        raise MachineError(f"{peer.name}: its files vanished from the store at {store.path}; run again")
    return found


def _make(peer: Peer, source: Checkpoint, key: str, job: JobConfig, setting: Setting) -> None:
    task, store, manifest = setting.task, setting.store, source.manifest
    context = Context(
        name=peer.name,
        task=task,
        data=setting.data,
        max_length=manifest.max_length,
        seed=job.seed,
        device="cpu",
        threads=setting.plan.threads,
        scratch=store.scratch(key),
        cache=store.cache,
    )
    with store.building(key) as out:
        copy_companions(source, out)
        peer.make(source, context, out)
        entry = {"name": peer.name, "kind": f"peer/{peer.name}", "config": {}, "key": key}
        out.finish(
            format=peer.leaves,
            precision=peer.precision,
            task=task.name,
            metric=task.metric,
            labels=task.labels,
            max_length=manifest.max_length,
            architecture=manifest.architecture,
            layers=manifest.layers if peer.layers is None else peer.layers,
            lineage=(*manifest.lineage, entry),
        )
    store.drop_scratch(key)
