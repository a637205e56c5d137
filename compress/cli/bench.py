"""``python -m compress.benchmark ARTIFACT [ARTIFACT ...]``: any artifacts, measured side by side."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.beside import exit_status_of, parted
from compress.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from compress.config.job import JobConfig
    from compress.data.base import Data
    from compress.tasks.base import Task

__all__ = ["LONGER", "main", "named"]

log = logging.getLogger(__name__)

_DESCRIPTION = """\
Measure artifacts side by side: checkpoints of any format, Hugging Face directories, .onnx files, .xml files of
OpenVINO. The first is the baseline. The same artifact named twice gives the noise floor. Without data: latency, memory
and size."""

_AFTER = """\
after --, keys as of python -m compress:
  data=... task=...        quality too, and shapes made of real texts: data=tweets, data=files data.train=F data.test=G
  benchmark.shapes=[1x32,8x128,natural]   BATCHxTOKENS, a grid 1/8x32/128, or real texts one by one
  benchmark.threads=1, benchmark.seconds=20, benchmark.launches=10, device=cuda, benchmark.provider=tensorrt
  budget.min_speedup=2     judged for the last artifact; a miss is exit status 3
examples
  python -m compress.benchmark outputs/a/artifact outputs/b/artifact --output compared -- data=tweets
  python -m compress.benchmark small=a/artifact large=b/model.onnx
  python -m compress.benchmark a/artifact a/artifact         # A/A: how much of a difference is noise here
"""

LONGER = {"launches": 12, "seconds": 14.0}
"""What a comparison alone takes its time for; measuring stops earlier where the ratios are known well enough."""

_NODES = ("data", "task", "benchmark", "budget", "store", "device", "debug")
"""Config nodes that mean something when nothing is trained."""


@dataclass(frozen=True)
class _Plan:
    """What is asked for, checked."""

    artifacts: Mapping[str, Path]
    job: JobConfig
    wants_data: bool
    output: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 failed, 2 to be mended, 3 a budget was missed."""
    own, overrides = parted(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m compress.benchmark",
        description=_DESCRIPTION,
        epilog=_AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "artifacts", nargs="+", metavar="[NAME=]ARTIFACT", help="a directory, an .onnx or an OpenVINO .xml file"
    )
    parser.add_argument("--output", type=Path, help="directory for record.json, report and plots")
    options = parser.parse_args(own)
    return exit_status_of(lambda: _run(options.artifacts, options.output, overrides))


def named(texts: Sequence[str]) -> dict[str, Path]:
    """Return each artifact's path by a name: the one given, else as much of its path as tells it apart.

    Parameters
    ----------
    texts
        ``PATH`` or ``NAME=PATH``.

    Raises
    ------
    CheckpointError
        If there is no such path.
    ConfigError
        If a name is given twice.
    """
    pairs = [(name, Path(path)) for name, path in map(_parted, texts)]
    for _, path in pairs:
        if not path.exists():
            raise CheckpointError(f"{path}: there is no such file or directory")
    found: dict[str, Path] = {}
    unnamed = [path.resolve() for name, path in pairs if name is None]
    for name, path in pairs:
        label = name or _short(path.resolve(), unnamed)
        if label in found and name is not None:
            raise ConfigError(f"{name}: this name is given twice")
        copies = 1
        unique = label
        while unique in found:
            copies += 1
            unique = f"{label} ({copies})"
        found[unique] = path
    return found


def _parted(text: str) -> tuple[str | None, str]:
    match = re.fullmatch(r"([^=/\\]+)=(.+)", text)
    return (match.group(1), match.group(2)) if match and not Path(text).exists() else (None, text)


def _short(path: Path, others: Sequence[Path]) -> str:
    """Return the last parts of a path that no other path ends with; ``artifact`` alone says nothing."""
    parts = path.parts[1:]
    for count in range(1, len(parts) + 1):
        ending = parts[-count:]
        alike = {other for other in others if other.parts[-count:] == ending}
        if len(alike) == 1 and ending != ("artifact",):
            return "/".join(ending)
    return str(path)


def _run(texts: Sequence[str], output: Path | None, overrides: Sequence[str]) -> int:
    from compress.console import setup_logging
    from compress.results import budget, record, report
    from compress.results.table import print_table

    plan = _planned(texts, output, overrides)
    plan.output.mkdir(parents=True, exist_ok=True)
    setup_logging(plan.output / "compress.log")
    names = list(plan.artifacts)
    measurement, task, data = _measure(plan, names)
    built = record.build(
        recipe="benchmark",
        task=task.name if task else "none",
        seed=plan.job.seed,
        metric=task.metric if task else "none",
        steps=[],
        measurement=measurement,
        baseline=names[0],
        candidate=names[-1],
        data=_described(data, measurement),
        overrides=list(plan.job.overrides),
        warnings=[],
    )
    built["artifacts"] = {name: str(path) for name, path in plan.artifacts.items()}
    built["budget"] = budget.judge(built, plan.job.budget)
    record.write_json(plan.output / "record.json", built)
    report.write(plan.output)
    print_table(built)
    for row in measurement["benchmark"]["noise_floor"] or ():
        length = "natural" if row["sequence_length"] is None else row["sequence_length"]
        print(
            f"noise floor at {row['batch_size']}x{length}: ratio {row['value']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}], {row['verdict']}",
            file=sys.stderr,
        )
    print(plan.output / "record.json")
    return 0 if built["budget"]["met"] else 3


def _planned(texts: Sequence[str], output: Path | None, overrides: Sequence[str]) -> _Plan:
    from compress.cli.compose import Composer, given
    from compress.cli.directories import make_fresh
    from compress.cli.validate import job_of

    artifacts = named(texts)
    composer = Composer()
    lines = given(overrides)
    longer = (
        []
        if any(item.node == "debug" for item in lines)
        else [f"benchmark.{key}={value}" for key, value in LONGER.items()]
    )
    config = composer.compose(["recipe=distill_int8", *longer, *overrides])
    for item in lines:
        if item.node not in _NODES:
            raise ConfigError(f"{item.line}: nothing is trained here, so this changes nothing; see --help")
    job = job_of(config)
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file; name a directory")
    where = output or make_fresh(Path("outputs") / "benchmark" / time.strftime("%Y-%m-%d_%H-%M-%S"))
    return _Plan(artifacts, job, any(item.node == "data" for item in lines), where)


def _measure(plan: _Plan, names: Sequence[str]) -> tuple[dict[str, Any], Task | None, Data | None]:
    from compress import data, tasks
    from compress.benchmark.devices import measuring_device
    from compress.benchmark.measure import measure
    from compress.machine import resolve_device
    from compress.store import Store

    job, paths = plan.job, list(plan.artifacts.values())
    kinds = [_kind(path) for path in paths]
    device, note = measuring_device(job.device, resolve_device(job.device), job.benchmark.provider, kinds)
    if note:
        log.warning("%s", note)
    store = Store(Path(job.store.path) if job.store.path else None, job.store.max_bytes)
    prepared = data.prepare(job.data, job.task_name, store.cache) if plan.wants_data else None
    task = tasks.create(job.task_name, prepared.labels, metric=job.task.metric) if prepared else None
    scratch = plan.output / ".benchmark"
    try:
        measurement = measure(
            [(name, None, path) for name, path in plan.artifacts.items()],
            task=task,
            data=prepared,
            config=job.benchmark,
            device=device,
            baseline=names[0],
            candidate=names[-1],
            scratch=scratch,
            log=log,
            cache=store.cache,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return measurement, task, prepared


def _kind(path: Path) -> tuple[str, str | None]:
    """Return format and precision as far as they are known before an artifact is opened."""
    manifest = path / "checkpoint.json"
    try:
        found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    except ValueError:  # opening it says what is wrong
        found = {}
    if "format" in found:
        return str(found["format"]), found.get("precision")
    quantized = "int8" if "int8" in path.stem or "quant" in path.stem else None
    if path.suffix == ".xml":
        return "openvino", quantized
    return ("torch", None) if path.is_dir() else ("onnx", quantized)


def _described(data: Data | None, measurement: Mapping[str, Any]) -> dict[str, Any]:
    from compress.data import describe

    if data is None:
        return {"name": "none", "fingerprint": None, "rows": {}, "labels": {}, "cleaning": {}, "truncated": None}
    return {**describe(data), "truncated": measurement["truncated"]}
