"""Trackers: what they are told, and that they never cost a run."""

from __future__ import annotations

import importlib.util
import logging
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from compress import tracking
from compress.config.schemas import MLflow, TensorBoard, Tracker
from compress.errors import ConfigError, MachineError
from compress.results.record import write_json
from compress.tracking import facts

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))

import sample


@pytest.fixture
def record() -> dict[str, Any]:
    return {**sample.full_record(), "seed": 3}


@pytest.fixture
def run_dir(record: dict[str, Any], tmp_path: Path) -> Path:
    run = tmp_path / "sweep" / "4"
    (run / "plots").mkdir(parents=True)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text("distill: {temperature: 4, student: {layers: 2}}\nforce: [a, b]\n")
    (run / "report.md").write_text("# a report\n")
    (run / "plots" / "path.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 30, 20) + b"rest")
    write_json(run / "record.json", record)
    return run


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make packages look as if they were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest))


@pytest.mark.parametrize(("config", "package"), [(TensorBoard(), "tensorboard"), (MLflow(), "mlflow")])
def test_a_missing_package_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, config: Tracker, package: str
) -> None:
    hide(monkeypatch, package)
    with pytest.raises(MachineError, match=rf"pip install 'compress-transformers\[{package}\]'"):
        tracking.check(config)


def test_no_tracker_needs_nothing(monkeypatch: pytest.MonkeyPatch, record: dict[str, Any], tmp_path: Path) -> None:
    hide(monkeypatch, "tensorboard", "mlflow")
    tracking.check(Tracker())
    tracking.track(record, tmp_path, Tracker())
    assert not list(tmp_path.iterdir())


def test_a_folder_of_files_is_refused_as_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    with pytest.raises(ConfigError, match="sqlite:///mlruns/mlflow.db"):
        tracking.check(MLflow(uri="mlruns"))
    tracking.check(MLflow(uri="http://host:5000"))


def test_a_tracker_that_fails_is_warned_of_and_costs_nothing(
    record: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        tracking.track(record, tmp_path, TensorBoard(folder=str(tmp_path / "file")))
    assert "tracker=tensorboard failed, the run itself is complete: NotADirectoryError" in caplog.text


def test_the_artifacts_figures_have_equal_names_in_every_recipe(record: dict[str, Any]) -> None:
    told = facts.metrics(record)
    assert told["artifact/accuracy_test"] == told["quantize/accuracy_test"] == 0.845
    assert told["artifact/accuracy_validation"] == pytest.approx(0.855)
    assert told["artifact/p50_ms/1x32"] == 1.25
    assert told["artifact/speedup/1x32"] == pytest.approx(7.2)
    assert told["baseline/weights_bytes"] == 90_000_000
    assert told["quantize/mcnemar_p"] == 0.125


def test_params_are_the_composed_config_or_else_the_overrides(
    record: dict[str, Any], run_dir: Path, tmp_path: Path
) -> None:
    told = facts.params(record, run_dir)
    assert told["distill.student.layers"] == 2
    assert told["force"] == "a, b"
    assert told["seed"] == 3
    assert facts.params(record, tmp_path)["distill.temperature"] == "4"


def test_an_event_file_holds_metrics_curves_plots_and_the_report(record: dict[str, Any], run_dir: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for _ in range(2):  # a second attempt in the same directory replaces the first
        tracking.track(record, run_dir, TensorBoard())
    assert len(list((run_dir / "tensorboard").iterdir())) == 1
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    tensors = {tag: events.Tensors(tag)[0].tensor_proto for tag in events.Tags()["tensors"]}
    for tag, tensor in tensors.items():
        if tensor.dtype == 1 and tensor.float_val:
            scalars[tag] = [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors(tag)]
    assert scalars["artifact/accuracy_test"] == [(0, pytest.approx(0.845))]
    assert scalars["training/finetune/loss"] == [(1, pytest.approx(0.9)), (2, pytest.approx(0.4))]
    assert events.Tags()["images"] == ["plots/path"] or "plots/path" in tensors
    assert tensors["report"].string_val[0] == b"# a report\n"
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    asked = HParamsPluginData.FromString(content).session_start_info.hparams
    assert asked["distill.temperature"].number_value == 4


def test_tensorboard_is_told_without_torch(record: dict[str, Any], run_dir: Path) -> None:
    pytest.importorskip("tensorboard")
    import subprocess

    code = (
        "import sys, json, pathlib; from compress import tracking; from compress.config.schemas import TensorBoard;"
        f"run = pathlib.Path({str(run_dir)!r});"
        "tracking.track(json.loads((run / 'record.json').read_text()), run, TensorBoard());"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert "failed" not in found.stderr


@pytest.mark.slow
def test_an_mlflow_store_holds_params_metrics_curves_and_files(
    record: dict[str, Any], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    config = MLflow(uri=f"sqlite:///{tmp_path / 'store.db'}", experiment="study")
    tracking.check(config)
    tracking.track(record, run_dir, config)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=config.uri)
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "sweep/4"
    assert run.data.params["distill.student.layers"] == "2"
    assert run.data.metrics["artifact/accuracy_test"] == pytest.approx(0.845)
    history = client.get_metric_history(run.info.run_id, "training/finetune/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.9), (2, 0.4)]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"record.json", "report.md", "plots"}


@pytest.mark.parametrize(
    ("line", "kind", "values"),
    [
        ("tracker=none", Tracker, {}),
        ("tracker=tensorboard", TensorBoard, {"folder": None}),
        ("tracker=mlflow tracker.experiment=study tracker.uri=http://host:5000", MLflow, {"experiment": "study"}),
    ],
)
def test_the_command_line_chooses_a_tracker(line: str, kind: type, values: dict[str, Any]) -> None:
    from compress.cli.validate import compose_job

    job = compose_job("distill_int8", line.split())
    assert type(job.tracker) is kind
    assert all(getattr(job.tracker, name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tracker=null", "tracker=null: an option of tracker is needed; allowed: mlflow, none, tensorboard"),
        ("tracker=wandb", "tracker=wandb: no such option"),
        (
            "tracker.uri=x",
            "tracker.uri: unknown key with the chosen option of tracker; those that have it build on: mlflow",
        ),
    ],
)
def test_a_tracker_that_is_not_offered_is_refused(line: str, said: str) -> None:
    from compress.cli.validate import compose_job

    with pytest.raises(ConfigError) as caught:
        compose_job("distill_int8", [line])
    assert said in str(caught.value)
