"""Which checkpoints are measured side by side, and which numbers a job gets of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from compress.cli.validate import compose_job
from compress.pipeline import Built, Member
from compress.pipeline.batches import batches_of
from compress.pipeline.built import group_key, read_built, write_built

STORE = Path("/store")
JOB = compose_job("int8", ["debug=tiny", "device=cpu"])


def built(digests: dict[str, str], **changes: Any) -> Built:
    facts: dict[str, Any] = {
        "steps": tuple({"name": name, "kind": name, "key": f"key-{digest}"} for name, digest in digests.items()),
        "digests": digests,
        "baseline": "finetune",
        "candidate": list(digests)[-1],
        "labels": ("a", "b"),
        "source": "model",
        "data": {"name": "tiny", "fingerprint": "rows", "rows": {}},
    }
    return Built(**{**facts, **changes})


def member(name: str, **digests: str) -> Member:
    return Member(name, JOB, built(digests), Path("/sweep") / name)


def measured(labels: list[str]) -> dict[str, Any]:
    return {
        "variants": {label: {"step": "?", "figure": label} for label in labels},
        "comparisons": {label: {"of": label} for label in labels},
        "comparison": {"of": "nothing"},
        "warnings": [],
    }


JOBS = [
    member("0", finetune="A", distill="B", quantize="C"),
    member("1", finetune="A", distill="B", quantize="D"),
    member("2", finetune="E", quantize="F"),
]


def test_equal_checkpoints_are_measured_once() -> None:
    (batch,) = batches_of(JOBS, JOBS[0], STORE, 24)
    assert [variant.label for variant in batch.variants] == [
        *("0.finetune", "0.distill", "0.quantize", "1.quantize", "2.finetune", "2.quantize")
    ]
    assert batch.baseline.label == "0.finetune"
    paths = {variant.label: variant.path for variant in batch.variants}
    assert paths["0.distill"] == STORE / "objects" / "key-B"
    assert paths["1.quantize"] == Path("/sweep/1/artifact")


def test_a_job_gets_its_own_variants_under_its_own_names() -> None:
    (batch,) = batches_of(JOBS, JOBS[0], STORE, 24)
    result = measured([variant.label for variant in batch.variants])
    own, baseline = batch.own(JOBS[1], result)
    assert baseline == "finetune"
    assert {name: facts["figure"] for name, facts in own["variants"].items()} == {
        "finetune": "0.finetune",
        "distill": "0.distill",
        "quantize": "1.quantize",
    }
    assert [facts["step"] for facts in own["variants"].values()] == ["finetune", "distill", "quantize"]
    assert own["comparison"] == {"of": "1.quantize"}


def test_a_job_of_another_fine_tuning_is_compared_with_the_group_s_baseline() -> None:
    (batch,) = batches_of(JOBS, JOBS[0], STORE, 24)
    own, baseline = batch.own(JOBS[2], measured([variant.label for variant in batch.variants]))
    assert baseline == "baseline"
    assert list(own["variants"]) == ["baseline", "finetune", "quantize"]
    assert own["variants"]["baseline"] == {"step": "finetune", "figure": "0.finetune"}


def test_only_the_ends_of_a_path_are_measured_where_that_is_asked() -> None:
    job = compose_job("int8", ["debug=tiny", "device=cpu", "benchmark.variants=ends"])
    jobs = [dataclasses.replace(one, job=job) for one in JOBS]
    (batch,) = batches_of(jobs, jobs[0], STORE, 24)
    assert [variant.label for variant in batch.variants] == [
        *("0.finetune", "0.quantize", "1.quantize", "2.finetune", "2.quantize")
    ]
    own, _ = batch.own(jobs[1], measured([variant.label for variant in batch.variants]))
    assert list(own["variants"]) == ["finetune", "quantize"]
    own, baseline = batch.own(jobs[2], measured([variant.label for variant in batch.variants]))
    assert [facts["step"] for facts in own["variants"].values()] == ["finetune", "finetune", "quantize"]
    assert baseline == "baseline"


def test_batches_hold_whole_jobs_and_the_baseline() -> None:
    batches = batches_of(JOBS, JOBS[0], STORE, 4)
    assert [[job.name for job in batch.members] for batch in batches] == [["0", "1"], ["2"]]
    assert [variant.label for variant in batches[1].variants] == ["0.finetune", "2.finetune", "2.quantize"]
    assert all(batch.baseline.label == "0.finetune" for batch in batches)


def test_a_job_is_blamed_for_its_own_variant_alone() -> None:
    jobs = [member("1", finetune="A", quantize="B"), member("11", finetune="A", quantize="C")]
    (batch,) = batches_of(jobs, jobs[0], STORE, 24)
    assert batch.blamed("benchmark: 11.quantize: open failed: RuntimeError: no") == [jobs[1]]
    assert batch.blamed("benchmark: the process of 1.quantize died in 'open' (exit -9)") == [jobs[0]]
    assert batch.blamed("benchmark: 1.finetune: open failed") == []
    assert batch.blamed("no space left") == []
    rest = batch.without([jobs[1]])
    assert [variant.label for variant in rest.variants] == ["1.finetune", "1.quantize"]
    assert batch.only(jobs[1]).candidate == "11.quantize"


def test_what_steps_left_survives_the_disk(tmp_path: Path) -> None:
    write_built(tmp_path, JOBS[0].built)
    assert read_built(tmp_path) == JOBS[0].built


def test_a_group_is_of_equal_task_data_model_and_benchmark() -> None:
    digests = {"finetune": "A", "quantize": "B"}

    def key(*overrides: str, **changes: Any) -> str:
        return group_key(compose_job("int8", ["debug=tiny", "device=cpu", *overrides]), built(digests, **changes))

    same = key()
    assert key("seed=3") == key("finetune.epochs=1") == key("benchmark.when=end") == same
    assert key(labels=("b", "a")) != same
    assert key(source="other") != same
    assert key(data={"name": "tiny", "fingerprint": "other", "rows": {}}) != same
    assert key("benchmark.seconds=2") != same
    assert key("task.metric=f1_macro") != same
