"""The same setting under several seeds: what it loses in the middle, and how far seeds lie apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["over_seeds", "settings_of"]

_NO_SETTINGS = ("override.seed", "override.experiment")

_SPREAD = ("metric_difference", "validation_difference", "metric_value", "metric_retained")
_MIDDLE = ("size_ratio", "memory_ratio", "weights_bytes", "macs", "parameters", "macs_ratio")


def settings_of(frame: pd.DataFrame) -> list[str]:
    """Return the columns of overrides that differ between jobs, the seed's excepted."""
    columns = [name for name in map(str, frame) if name.startswith("override.") and name not in _NO_SETTINGS]
    return [name for name in columns if frame[name].nunique(dropna=False) > 1]


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per variant and setting, over the seeds it was run with.

    A sweep compares all its variants with one baseline, that of one seed. Here each is compared with the model of its
    own run that the baseline is of another: with its own seed's fine-tuning.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it for a sweep.

    Returns
    -------
    pandas.DataFrame
        ``variant``, ``role`` (``baseline`` or empty), the overrides that differ, ``seeds`` (how many); of
        ``metric_difference`` (test split, to the seed's own baseline), ``validation_difference``, ``metric_value`` and
        ``metric_retained`` the median under their own names and ``_low``, ``_high`` (the worst and the best seed),
        ``_mean``, ``_sd`` (standard deviation, n - 1); ``macs_ratio``, sizes, latencies and speedups (these to the
        sweep's baseline, with which they were timed) as medians.

    Raises
    ------
    DataError
        If no job is done, a run lacks its baseline, or a setting has two rows for one seed.
    """
    import pandas as pd

    done = frame[frame["status"].isin(["done", "budget missed"])]
    if done.empty:
        raise DataError("no job is done, so there is nothing to put together over seeds")
    settings = settings_of(done)
    rows = _against_own(done)
    baseline = rows["role"] == "baseline"
    # One fine-tuning serves all settings of a seed: once is enough.
    once = rows[baseline].drop_duplicates("seed").assign(**dict.fromkeys(settings))
    rows = pd.concat([once.astype(dict.fromkeys(settings, object)), rows[~baseline]])
    keys = ["variant", "role", *settings]
    twice = rows[rows.duplicated([*keys, "seed"])]
    if len(twice):
        raise DataError(
            f"{len(twice)} rows stand twice under one seed, for instance {twice.iloc[0]['variant']} of run "
            f"{twice.iloc[0]['run']}: the jobs differ by something that is no override"
        )
    middle = [*_MIDDLE, *(name for name in map(str, rows) if name.startswith(("speedup.", "p50_ms.")))]
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
        found.append(row | {name: group[name].astype(float).median() for name in middle})
    return pd.DataFrame(found)


def _against_own(done: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their role and differences against the baseline variant of their own run."""
    names = sorted(set(done.loc[done["role"] == "baseline", "step"]))
    if len(names) != 1:
        raise DataError(f"baselines are of {len(names)} steps ({', '.join(names)}); over seeds there is to be one")
    # Where a sweep was measured together, a run also lists the baseline of another: as "baseline", beside its own.
    own = done[(done["step"] == names[0]) & (done["variant"] != "baseline")].drop_duplicates("run").set_index("run")
    lacking = sorted(set(done["run"]) - set(own.index))
    if lacking:
        raise DataError(f"run {lacking[0]} has no variant {names[0]}, which its others could be compared with")
    rows = done[done["variant"] != "baseline"]
    rows = rows.assign(role=["baseline" if name == names[0] else "" for name in rows["step"]])
    for result, value in (("metric_difference", "metric_value"), ("validation_difference", "validation_value")):
        rows[result] = rows[value].astype(float) - rows["run"].map(own[value].astype(float))
    rows["metric_retained"] = rows["metric_value"].astype(float) / rows["run"].map(own["metric_value"].astype(float))
    rows["macs_ratio"] = rows["run"].map(own["macs"].astype(float)) / rows["macs"].astype(float)
    return rows
