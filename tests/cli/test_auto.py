"""recipe=auto: what it refuses, which candidate it trains next, and a small search from start to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.cli.app import main
from compress.config.job import JobConfig
from compress.config.schemas import Budget
from compress.errors import ConfigError
from compress.sweeping.auto import order
from compress.sweeping.auto.figures import Figures, Limits, figures_of

TINY = ("recipe=auto", "debug=tiny", "threads=1")


def trial(milliseconds: float, drop: float, size: float = 4.0) -> Figures:
    return Figures(value=0.9 - drop, drop=drop, speedup=12 / milliseconds, latency_ms=milliseconds, size_ratio=size)


def trained(drop: float) -> Figures:
    return Figures(value=0.9 - drop, drop=drop)


LADDER = {0: trial(4.0, 0.0), 1: trial(2.0, 0.03), 2: trial(1.0, 0.05), 3: trial(0.5, 0.15), 4: trial(0.3, 0.4)}
"""From slow and exact to fast and, after its trial, bad."""


def search(trials: dict[int, Figures], in_full: dict[int, Figures | None], limits: Limits, most: int) -> list[int]:
    """Return the candidates that are trained in full, in order, and then the one that is left."""
    ranked = order.eligible(trials, limits)
    full: dict[int, Figures | None] = {}
    while (number := order.following(ranked, trials, full, limits, most)) is not None:
        full[number] = in_full[number]
    chosen = order.best(ranked, trials, full, limits)
    assert chosen is not None
    return [*full, chosen]


@pytest.mark.parametrize("fastest", [1, 2, 3, 4])
def test_bisection_finds_the_fastest_candidate_that_keeps_the_loss(fastest: int) -> None:
    in_full = {number: trained(0.005 if number <= fastest else 0.05) for number in LADDER}
    *visited, chosen = search(LADDER, dict(in_full), Limits(Budget(max_metric_drop=0.01)), 3)
    assert chosen == fastest
    assert len(visited) <= 3


def test_one_training_is_kept_for_a_candidate_that_was_good_in_its_trial() -> None:
    in_full = {number: trained(0.0 if number == 0 else 0.05) for number in LADDER}
    *visited, chosen = search(LADDER, dict(in_full), Limits(Budget(max_metric_drop=0.01)), 2)
    assert visited[-1] == chosen == 0
    assert len(visited) == 2


def test_speed_and_size_leave_candidates_out_before_anything_is_trained() -> None:
    limits = Limits(Budget(max_metric_drop=0.01, min_speedup=6))
    assert order.eligible(LADDER, limits) == [4, 3, 2, 1]
    assert order.eligible(LADDER, Limits(Budget(min_size_ratio=4.2), slack=0.1)) == [4, 3, 2, 1, 0]
    larger = {**LADDER, 2: trial(1.0, 0.05, size=2.0)}
    assert order.eligible(larger, Limits(Budget(min_size_ratio=4.2), slack=0.1)) == [4, 3, 1, 0]


def test_what_another_beats_in_everything_is_not_trained() -> None:
    beaten = {**LADDER, 5: trial(1.1, 0.06)}
    assert 5 not in order.eligible(beaten, Limits(Budget(max_metric_drop=0.01)))
    smaller = {**LADDER, 5: trial(1.1, 0.06, size=9.0)}
    assert 5 not in order.eligible(smaller, Limits(Budget(max_metric_drop=0.01, min_size_ratio=3)))


def test_a_difference_inside_the_noise_of_a_trial_leaves_nobody_out() -> None:
    def figures(milliseconds: float, drop: float) -> Figures:
        return Figures(value=0.9 - drop, drop=drop, drop_high=drop + 0.0196, latency_ms=milliseconds)

    limits = Limits(Budget(max_metric_drop=0.01))
    assert order.eligible({0: figures(2.0, 0.045), 1: figures(1.0, 0.04)}, limits) == [1, 0]
    assert order.eligible({0: figures(2.0, 0.055), 1: figures(1.0, 0.04)}, limits) == [1]


def test_out_of_reach_trains_the_nearest() -> None:
    limits = Limits(Budget(max_metric_drop=0.01, min_speedup=100))
    *visited, chosen = search(LADDER, {4: trained(0.2)}, limits, 3)
    assert visited == [4]
    assert chosen == 4


def test_without_a_bound_of_the_loss_the_most_accurate_is_left() -> None:
    limits = Limits(Budget(min_speedup=6))
    in_full = {1: trained(0.02), 2: trained(0.01), 3: trained(0.05)}
    *visited, chosen = search(LADDER, dict(in_full), limits, 3)
    assert visited == [1, 2, 3]
    assert chosen == 2


def test_a_failed_training_counts_and_is_not_left() -> None:
    in_full: dict[int, Figures | None] = {0: trained(0.0), 1: None, 2: None, 3: None, 4: None}
    *visited, chosen = search(LADDER, in_full, Limits(Budget(max_metric_drop=0.01)), 3)
    assert chosen == 0
    assert None in [in_full[number] for number in visited]


def test_confidence_judges_the_worse_end() -> None:
    figures = Figures(value=0.9, drop=0.005, drop_high=0.02)
    budget = Budget(max_metric_drop=0.01)
    assert Limits(budget).accurate(figures)
    assert not Limits(budget, confident=True).accurate(figures)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "none is given; add budget.max_metric_drop"),
        (("budget.min_speedup=2", "until=finetune"), "until=finetune: recipe=auto runs many jobs"),
        (("budget.min_speedup=2", "auto.candidates=[]"), "name at least one"),
        (("budget.min_speedup=2", "auto.candidates=['distill.epochs=1']"), "names no recipe to try"),
        (("budget.min_speedup=2", "auto.candidates=['recipe=auto']"), "names no recipe to try"),
        (("budget.min_speedup=2", "auto.candidates=['recipe=int9']"), "did you mean int2"),
        (
            ("budget.min_speedup=2", "auto.candidates=['recipe=int8 distill.epochs=2']"),
            "distill is not among the steps",
        ),
        (("budget.min_speedup=2", "auto.candidates=['recipe=int8','recipe=int8 seed=0']"), "is equal to 0"),
        (("budget.min_speedup=2", "auto.finalists=0"), "auto.finalists=0: must be at least 1"),
        (("budget.min_speedup=2", "distill.epochs=1"), "distill is not among the steps"),
    ],
)
def test_bad_searches_are_refused_before_any_work(
    overrides: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, *overrides, f"store.path={tmp_path / 'store'}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sweep_checks_its_searches_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *TINY, "seed=0,1", f"store.path={tmp_path / 'store'}"]) == 2
    assert "none is given; add budget.max_metric_drop" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_candidates_that_cannot_run_here_are_left_out_and_some_must_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress.sweeping.auto import candidates

    def absent(job: JobConfig) -> str | None:
        return "it needs an extra" if job.recipe == "int8" or everything else None

    monkeypatch.setattr(candidates, "_absent", absent)
    lines = [*TINY, "dry_run=true", "budget.min_speedup=2", f"store.path={tmp_path / 'store'}"]
    lines.append("auto.candidates=['recipe=int8','recipe=distill_int8']")
    everything = False
    assert main(lines) == 0
    assert "left out   it needs an extra" in capsys.readouterr().out
    everything = True
    assert main(lines) == 2
    assert "none of them can run here: recipe=int8: it needs an extra; recipe=distill" in capsys.readouterr().err


def test_its_settings_belong_to_it_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=int8", "debug=tiny", "auto.finalists=2"]) == 2
    assert "auto" in capsys.readouterr().err


def test_dry_run_names_every_candidate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["auto.candidates=['recipe=int8','recipe=distill_int8 distill.epochs=7']", "budget.min_speedup=2"]
    assert main([*TINY, *lines, "dry_run=true", f"store.path={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "2 candidates" in shown
    assert "recipe=distill_int8 distill.epochs=7" in shown


@pytest.mark.slow
def test_a_search_leaves_what_it_chose_and_says_what_it_tried(tmp_path: Path) -> None:
    lines = [
        *TINY,
        "auto.candidates=['recipe=int8','recipe=distill_int8 distill.epochs=3']",
        "budget.max_metric_drop=1",
        *("benchmark.variants=ends", "benchmark.memory=false", "finetune.epochs=1"),
        f"store.path={tmp_path / 'store'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    assert main(lines) == 0
    run = tmp_path / "run"
    record = json.loads((run / "record.json").read_text())
    found = record["search"]
    assert record["recipe"] == "auto"
    assert found["met_on_validation"]
    assert [one["overrides"] for one in found["candidates"]] == ["recipe=int8", "recipe=distill_int8 distill.epochs=3"]
    assert all(one["trial"] for one in found["candidates"])
    assert found["chosen"] in ("recipe=int8", "recipe=distill_int8 distill.epochs=3")
    assert (run / "artifact" / "checkpoint.json").is_file()
    assert "To make it again without a search" in (run / "report.md").read_text()
    trials = json.loads((run / "search" / "trial_1" / "record.json").read_text())
    assert sorted(trials["variants"]) == ["finetune", "quantize"]  # no more than has to be measured
    assert "distill.epochs=1" in trials["overrides"]
    assert json.loads((run / "status.json").read_text())["status"] == "done"


def test_figures_are_read_from_validation_alone() -> None:
    def variant(test: float, validation: float, milliseconds: float, weights: int) -> dict[str, Any]:
        return {
            "metrics": {"accuracy": test},
            "validation_metrics": {"accuracy": validation},
            "latency": [{"batch_size": 1, "sequence_length": 32, "p50_ms": milliseconds}],
            "size": {"weights_bytes": weights},
        }

    record = {
        "metric": {"name": "accuracy", "higher_is_better": True},
        "steps": [],
        "baseline": "base",
        "candidate": "small",
        "variants": {"base": variant(0.5, 0.9, 6.0, 80), "small": variant(0.4, 0.88, 1.0, 20)},
        "comparison": {"validation_difference": {"value": -0.02, "low": -0.03, "high": -0.01}},
    }
    figures = figures_of(record)
    assert figures.drop == pytest.approx(0.02)
    assert figures.drop_high == pytest.approx(0.03)
    assert figures.value == pytest.approx(0.88)
    assert (figures.speedup, figures.latency_ms, figures.size_ratio) == (6.0, 1.0, 4.0)
    lower = {**record, "metric": {"name": "accuracy", "higher_is_better": False}}
    assert figures_of(lower).drop == pytest.approx(-0.02)


def test_a_candidate_that_is_no_line_is_named() -> None:
    from compress.sweeping.auto.candidates import _parsed

    with pytest.raises(ConfigError, match=r"auto.candidates\[3\].*overrides are separated by blanks"):
        _parsed(3, "recipe='int8")
