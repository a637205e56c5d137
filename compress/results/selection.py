"""The rows of a frame that one usually wants, and what to call them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["artifacts", "failed", "names", "variants", "varying"]


def artifacts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of what each run ends with.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it.
    """
    return frame[frame["role"] == "artifact"]


def variants(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each measured variant once.

    Jobs of a sweep share their first steps, so that one checkpoint is measured, or listed, in several of them.

    Parameters
    ----------
    frame
        As `compress.results.load` returns it.

    Returns
    -------
    pandas.DataFrame
        Of equal checkpoints in a group one row, an artifact's if there is one, else the first; of the group's one
        baseline the first. ``jobs`` counts the runs that have it. Variants whose step is not known are kept.
    """
    import numpy as np

    measured = frame[frame["variant"].notna()]
    own = measured["run"].astype(str) + "/" + measured["variant"].astype(str)
    identity = measured["checkpoint"].where(measured["checkpoint"].notna(), own)
    identity = identity.mask(measured["role"] == "baseline", "baseline")  # a group has one, whichever job's it is
    keys = list(zip(measured["group"].astype(str), identity.astype(str), strict=True))
    runs: dict[tuple[str, str], set[str]] = {}
    for key, run in zip(keys, measured["run"].astype(str), strict=True):
        runs.setdefault(key, set()).add(run)
    first: dict[tuple[str, str], int] = {}
    for number in np.argsort(measured["role"].ne("artifact").to_numpy(), kind="stable"):
        first.setdefault(keys[number], int(number))
    kept = sorted(first.values())
    return measured.iloc[kept].assign(jobs=[len(runs[keys[number]]) for number in kept])


def failed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per failed run: ``run``, ``reason`` and what was asked of it."""
    rows = frame[frame["status"] == "failed"].drop_duplicates("run")
    return rows[["run", "reason", *varying(frame)]]


def varying(frame: pd.DataFrame) -> list[str]:
    """Return the columns of overrides that differ between runs, ``seed`` and ``recipe`` among them."""
    columns = [str(name) for name in frame if str(name).startswith("override.")]
    runs = frame.drop_duplicates("run")[columns].dropna(how="all")  # of the others it is not known what was asked
    return [name for name in columns if runs[name].nunique(dropna=False) > 1]


def names(frame: pd.DataFrame) -> pd.Series[str]:
    """Return a short name for each variant: the overrides that made it what it is, its name and its precision.

    An override of a step that comes after the variant made no difference to it and is left out. Two variants of one
    name get their run's as well.

    Parameters
    ----------
    frame
        Rows of variants, as `compress.results.load` returns them.
    """
    import pandas as pd

    changed = [name for name in varying(frame) if name != "override.recipe"]
    steps = {step for path in frame["path"].dropna() for step in str(path).split(" > ")}
    found = []
    for _, row in frame.iterrows():
        parts = [] if row["role"] == "baseline" else _overrides(row, changed, steps)
        precision = "" if str(row["precision"]) in str(row["variant"]) else str(row["precision"])
        found.append(", ".join([f"{row['variant']} {precision}".strip(), *parts]))
    result = pd.Series(found, index=frame.index, dtype="str")
    double = result.duplicated(keep=False)
    if double.any() and frame["recipe"].nunique() > 1:
        result = result.where(
            ~double | (frame["role"] == "baseline"), result + " (" + frame["recipe"].astype(str) + ")"
        )
        double = result.duplicated(keep=False)
    if double.any():
        result = result.where(~double, result + " (" + frame["run"].astype(str).str.rsplit("/").str[-1] + ")")
    return result


def _overrides(row: pd.Series[str], changed: list[str], steps: set[str]) -> list[str]:
    path = str(row["path"]).split(" > ")
    parts = []
    for column in changed:
        key = column.removeprefix("override.")
        node = key.partition(".")[0]
        if row[column] == row[column] and row[column] is not None and (node not in steps or node in path):
            parts.append(_written(key.rpartition(".")[2], str(row[column])))
    return parts


def _written(key: str, value: str) -> str:
    """Write an override: a word speaks for itself, a number or a truth value needs its key."""
    said = value.lower() if value in ("True", "False", "None") else value  # as a sweep writes them
    return said if said[:1].isalpha() and said not in ("true", "false", "null", "none") else f"{key}={said}"
