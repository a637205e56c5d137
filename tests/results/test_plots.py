"""Figures: what they show, and that nothing on them covers anything else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sample
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from compress import results
from compress.errors import DataError


def labels_of(figure: Figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


@pytest.mark.parametrize("jobs", [1, 4])
def test_labels_of_a_pareto_plot_cover_neither_each_other_nor_a_point(jobs: int) -> None:
    options = ("int8", "uint8", "per_tensor", "head")[:jobs]
    records = sample.sweep_records(layers=(1, 2, 3)[:jobs], options=options)
    frame = pd.concat([results.frame_of(record, str(n)) for n, record in enumerate(records)], ignore_index=True)
    rows = results.variants(frame)
    assert len(rows) == (4 if jobs == 1 else 19)
    figure = results.plot_pareto(frame)
    figure.draw_without_rendering()
    axes, labels = figure.axes[0], labels_of(figure)
    front = results.names(rows)[
        rows.index.isin(results.pareto(rows, {"validation_value": "max", "p50_ms.1x32": "min"}).index)
    ]
    assert set(front) <= {label.get_text() for label in labels}, "what is on the front has a name"
    boxes = [Text.get_window_extent(label) for label in labels]  # without the line that leads to its point
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    points = axes.transData.transform(rows[["p50_ms.1x32", "validation_value"]].to_numpy(dtype=float))
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_the_staircase_never_passes_above_a_point(sweep_dir: Path) -> None:
    rows = results.variants(results.load(sweep_dir))
    figure = results.plot_pareto(rows)
    grey = [line for line in figure.axes[0].lines if line.get_color() == "#555555" and line.get_linestyle() == "-"]
    steps = np.array([line.get_xydata() for line in grey])
    assert len(steps)
    for start, end in steps:
        between = rows[rows["p50_ms.1x32"].between(*sorted((start[0], end[0])))]
        if start[1] == end[1]:  # a tread: nothing this fast or faster is better
            faster = rows[rows["p50_ms.1x32"] <= start[0] + 1e-9]
            assert faster["validation_value"].max() == pytest.approx(start[1])
        assert not between.empty


@pytest.mark.parametrize("x", ["speedup.8x128", "weights_bytes", "size_ratio"])
def test_other_axes_can_be_chosen(sweep_dir: Path, x: str) -> None:
    figure = results.plot_pareto(results.load(sweep_dir), x=x, y="metric_value", colour="variant", size=None)
    assert figure.axes[0].get_ylabel() == "accuracy, test split"


def test_groups_are_not_drawn_into_one_plot(sweep_dir: Path) -> None:
    frame = results.load(sweep_dir)
    frame.loc[frame["run"].str.endswith("/3"), "group"] = "another"
    with pytest.raises(DataError, match="2 groups"):
        results.plot_pareto(frame)


@pytest.mark.parametrize(("jobs", "curves"), [(1, True), (9, False)])
def test_distributions_are_curves_for_few_and_rows_for_many(sweep_dir: Path, jobs: int, curves: bool) -> None:
    frame = results.load(sweep_dir)
    rows = results.variants(frame[frame["run"].isin(frame["run"].unique()[:jobs])])
    axes = results.plot_latency(rows, shape="8x128").figure.axes[0]
    assert axes.get_xlabel() == "latency of a single run at 8 × 128, ms"
    if curves:
        line = next(line for line in axes.lines if len(line.get_xdata()) == 41)
        assert line.get_ydata()[[0, -1]].tolist() == [0, 100]
        assert (np.diff(line.get_xdata()) > 0).all()
    else:
        assert [tick.get_text() for tick in axes.get_yticklabels()] == list(
            results.names(rows.sort_values("p50_ms.8x128", kind="stable"))
        )


def test_bars_of_size_add_up_to_the_file(sweep_dir: Path) -> None:
    rows = results.variants(results.load(sweep_dir))
    axes = results.plot_size(rows).axes[0]
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(2, len(rows)).sum(axis=0)
    assert sorted(widths) == pytest.approx(sorted(rows["weights_bytes"].astype(float) / 1e6))


def test_sensitivity_keeps_the_order_of_the_layers() -> None:
    frame = pd.DataFrame(
        {"layer": [0, 1, 10], "drop": [0.1, 0.0, -0.1], "low": [0.0, -0.1, -0.2], "high": [0.2, 0.1, 0.0]}
    )
    axes = results.plot_sensitivity(frame, metric="accuracy").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["layer 0", "layer 1", "layer 10"]
    with_parts = pd.concat([frame.assign(part="attention"), frame.assign(part="feed-forward")])
    legend = results.plot_sensitivity(with_parts).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["attention", "feed-forward"]
    with pytest.raises(DataError, match="needed are drop"):
        results.plot_sensitivity(frame[["layer"]])


def test_a_path_is_that_of_one_run(sweep_dir: Path, full_record: dict[str, Any]) -> None:
    assert len(results.plot_path(results.frame_of(full_record)).axes) == 3
    with pytest.raises(DataError, match="one run"):
        results.plot_path(results.load(sweep_dir))


def test_a_figure_gives_equal_bytes_whatever_the_readers_style(full_record: dict[str, Any], tmp_path: Path) -> None:
    import matplotlib as mpl

    from compress.results.plots.style import save

    frame = results.frame_of(full_record)
    plain = save(results.plot_tradeoff(frame), tmp_path / "plain.png").read_bytes()
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9}):
        styled = save(results.plot_tradeoff(frame), tmp_path / "styled.png").read_bytes()
    assert plain == styled
