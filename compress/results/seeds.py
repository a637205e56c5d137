"""The same setting under several seeds: what it loses in the middle, and how far seeds lie apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["over_seeds", "settings_of"]

_NO_SETTINGS = ("override.seed", "override.experiment")

_SPREAD = ("metric_difference", "validation_difference", "metric_value", "metric_retained")
_MIDDLE = ("size_ratio", "memory_ratio", "weights_bytes", "macs", "parameters")


def settings_of(frame: pd.DataFrame) -> list[str]:
    """Return the columns of overrides that differ between jobs, the seed's excepted."""
    columns = [name for name in frame if name.startswith("override.") and name not in _NO_SETTINGS]
    return [name for name in columns if frame[name].nunique(dropna=False) > 1]


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per variant and setting, over the seeds it was run with.

    Each seed has a baseline of its own (its own fine-tuning), so qualities are compared as differences to it.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it for a sweep.

    Returns
    -------
    pandas.DataFrame
        ``variant``, the overrides that differ, ``seeds`` (how many); of ``metric_difference`` (test split, to the
        seed's baseline), ``validation_difference``, ``metric_value`` and ``metric_retained`` the median under their
        own names and ``_low``, ``_high`` (the worst and the best seed), ``_mean``, ``_sd`` (standard deviation, n - 1);
        ``macs_ratio``, sizes and ``speedup.SHAPE`` as medians. Baselines are rows too, without differences.

    Raises
    ------
    DataError
        If a setting has two rows for one seed.
    """
    import pandas as pd

    done = frame[frame["status"].isin(["done", "budget missed"])].copy()
    if done.empty:
        raise DataError("no job is done, so there is nothing to put together over seeds")
    settings = settings_of(done)
    baseline = done["role"] == "baseline"
    dense = done[baseline].groupby("group")["macs"].first()
    done["macs_ratio"] = done["group"].map(dense) / done["macs"]
    # One fine-tuning serves all settings of a seed: once is enough.
    rows = pd.concat(
        [done[baseline].drop_duplicates(["seed", "checkpoint"]).assign(**dict.fromkeys(settings)), done[~baseline]]
    )
    keys = ["variant", "role", *settings]
    twice = rows[rows.duplicated([*keys, "seed"])]
    if len(twice):
        raise DataError(
            f"{len(twice)} rows stand twice under one seed, for instance {twice.iloc[0]['variant']} of run "
            f"{twice.iloc[0]['run']}: the jobs differ by something that is no override"
        )
    found = []
    for key, group in rows.groupby(keys, dropna=False, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"seeds": len(group)}
        for name in _SPREAD:
            values = group[name].astype(float)
            row |= {
                name: values.median(),
                f"{name}_low": values.min(),
                f"{name}_high": values.max(),
                f"{name}_mean": values.mean(),
                f"{name}_sd": values.std(),
            }
        middle = [*_MIDDLE, "macs_ratio", *(name for name in rows if name.startswith(("speedup.", "p50_ms.")))]
        found.append(row | {name: group[name].astype(float).median() for name in middle})
    return pd.DataFrame(found)
