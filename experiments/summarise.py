#!/usr/bin/env python3
"""Put what a sweep found beside its study: results.csv, results.parquet, the figures and the table in README.md.

    python experiments/summarise.py STUDY SWEEP_DIR

STUDY is a folder here, SWEEP_DIR what `python -m compress +experiment=STUDY -m` left. A study of several seeds is put
together over them: results.csv has a row per setting, and the figures are seeds.png, and results.parquet as it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from compress import results
from compress.errors import CompressError, DataError
from compress.results.frame import shapes_of
from compress.results.marks import filled, marked
from compress.results.plots import plot_seeds, write_sweep_plots
from compress.results.plots.style import save
from compress.results.seeds import settings_of


def summarise(study: Path, sweep: Path) -> list[Path]:
    """Write a study's results from its sweep; returns what was written.

    Parameters
    ----------
    study
        Folder with a README.md that holds the two marks between which the table goes.
    sweep
        The sweep's directory.

    Raises
    ------
    DataError
        If the sweep has several groups, which have no figure in common, or failed jobs, or the README lacks a mark.
    """
    readme = study / "README.md"
    text = marked(readme)
    frame = results.load(sweep)
    frame["run"] = [Path(run).relative_to(sweep).as_posix() for run in frame["run"]]
    frame = frame.drop(columns="override.store.path", errors="ignore")  # where somebody's store lies is no finding
    broken = frame[~frame["status"].isin(["done", "budget missed", "equal"])]
    if len(broken):
        raise DataError(f"{sweep}: {len(broken)} jobs are not done ({', '.join(broken['run'])}); run the sweep again")
    if frame["seed"].nunique() > 1:
        return _summarise_seeds(study, frame, text)
    if frame["group"].nunique() > 1:
        raise DataError(f"{sweep}: {frame['group'].nunique()} groups with baselines of their own; a study has one")
    variants = results.variants(frame)
    variants = variants.assign(name=results.names(variants), front=variants.index.isin(results.pareto(variants).index))
    columns = [name for name in variants if variants[name].notna().any() and not name.startswith("quantiles_ms.")]
    variants[["name", *(name for name in columns if name != "name")]].to_csv(study / "results.csv", index=False)
    frame.to_parquet(study / "results.parquet", index=False)
    readme.write_text(filled(text, _table(variants)), encoding="utf-8")
    figures = write_sweep_plots(frame, study)
    return [study / "results.csv", study / "results.parquet", readme, *figures]


def _summarise_seeds(study: Path, frame: pd.DataFrame, text: str) -> list[Path]:
    """Write what a setting loses over its seeds, the best first at each level of the number that was swept."""
    table = results.over_seeds(frame)
    numbers, names = [], []
    for name in settings_of(frame):
        (numbers if pd.to_numeric(table[name], errors="coerce").notna().sum() > len(table) / 2 else names).append(name)
    table.to_csv(study / "results.csv", index=False, float_format="%.6g")
    frame.to_parquet(study / "results.parquet", index=False)
    rows = table[table["role"] != "baseline"].sort_values(
        [*numbers, "metric_difference_mean"], ascending=[False] * (len(numbers) + 1), kind="stable"
    )
    readme = study / "README.md"
    shapes = shapes_of(rows)
    equal = ["variant", "metric_difference_mean", "weights_bytes", *(f"p50_ms.{shape}" for shape in shapes)]
    shared = rows.duplicated(equal, keep=False)
    readme.write_text(
        filled(text, _seeds_table(rows[~rows.duplicated(equal)], shared, numbers, names)), encoding="utf-8"
    )
    written = [study / "results.csv", study / "results.parquet", readme]
    x = f"speedup.{shapes[0]}" if len(shapes) > 1 else "macs_ratio"
    own = rows[~shared]
    if names and len(own):
        against = x if own[x].nunique() > 1 else None
        written.append(save(plot_seeds(own, x=against, series=names[0]), study / "seeds.png"))
    return written


def _seeds_table(rows: pd.DataFrame, shared: pd.Series, numbers: list[str], names: list[str]) -> str:
    """Return a row of Markdown per setting; those that stand for several settings, `shared`, say so."""
    shapes = shapes_of(rows)
    several, timed = rows["variant"].nunique() > 1, len(shapes) > 1
    heads = [*(["variant"] if several else []), *(name.removeprefix("override.") for name in [*numbers, *names])]
    heads += ["times fewer MACs", "times smaller", *(f"times faster at {shape}" for shape in shapes if timed)]
    heads += ["test, points: mean ± sd", "worst seed", "best seed", "validation, points: mean ± sd", "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for place, row in rows.iterrows():
        low, high = (f"{100 * row[f'metric_difference_{end}']:+.2f}" for end in ("low", "high"))
        test, validation = (
            f"{100 * row[f'{split}_difference_mean']:+.2f} ± {100 * row[f'{split}_difference_sd']:.2f}"
            for split in ("metric", "validation")
        )
        cells = [
            *([str(row["variant"])] if several else []),
            *("any" if shared[place] else str(row[name]) for name in [*numbers, *names]),
            *(f"{row[name]:.2f}" for name in ("macs_ratio", "size_ratio")),
            *(f"{row[f'speedup.{shape}']:.2f}" for shape in shapes if timed),
            *(test, low, high, validation, str(row["seeds"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(variants: pd.DataFrame) -> str:
    """Return every variant as a row of Markdown, the fastest first; those of the front in bold."""
    shapes = shapes_of(variants)
    heads = ["variant", "validation", "test, less the baseline's", *(f"{shape}, ms" for shape in shapes)]
    heads += [f"speedup at {shapes[0]}", "weights, MB", "jobs"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for _, row in variants.sort_values(f"p50_ms.{shapes[0]}").iterrows():
        baseline = row["role"] == "baseline"
        cells = [
            f"{row['validation_value']:.3f}",
            f"{row['metric_value']:.3f}" + ("" if baseline else f", {_span(row, 'metric_difference', '+.3f')}"),
            *(f"{row[f'p50_ms.{shape}']:.3g}" for shape in shapes),
            "1" if baseline else _span(row, "speedup", ".2f", f".{shapes[0]}"),
            f"{row['weights_bytes'] / 1e6:.1f}",
            f"{row['jobs']}",
        ]
        name = f"**{row['name']}**" if row["front"] else str(row["name"])
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _span(row: pd.Series, name: str, form: str, shape: str = "") -> str:
    value, low, high = (format(row[f"{name}{end}{shape}"], form) for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 for what can be mended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="name of a folder beside this script")
    parser.add_argument("sweep", type=Path, help="directory of its sweep")
    options = parser.parse_args(arguments)
    study = Path(__file__).resolve().parent / options.study
    if not (study / "README.md").is_file():
        parser.error(f"{options.study}: there is no {study}/README.md")
    try:
        written = summarise(study, options.sweep)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(*(path.relative_to(study.parent.parent) for path in written), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
