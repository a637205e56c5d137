"""Reports: what they say, and that the page works by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sample
import yaml

from compress.results import report, sweep
from compress.results.config_diff import differences
from compress.results.record import write_json
from compress.results.report_html import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def full_run(full_record: dict[str, Any], tmp_path: Path) -> Path:
    write_json(tmp_path / "run" / "record.json", full_record)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def reported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with its report: of the recipe int8 with three changes, measured beside itself."""
    record = sample.full_record()
    floor = {"device": "cpu", "threads": 1, "batch_size": 1, "sequence_length": 32}
    floor |= {"value": 1.002, "low": 0.991, "high": 1.013, "half_width": 0.011, "verdict": "inconclusive"}
    record["benchmark"]["noise_floor"] = [floor]
    run = tmp_path_factory.mktemp("reported") / "run"
    write_json(run / "record.json", record)
    keep_config(
        run, ["recipe=int8", "data=tiny", "quantize.per_channel=false", "benchmark.shapes=[1x8]", "export.opset=21"]
    )
    report.write(run)
    return run


@pytest.fixture(scope="module")
def reported_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep with its report: two groups, and jobs without numbers."""
    directory = sample.full_sweep(tmp_path_factory.mktemp("reported") / "sweep")
    for number, record in enumerate(sample.sweep_records(layers=(2,), options=("int8", "uint8"), key="other"), 20):
        record["seed"] = 1
        write_json(directory / str(number) / "record.json", record)
    asked = {"task": ["recipe=int8", "quantize.option=a,b"], "hydra": []}
    (directory / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": asked}}))
    sweep.write(directory)
    return directory


def keep_config(run: Path, overrides: list[str], config_dir: Path | None = None) -> None:
    """Write what Hydra keeps beside a run."""
    from omegaconf import OmegaConf, open_dict

    from compress.cli.compose import Composer

    composed = Composer(config_dir).compose(overrides)
    hydra = OmegaConf.to_container(composed.hydra.runtime, resolve=False)
    with open_dict(composed):
        del composed["hydra"]
    folder = run / ".hydra"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(composed))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": hydra}}))


def written(directory: Path) -> set[str]:
    files = {path.relative_to(directory).as_posix() for path in directory.glob("*.*")}
    return files | {f"plots/{path.name}" for path in (directory / "plots").iterdir()}


def test_the_report_of_a_run_says_what_was_measured_and_how(reported_run: Path) -> None:
    plots = {f"plots/{name}.png" for name in ("path", "tradeoff", "latency")}
    assert written(reported_run) >= {"report.md", "report.html", *plots}
    text = (reported_run / "report.md").read_text()
    for said in (
        "15 rows only finetune gets right, 6 only quantize (McNemar's exact test: p = 0.12)",
        "| energy | the kernel shows no energy counter |",
        "| variants measured in turns | 4 |",
        "| processor used by others meanwhile | 2.0 % |",
        "| benchmark.seconds | 10.0 |",
        "| quantize | 900 | 210 | 31.00 | 1141 |",  # cold start
        "the 95 % interval",
        "| finetune | 1 | 0.9000 | 0.8000 |",  # training
        "| 1 × 32 | cpu | 1 | 1.002 | [0.991, 1.013] | 1.1 % | inconclusive |",  # noise floor
        "| quantize.per_channel | true | false |",  # changed against the recipe
    ):
        assert said in text, said


def test_what_a_run_changed_against_its_recipe_is_listed(reported_run: Path) -> None:
    changed = {key: (default, here) for key, default, here in differences(reported_run) or ()}
    assert changed["data"] == ("tweets", "tiny")
    assert changed["quantize.per_channel"] == ("true", "false")
    assert changed["benchmark.shapes"] == ("[1x32, 8x128]", "[1x8]")
    assert changed["data.rows"] == ("–", "96")
    assert changed["export.opset"] == ("20", "21")
    assert not any(key.startswith(("finetune.", "hydra", "recipe")) for key in changed)


def test_a_run_of_the_recipe_as_shipped_changed_nothing(full_run: Path, full_record: dict[str, Any]) -> None:
    keep_config(full_run, ["recipe=distill_int8"])
    assert differences(full_run) == []
    (found,) = (part for part in report.sections(full_record, [], None, []) if part[0] == "Changed against the recipe")
    assert found[2] == ["Nothing: the recipe distill_int8 with its defaults."]


def test_a_recipe_of_ones_own_is_compared_with_itself(full_run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "recipe" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nsteps: [finetune]\nfinetune: {epochs: 7}\n")
    keep_config(full_run, ["recipe=mine", "seed=3"], tmp_path / "own")
    assert differences(full_run) == [("seed", "0", "3")]


def test_without_the_config_that_was_kept_nothing_is_said_of_changes(
    full_run: Path, full_record: dict[str, Any]
) -> None:
    assert differences(full_run) is None
    assert "Changed against the recipe" not in [name for name, *_ in report.sections(full_record, [], None, None)]


def test_the_report_of_a_sweep_has_a_front_and_names_what_is_missing(reported_sweep: Path) -> None:
    plots = {f"plots/{name}.png" for name in ("pareto", "pareto_size", "latency", "size")}
    assert written(reported_sweep) >= {"results.parquet", "report.md", "report.html", *plots}
    text = (reported_sweep / "report.md").read_text()
    for said in (
        "15 jobs: 9 done, 1 failed, 1 equal to another and not run again, 1 built and not measured, 3 cut off.",
        "of 16 variants are on the front of quality on validation, median latency and bytes of weights",
        "| 9 | no space |",
        "| 10 | 2 |",
        "| 11 | built | its steps are done; it was not measured: run the sweep again |",
        "| 12 | unfinished | cut off: run the sweep again |",
        "| run | distill.student.layers | quantize.option | status |",
        "| 12 | 9 | – | unfinished |",
        "accuracy, validation | accuracy, test",
        "python -m compress -m recipe=int8 quantize.option=a,b",
    ):
        assert said in text, said
    frame = pd.read_parquet(reported_sweep / "results.parquet")
    assert len(frame) == 48
    assert len(frame.loc[0, "quantiles_ms.1x32"]) == 41


def test_every_group_has_a_front_of_its_own(reported_sweep: Path) -> None:
    assert {"plots/pareto.png", "plots/pareto_2.png"} <= written(reported_sweep)
    text = (reported_sweep / "report.md").read_text()
    assert "## Pareto front: tweets, seed 0, 9 jobs" in text
    assert "## Pareto front: tweets, seed 1, 2 jobs" in text


def test_a_sweep_of_failures_alone_has_a_report(tmp_path: Path) -> None:
    write_json(tmp_path / "0" / "status.json", {"status": "failed", "exit_status": 1, "reason": "no <space>"})
    sweep.write(tmp_path)
    assert "1 job: 1 failed." in (tmp_path / "report.md").read_text()
    assert "no &lt;space&gt;" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_pages_fetch_nothing_and_can_be_sorted_by_key(kind: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(f"reported_{kind}")
    page = (directory / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)|https?://|@import|url\(', page)
    assert page.count("data:image/png;base64,") == len(list((directory / "plots").iterdir()))
    heads = re.findall(r"<th\b[^>]*>.*?</th>", page)
    assert heads
    assert all('aria-sort="none"' in head and '<button type="button">' in head for head in heads)


def test_columns_of_numbers_sort_as_numbers() -> None:
    table = (["name", "ms", "key"], [["a", "1,200 (2 thr)", "16f"], ["b", "–", "9ab"], ["c", "-3.5x", "zz"]])
    page = render("t", [("T", "table", table)])
    assert 'data-value="1200"' in page
    assert 'data-value="-3.5"' in page
    assert page.count("data-value") == 2, "a column with text in it is text"


DRIVER = """
<script>
addEventListener("load", () => {
  const lines = [], table = document.querySelectorAll("table")[0];
  const buttons = table.querySelectorAll("th button");
  const column = index => [...table.tBodies[0].rows].map(row => row.cells[index].textContent).join("|");
  buttons[1].click(); lines.push(column(1), buttons[1].parentNode.getAttribute("aria-sort"));
  buttons[1].click(); lines.push(column(1), buttons[1].parentNode.getAttribute("aria-sort"));
  buttons[0].click(); lines.push(column(0), buttons[1].parentNode.getAttribute("aria-sort"));
  lines.push([...document.images].every(image => image.complete && image.naturalWidth > 100));
  lines.push(document.documentElement.scrollWidth <= innerWidth);
  document.body.innerHTML = "<pre id=out>" + lines.join("\\n") + "</pre>";
});
</script></body>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_sorts_the_page_and_shows_its_plots(reported_run: Path, tmp_path: Path, width: int) -> None:
    plots = sorted((reported_run / "plots").iterdir())
    rows = (["name", "ms"], [["b", "10.5"], ["a", "–"], ["c", "9.1x [8, 10]"]])
    page = render("t", [("T", "table", rows), ("P", "plots", plots)]).replace("</body>", DRIVER)
    (tmp_path / "page.html").write_text(page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += [f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    found = subprocess.run(
        [str(CHROMIUM), *flags, (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = re.search(r'<pre id="out">(.*?)</pre>', found.stdout, re.DOTALL)
    assert said
    assert said.group(1).split("\n") == [
        *("9.1x [8, 10]|10.5|–", "ascending", "10.5|9.1x [8, 10]|–", "descending", "a|b|c", "none", "true", "true")
    ]
    assert ":CONSOLE" not in found.stderr
