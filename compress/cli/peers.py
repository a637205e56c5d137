"""``python -m compress.peers``: our artifacts beside what other projects make of the same fine-tuned model."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.beside import exit_status_of, parted
from compress.errors import CheckpointError, ConfigError, UnsupportedError

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.config.job import JobConfig
    from compress.peers import Peer
    from compress.pipeline.steps import Setting

__all__ = ["main"]

log = logging.getLogger(__name__)

_DESCRIPTION = """\
Fine-tune a model, let other projects compress it at their defaults, and measure all of it beside our artifacts in one
interleaved run. Whatever was made before, by a recipe or by this command, is reused."""

_AFTER = """\
after --, keys as of python -m compress:
  data=... task=... model.path=... finetune.epochs=... seed=0,1,2 benchmark.shapes=[1x32,8x128] store.path=...
  with several seeds each has a fine-tuned model, peers and an interleaved run of its own; the table has medians
examples
  python -m compress.peers --ours int8 distill_int8 -- data=tweets seed=0,1,2
  python -m compress.peers --ours small=multirun/x/{seed}/artifact --peers onnxruntime,openvino -- data=tweets
"""

_RECIPE = "int8"
"""A recipe with the two steps that every peer starts from."""

_BASE = ("finetune", "export")
BASELINE = "torch"
"""Name of the fine-tuned model in fp32."""

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Where TorchInductor keeps what it compiled, and which kernels it found to be the fastest."""

_NODES = ("data", "task", "model", "finetune", "benchmark", "store", "device", "threads", "seed", "debug")
"""Config nodes that reach the model that all start from, or the measurement."""


@dataclass(frozen=True)
class _Seed:
    """What is done with one seed.

    Attributes
    ----------
    job : JobConfig
        Fine-tuning and export.
    recipes : mapping of str to JobConfig
        Jobs of ours, by the name of what they leave.
    paths : mapping of str to pathlib.Path
        Artifacts of ours that are there already.
    output : pathlib.Path
        Directory of its record.
    """

    job: JobConfig
    recipes: Mapping[str, JobConfig]
    paths: Mapping[str, Path]
    output: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 failed, 2 to be mended."""
    from compress.peers.registry import PEERS

    own, overrides = parted(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m compress.peers",
        description=_DESCRIPTION,
        epilog=_AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ours",
        nargs="+",
        action="extend",
        default=[],
        metavar="RECIPE|NAME=PATH",
        help="a recipe to run, or a checkpoint that one left; {seed} in PATH stands for the seed",
    )
    parser.add_argument(
        "--peers", default="all", metavar="LIST", help=f"all, none, or some of {', '.join(PEERS)}, with commas between"
    )
    parser.add_argument("--output", type=Path, help="directory for the records, reports, results.csv and table.md")
    parser.add_argument("--study", type=Path, help="folder whose results.csv and README.md get the table too")
    parser.add_argument("--name", help="what the data is called in the table; by default the option of data=")
    options = parser.parse_args(own)
    return exit_status_of(lambda: _run(options, overrides))


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from compress.cli.directories import make_fresh
    from compress.console import setup_logging
    from compress.results.marks import marked
    from compress.results.peers import markdown, over_records, write_study

    if options.study is not None:
        marked(options.study / "README.md")
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise ConfigError(f"--output {options.output} is a file; name a directory")
    where = options.output or Path("outputs") / "peers" / time.strftime("%Y-%m-%d_%H-%M-%S")
    jobs = _planned(options.ours, overrides, where)
    peers, left_out = _chosen(options.peers, jobs[0].job.task_name)
    taken = [name for name in (BASELINE, *(peer.name for peer in peers)) if name in _names(jobs[0])]
    if taken:
        raise ConfigError(f"--ours {taken[0]}: a peer has this name; write NAME=... with another")
    if not peers and not _names(jobs[0]):
        raise ConfigError("nothing to measure beside the fine-tuned model: give --ours, or --peers other than none")
    if options.output is None:
        where = make_fresh(where)
        jobs = [
            _Seed(one.job, one.recipes, one.paths, where / one.output.name if len(jobs) > 1 else where) for one in jobs
        ]
    where.mkdir(parents=True, exist_ok=True)
    setup_logging(where / "compress.log")
    for reason in left_out:
        log.warning("left out: %s", reason)
    records = [_record(one, peers) for one in jobs]
    titles = {BASELINE: "torch fp32, fine-tuned", **{peer.name: peer.title for peer in peers}}
    table = over_records(records, options.name or jobs[0].job.data_name, titles)
    shown = markdown(table)
    table.to_csv(where / "results.csv", index=False, float_format="%.6g")
    (where / "table.md").write_text(f"{shown}\n", encoding="utf-8")
    if options.study is not None:
        write_study(options.study, table)
    print(shown)
    print(where / "results.csv")
    return 0


def _planned(ours: Sequence[str], overrides: Sequence[str], where: Path) -> list[_Seed]:
    """Compose and check the jobs of every seed, before any work."""
    from compress.cli.bench import LONGER
    from compress.cli.compose import given
    from compress.cli.validate import compose_job
    from compress.models.source import resolve
    from compress.pipeline import make_plan

    seeds, others = _seeds(overrides)
    for item in given(others):
        if item.node not in _NODES:
            raise ConfigError(
                f"{item.line}: allowed here are keys of {', '.join(_NODES)}; run the recipe by python -m compress and "
                f"give what it leaves as --ours NAME=PATH"
            )
    tiny = any(item.node == "debug" for item in given(others))
    longer = [] if tiny else [f"benchmark.{key}={value}" for key, value in LONGER.items()]
    planned = []
    for seed in seeds:
        lines = [*longer, *others, f"seed={seed}"]
        base = compose_job(_RECIPE, [*lines, f"steps=[{','.join(_BASE)}]"])
        recipes, paths = _ours(ours, lines, seed, several=len(seeds) > 1)
        for job in (base, *recipes.values()):
            make_plan(job, resolve(job.model), None)
        planned.append(_Seed(base, recipes, paths, where / f"seed_{seed}" if len(seeds) > 1 else where))
    return planned


def _seeds(overrides: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the seeds and the other overrides."""
    seeds, others = ["0"], []
    for line in overrides:
        key, _, value = line.partition("=")
        if key == "seed":
            seeds = value.split(",")
        else:
            others.append(line)
    if not all(seed.strip().isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seed={','.join(seeds)}: needed are numbers, each once, with commas between")
    return [int(seed) for seed in seeds], others


def _ours(
    texts: Sequence[str], lines: Sequence[str], seed: int, *, several: bool
) -> tuple[dict[str, JobConfig], dict[str, Path]]:
    """Return the jobs and the paths of our artifacts, by name."""
    from compress.cli.keys import suggest
    from compress.cli.validate import compose_job
    from compress.config.shipped import options

    recipes: dict[str, JobConfig] = {}
    paths: dict[str, Path] = {}
    for text in texts:
        name, separator, place = text.partition("=")
        if name in (*recipes, *paths):
            raise ConfigError(f"--ours {text}: this name is given twice")
        if not separator:
            known = options("recipe")
            if name not in known:
                hint = f"; a path is given as NAME={name}" if Path(name).exists() else suggest(name, known)
                raise ConfigError(f"--ours {name}: no such recipe{hint}; allowed: {', '.join(known)}, or NAME=PATH")
            recipes[name] = compose_job(name, lines)
            continue
        if several and "{seed}" not in place:
            raise ConfigError(
                f"--ours {text}: with several seeds each needs an artifact of its own; write {{seed}} where their "
                f"paths differ"
            )
        paths[name] = Path(place.replace("{seed}", str(seed))).expanduser()
        if not name or not paths[name].exists():
            raise CheckpointError(f"--ours {text}: there is no such file or directory as {paths[name]}")
    return recipes, paths


def _names(seed: _Seed) -> tuple[str, ...]:
    return (*seed.recipes, *seed.paths)


def _chosen(names: str, task: str) -> tuple[list[Peer], list[str]]:
    """Return the peers that are asked for, and why others were left out; those named must be possible."""
    from compress.cli.keys import suggest
    from compress.peers.registry import PEERS, peer_named

    if names == "none":
        return [], []
    listed = list(PEERS) if names == "all" else [name.strip() for name in names.split(",")]
    for name in listed:
        if name not in PEERS:
            raise ConfigError(f"--peers {name}: no such peer{suggest(name, list(PEERS))}; allowed: {', '.join(PEERS)}")
    peers, left_out = [], []
    for peer in map(peer_named, dict.fromkeys(listed)):
        try:
            peer.check(task)
        except UnsupportedError as error:
            if names != "all":
                raise
            left_out.append(str(error))
            continue
        peers.append(peer)
    return peers, left_out


def _record(seed: _Seed, peers: Sequence[Peer]) -> dict[str, Any]:
    """Make what is to be measured with one seed, measure it, and leave record and report."""
    from compress.peers import make_peer
    from compress.pipeline.quiet import measuring
    from compress.pipeline.steps import run_steps, set_up

    job = seed.job
    log.info("seed %d", job.seed)
    setting = set_up(job)
    done, facts = run_steps(job, setting)
    start = {checkpoint.format: checkpoint for checkpoint in done.values()}
    made: dict[str, Path] = {BASELINE: start["torch"].path}
    made |= {peer.name: make_peer(peer, start[peer.reads], job, setting).path for peer in peers}
    made |= {name: _artifact(one).path for name, one in seed.recipes.items()} | dict(seed.paths)
    seed.output.mkdir(parents=True, exist_ok=True)
    scratch = seed.output / ".benchmark"
    try:
        with measuring(setting.store.path), _compiler_cache(scratch / "inductor"):
            measurement = _measured(made, job, setting, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _kept(made, job, facts, measurement, setting, seed.output)


def _artifact(job: JobConfig) -> Checkpoint:
    """Return what a recipe leaves."""
    from compress.pipeline.steps import run_steps, set_up

    log.info("recipe %s", job.recipe)
    done, _ = run_steps(job, set_up(job))
    return list(done.values())[-1]


@contextlib.contextmanager
def _compiler_cache(folder: Path) -> Iterator[None]:
    """Let the processes that measure share compiled kernels with one another, and with no other run.

    Which kernels are the fastest was found out when they were compiled, on the machine as it was then.
    """
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CACHE]
        else:
            os.environ[_CACHE] = before


def _measured(made: Mapping[str, Path], job: JobConfig, setting: Setting, scratch: Path) -> dict[str, Any]:
    from compress.benchmark.measure import measure

    return measure(
        [(name, None, path) for name, path in made.items()],
        task=setting.task,
        data=setting.data,
        config=job.benchmark,
        device="cpu",
        baseline=BASELINE,
        candidate=list(made)[-1],
        scratch=scratch,
        log=log,
        cache=setting.store.cache,
    )


def _kept(
    made: Mapping[str, Path],
    job: JobConfig,
    steps: Sequence[Mapping[str, Any]],
    measurement: Mapping[str, Any],
    setting: Setting,
    output: Path,
) -> dict[str, Any]:
    """Write record.json and the report of one seed."""
    from compress.data import describe
    from compress.results import record, report

    built = record.build(
        recipe="peers",
        task=setting.task.name,
        seed=job.seed,
        metric=setting.task.metric,
        steps=steps,
        measurement=measurement,
        baseline=BASELINE,
        candidate=list(made)[-1],
        data={**describe(setting.data), "truncated": measurement["truncated"]},
        overrides=list(job.overrides),
    )
    built["artifacts"] = {name: str(path) for name, path in made.items()}
    record.write_json(output / record.RECORD, built)
    report.write(output)
    return built
