"""Answers per row that were computed before: equal files on equal data answer equally, so they are asked once."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.files import canonical_json, sha256_file
from compress.keys import source_digest
from compress.machine import isa, package_version

__all__ = ["KeptAnswers"]

log = logging.getLogger(__name__)

_PACKAGES = (
    *("bitsandbytes", "numpy", "onnxruntime", "openvino", "scikit-learn", "seqeval", "tokenizers", "torch"),
    *("torchao", "transformers"),
)
_MODULES = ("compress.benchmark.worker", "compress.models", "compress.quantized", "compress.runtime", "compress.tasks")


class KeptAnswers:
    """A folder of answers, one file each, named by everything that they depend on.

    Parameters
    ----------
    folder
        Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, digest: str, rows: str, labels: Sequence[str], how: Mapping[str, Any]) -> str:
        """Return the name of the answers of a checkpoint to the rows in a file.

        Parameters
        ----------
        digest
            Of the checkpoint; it covers every file.
        rows
            The file.
        labels
            In the order in which decisions are counted.
        how
            Task, metric, device, threads and batch, which round differently.
        """
        content = {
            "digest": digest,
            "rows": sha256_file(Path(rows)),
            "labels": list(labels),
            "how": dict(how),
            "isa": isa(),
            "packages": {name: package_version(name) for name in _PACKAGES},
            "modules": {name: source_digest(name) for name in _MODULES},
        }
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def find(self, key: str) -> dict[str, Any] | None:
        """Return a worker's answer with the ``file`` of scores per row; None if there is none, or it is damaged."""
        file = self._file(key)
        try:
            with np.load(file, allow_pickle=False) as content:
                answer: dict[str, Any] = json.loads(content["answer"].tobytes())
                for name in ("scores", "decisions", "correct"):
                    content[name]
        except FileNotFoundError:
            return None
        except Exception as error:  # zip, numpy and json each have errors of their own for a damaged file
            log.warning("%s is damaged and is measured again (%s)", file, error)
            return None
        return {**answer, "file": str(file)}

    def keep(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep a worker's answer; a disk that refuses costs only the time to ask again."""
        with np.load(str(answer["file"]), allow_pickle=False) as content:
            arrays = {name: content[name] for name in content}
        facts = {name: value for name, value in answer.items() if name != "file"}
        arrays["answer"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
        whole = self._file(key)
        part = whole.with_name(f".{whole.name}.{hash(answer['file']) & 0xFFFFFF:x}.npz")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            np.savez(part, **arrays)
            shutil.move(part, whole)
        except OSError as error:
            part.unlink(missing_ok=True)
            log.warning("the answers of a variant could not be kept in %s: %s", self.folder, error)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npz"
