"""What the planner refuses, implies and keys, without any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.cli.validate import compose_job
from compress.errors import CompressError, ConfigError, MachineError
from compress.models.source import SourceModel
from compress.pipeline import dry_run, run_job
from compress.pipeline.plan import make_plan

BASE = SourceModel("m", None, "f" * 64, "bert", 6, None)
TUNED = replace(BASE, labels=("negative", "neutral", "positive"), head="text_classification")


def names(recipe: str, *overrides: str, source: SourceModel = BASE) -> list[str]:
    job = compose_job(recipe, list(overrides))
    return [step.name for step in make_plan(job, source, ("negative", "neutral", "positive")).steps]


def test_quantize_implies_an_export() -> None:
    assert names("int8", "steps=[finetune,quantize]") == ["finetune", "export", "quantize"]


def test_a_fine_tuned_model_needs_no_finetune() -> None:
    assert names("distill_int8", "steps=[distill,quantize]", source=TUNED) == [
        "source",
        "distill",
        "export",
        "quantize",
    ]


def test_until_stops_the_plan() -> None:
    assert names("distill_int8", "until=distill") == ["finetune", "distill"]


@pytest.mark.parametrize(
    ("steps", "source", "message"),
    [
        ("[distill,quantize]", BASE, "put finetune before it"),
        ("[finetune,export,distill]", BASE, "distill cannot follow export"),
        ("[finetune,quantize,distill]", BASE, "distill cannot follow quantize"),
        ("[finetune,quantize,export]", BASE, "export cannot follow quantize"),
        ("[distill,quantize]", replace(TUNED, labels=("a", "b")), "not those of the data"),
        ("[distill,quantize]", replace(TUNED, head="token_classification"), "set task=token_classification"),
    ],
)
def test_a_wrong_order_is_refused(steps: str, source: SourceModel, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        names("distill_int8", f"steps={steps}", source=source)


def test_more_student_layers_than_the_teacher_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="layers"):
        names("distill", "distill.student.layers=7")


def test_shapes_of_which_none_fits_the_model_are_refused() -> None:
    source = replace(BASE, positions=512)
    assert names("int8", "benchmark.shapes=[1x512,1x600]", source=source)
    with pytest.raises(ConfigError, match="takes at most 512 tokens"):
        names("int8", "benchmark.shapes=[1x600]", source=source)


@pytest.mark.parametrize(("variants", "count"), [("path", 4), ("ends", 2)])
def test_a_dry_run_counts_what_is_measured(variants: str, count: int, tmp_path: Path) -> None:
    lines = ["debug=tiny", f"benchmark.variants={variants}", f"store.path={tmp_path / 'store'}"]
    assert f"benchmark  {count} variants" in dry_run(compose_job("int8", lines))


def test_a_dry_run_refuses_a_store_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MachineError, match="cannot write to the store"):
            dry_run(compose_job("int8", ["debug=tiny", f"store.path={root}"]))


def test_a_run_begins_in_a_directory_without_what_another_left(tmp_path: Path) -> None:
    for name in ("record.json", "report.md", "artifact/checkpoint.json", "artifact/model.onnx", "plots/path.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    for name in ("notes.txt", "compress.log"):
        (tmp_path / name).write_text("")
    job = compose_job("int8", ["debug=tiny", f"store.path={tmp_path / 'store'}", "device=cuda:77"])
    with pytest.raises(CompressError):
        run_job(job, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compress.log", "notes.txt", "status.json"]


def keys(*overrides: str) -> dict[str, str]:
    job = compose_job("distill_int8", list(overrides))
    plan = make_plan(job, BASE, None).with_keys(job, "d" * 64)
    return {step.name: step.key for step in plan.steps}


def test_a_key_follows_what_can_change_the_bytes_and_nothing_else() -> None:
    base = keys()
    changed = {
        override: {name for name, key in keys(override).items() if key != base[name]}
        for override in (
            "quantize.per_channel=false",
            "distill.temperature=5",
            "seed=3",
            "finetune.checkpoint_seconds=5",
            "benchmark.threads=1",
        )
    }
    assert changed["quantize.per_channel=false"] == {"quantize"}
    assert changed["distill.temperature=5"] == {"distill", "export", "simplify", "quantize"}
    assert changed["seed=3"] == {"finetune", "distill", "export", "simplify", "quantize"}
    assert not changed["finetune.checkpoint_seconds=5"]
    assert not changed["benchmark.threads=1"]
