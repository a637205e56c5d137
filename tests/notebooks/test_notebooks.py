"""The notebooks: executed on a tiny model, and what is committed of them."""

from __future__ import annotations

import getpass
import importlib.util
import socket
from pathlib import Path
from types import ModuleType

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
pytest.importorskip("nbclient", reason="needs the extra notebooks")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = ["01_first_recipe", "02_compare_results", "03_what_a_step_does"]


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def output_of(text: str) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=text)])
    return nbformat.v4.new_notebook(cells=[cell])


def test_every_notebook_is_tested() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(
    name: str, runner: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status = runner.main([name, "--tiny", "--output", str(tmp_path)])
    assert status == 0, capfd.readouterr().err
    executed = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    assert any("image/png" in output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", ()))


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_was_executed_from_top_to_bottom(name: str) -> None:
    content = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    said = "".join(output["text"] for output in outputs if output.get("name") == "stderr")  # the run's log is there
    assert not [line for line in said.splitlines() if "Warning" in line or line.startswith(("warning", "Traceback"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_is_small_and_tells_nothing_of_the_machine(name: str, runner: ModuleType) -> None:
    file = FOLDER / f"{name}.ipynb"
    content = nbformat.read(file, as_version=4)
    assert file.stat().st_size < 300_000
    assert runner.private(content) == []
    assert content.metadata.language_info == {"name": "python"}


@pytest.mark.parametrize(
    "text",
    [
        f"written to {Path.home()}/x",
        f"made by {getpass.getuser()}@somewhere",
        "measured on build-host-7",
        "see /home/somebody/project/file.py",
        "File /tmp/ipykernel_7/1.py",
    ],
)
def test_what_tells_of_the_machine_is_found(text: str, runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "build-host-7")
    assert runner.private(output_of(f"fine\n{text}\n")) == [text]


@pytest.mark.parametrize("text", ["outputs/first_recipe", "1/2 and 3/tmp", "https://example.org/home/page"])
def test_what_tells_nothing_passes(text: str, runner: ModuleType) -> None:
    assert runner.private(output_of(text)) == []


def test_parameters_are_replaced_and_nothing_else(runner: ModuleType) -> None:
    cell = nbformat.v4.new_code_cell('settings = ["a=1"]\nlayers = "1,2"', metadata={"tags": ["parameters"]})
    other = nbformat.v4.new_code_cell("settings = 3")
    content = nbformat.v4.new_notebook(cells=[cell, other])
    runner.replace_parameters(content, {"settings": ["debug=tiny"], "layers": "1", "budget": {}})
    assert cell.source == "settings = ['debug=tiny']\nlayers = '1'"
    assert other.source == "settings = 3"


def test_tiny_numbers_do_not_replace_those_that_are_kept(runner: ModuleType) -> None:
    with pytest.raises(SystemExit) as stop:
        runner.main(["--tiny"])
    assert stop.value.code == 2
