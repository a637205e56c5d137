"""Tell an experiment tracker of a finished run: parameters, metrics, training curves, report and plots.

A tracker reads the run's record, as `compress.results` does; nothing is sent while a run is going on.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.config import schemas
from compress.errors import ConfigError, MachineError

__all__ = ["check", "track"]

log = logging.getLogger(__name__)

_MODULES = {schemas.TensorBoard: "compress.tracking.tensorboard", schemas.MLflow: "compress.tracking.mlflow"}


def check(config: schemas.Tracker) -> None:
    """Refuse a tracker that cannot work here, before any work is done.

    Parameters
    ----------
    config
        Of the group ``tracker``.

    Raises
    ------
    MachineError
        If a package is missing: names the extra that brings it.
    ConfigError
        For an MLflow store that is a folder of files, which MLflow no longer writes.
    """
    if isinstance(config, schemas.TensorBoard):
        _need("tensorboard", ["tensorboard"])
    elif isinstance(config, schemas.MLflow):
        uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
        local = uri.startswith("sqlite:") or not uri
        _need("mlflow", ["mlflow", *(["sqlalchemy", "alembic"] if local else [])])
        if uri and "://" not in uri and not uri.startswith(("databricks", "uc:")):
            raise ConfigError(
                f"tracker.uri={uri}: a folder of files, which MLflow no longer writes; give "
                f"sqlite:///{uri}/mlflow.db or the address of a server"
            )


def track(record: Mapping[str, Any], run_dir: Path, config: schemas.Tracker) -> None:
    """Tell the tracker of a run; one that fails is warned of, for the run itself is complete.

    Parameters
    ----------
    record
        As in record.json.
    run_dir
        The run's directory: its archived config, report and plots are told too.
    config
        Of the group ``tracker``.
    """
    module = _MODULES.get(type(config))
    if module is None:
        return
    try:
        importlib.import_module(module).write(record, run_dir, config)
    except Exception as error:  # whatever a tracker's client raises, the numbers are safe in the run's directory
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("tracker=%s failed, the run itself is complete: %s", module.rpartition(".")[2], reason)


def _need(extra: str, modules: list[str]) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(
            f"tracker={extra}: not installed here: {', '.join(missing)}; "
            f"pip install 'compress-transformers[{extra}]', or use tracker=none"
        )
