"""The command line: composition, help, run directories, sweeps, signals."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compress.cli.app import main
from compress.cli.directories import make_fresh
from compress.cli.keys import known_keys
from compress.cli.validate import compose_job
from compress.config import schemas
from compress.config.shipped import options
from compress.errors import ConfigError


@pytest.mark.parametrize("recipe", options("recipe"))
@pytest.mark.parametrize("preset", [[], *([f"debug={name}"] for name in options("debug"))], ids=str)
def test_every_recipe_composes_with_every_preset(recipe: str, preset: list[str]) -> None:
    job = compose_job(recipe, preset)
    assert job.recipe == recipe
    assert next(iter(job.steps)) == "finetune"


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in ("model", "data", "task", "benchmark") for name in options(group)],
)
def test_every_option_composes(group: str, name: str) -> None:
    needed = {"files": ["data.train=x.csv"], "hub": ["data.path=x"], "pretrained": ["model.path=x"]}.get(name, [])
    compose_job("distill_int8", [f"{group}={name}", *needed])


def test_the_main_recipe_is_typed() -> None:
    job = compose_job(
        "distill_int8", ["distill.temperature=4", "budget.min_speedup=2", "force=[quantize]", "threads=2"]
    )
    assert list(job.steps) == ["finetune", "distill", "export", "simplify", "quantize"]
    assert isinstance(job.steps["distill"], schemas.Distill)
    assert job.steps["distill"].temperature == 4.0
    assert isinstance(job.steps["distill"].student, schemas.Student)
    assert isinstance(job.data, schemas.TweetsData)
    assert (job.task_name, job.data_name, job.budget.min_speedup, job.force, job.threads) == (
        *("text_classification", "tweets", 2.0),
        *(("quantize",), 2),
    )
    assert job.overrides == (
        *("recipe=distill_int8", "distill.temperature=4", "budget.min_speedup=2"),
        *("force=[quantize]", "threads=2"),
    )


def test_an_implied_export_can_be_configured() -> None:
    assert compose_job("int8", ["steps=[finetune,quantize]", "export.opset=19"]).export.opset == 19


def test_another_path_is_not_held_to_the_packaged_model_s_hash() -> None:
    assert compose_job("int8").model.sha256
    assert compose_job("int8", ["model.path=x"]).model.sha256 is None
    assert compose_job("int8", ["model.path=x", "model.sha256=abc"]).model.sha256 == "abc"


def test_a_user_s_recipe_may_hold_the_same_kind_of_step_twice(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "distill").mkdir()
    (tmp_path / "distill" / "thin.yaml").write_text("defaults: [schema]\ntemperature: 7\n")
    (tmp_path / "recipe" / "twice.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /distill@distill_thin: thin\n"
        "steps: [finetune, distill, distill_thin, quantize]\n"
    )
    job = compose_job("twice", ["distill_thin.student.layers=2", "distill.student.layers=4"], config_dir=tmp_path)
    assert job.steps["distill_thin"].student.layers == 2
    assert job.steps["distill_thin"].temperature == 7
    assert job.steps["distill"].student.layers == 4
    with pytest.raises(ConfigError, match=r"distill_thin\.temperatur: unknown key"):
        compose_job("twice", ["distill_thin.temperatur=2"], config_dir=tmp_path)


def test_equal_jobs_have_equal_digests_whatever_led_there() -> None:
    plain = compose_job("int8")
    said_again = compose_job("int8", ["seed=0", f"finetune.epochs={plain.steps['finetune'].epochs}"])
    assert plain.digest == said_again.digest
    assert plain.digest != compose_job("int8", ["benchmark.seconds=5"]).digest
    assert plain.digest == compose_job("int8", ["benchmark.when=end"]).digest


def test_help_names_every_key_group_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=int8", "--help"]) == 0
    text = capsys.readouterr().out
    for key in known_keys():
        assert (key if key != "experiment" else "") in text
    for group in ("recipe", "debug", "model", "data", "task", "finetune", "distill", "quantize", "benchmark"):
        for option in options(group):
            assert f"  {option}" in text
    assert "None" not in text
    assert "MISSING" not in text
    assert max(map(len, text.splitlines())) <= 130


def test_every_key_has_help_and_every_option_a_title() -> None:
    from compress.cli.keys import fields_of
    from compress.config.registry import Root, groups
    from compress.config.shipped import file_of, title

    for schema in (Root, *(schema for named in groups().values() for schema in named.values())):
        assert all(key.limits.get("help") for key in fields_of(schema))
    for group in ("recipe", "debug", *groups()):
        assert all(title(file_of(group, name)) for name in options(group))


def test_nothing_heavy_is_imported_to_help_refuse_or_compose(checkout: Path) -> None:
    code = (
        "import sys; from compress.cli.app import main;"
        "from compress.cli.validate import compose_job;"
        "assert main(['--help']) == 0; assert main(['recipe=nope']) == 2; compose_job('distill_int8');"
        "heavy = {'torch', 'transformers', 'pandas', 'onnx', 'onnxruntime', 'datasets', 'evaluate', 'numpy', 'rich'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=checkout, check=True)
    assert result.stderr.splitlines()[-1] == "[]"


def test_the_config_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=int8", "--cfg", "job", "seed=7"]) == 0
    text = capsys.readouterr().out
    assert "seed: 7" in text
    assert "hydra:" not in text


def test_directories_made_at_once_are_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: make_fresh(tmp_path / "outputs" / "now"), range(16)))
    assert len(set(made)) == 16


def test_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["debug=tiny", "dry_run=true", f"store.path={tmp_path / 'store'}"]
    assert main(["recipe=distill_int8", *arguments]) == 0
    assert "finetune" in capsys.readouterr().out
    assert main(["-m", "recipe=int8,distill_int8", "seed=1,1", *arguments]) == 0
    assert "equal to job 0" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_job_that_fails_leaves_its_reason_and_a_sweep_reports_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["recipe=int8", "data=files", "data.train=absent.csv", "model=tiny", f"store.path={tmp_path / 'store'}"]
    assert main([*arguments, "hydra.run.dir=run"]) == 2
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "failed"
    assert status["exit_status"] == 2
    assert "absent.csv" in status["reason"]
    assert "Traceback" in (tmp_path / "run" / "compress.log").read_text()
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").is_file()

    assert main([*arguments, "-m", "seed=1,2,2", "hydra.sweep.dir=sweep"]) == 1
    statuses = [json.loads((tmp_path / "sweep" / str(n) / "status.json").read_text())["status"] for n in range(3)]
    assert statuses == ["failed", "failed", "equal"]
    assert "2 failed" in capsys.readouterr().err
    assert (tmp_path / "sweep" / "report.md").is_file()
    assert not (tmp_path / "sweep" / ".jobs").exists()


def test_in_a_sweep_an_override_that_changes_nothing_is_a_warning() -> None:
    from compress.cli.compose import Composer
    from compress.cli.validate import job_of

    composed = Composer().compose(["recipe=int8", "distill.temperature=3"])
    job = job_of(composed, sweep=True)
    assert len(job.warnings) == 1
    assert "distill.temperature=3" in job.warnings[0]
    assert job.digest == compose_job("int8").digest
    assert dataclasses.replace(job, overrides=(), warnings=()) == dataclasses.replace(compose_job("int8"), overrides=())


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_a_run_with_its_status(name: str, status: int, tmp_path: Path, checkout: Path) -> None:
    # The pipeline is replaced by a long wait: what is tested is what happens around it. Tests in the background of a
    # shell ignore SIGINT, and would hand that on.
    code = (
        "import signal, sys, time; import compress.pipeline as pipeline; from compress.cli.app import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(job, directory, device):\n"
        "    print('running', flush=True); time.sleep(60)\n"
        "pipeline.run_job = wait\n"
        f"sys.exit(main(['recipe=int8', 'debug=tiny', 'hydra.run.dir={tmp_path / 'run'}']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=20)
    assert process.returncode == status
    assert f"stopped by {name}" in error
    assert "Traceback" not in error
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_status"] == status


def test_a_file_as_a_run_s_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    assert main(["recipe=int8", "debug=tiny", f"hydra.run.dir={tmp_path / 'file'}"]) == 2
    assert "is a file; name a directory" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"
