"""``python -m compress``: exit statuses, signals, sweeps; the work is the pipeline's."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from compress.errors import CompressError, ConfigError

__all__ = ["main"]

log = logging.getLogger(__name__)

_HYDRA_ONLY = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc", "--package", "-p")


class _Stopped(BaseException):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in argv or "-h" in argv:
        from compress.cli.help import help_text

        print(help_text())
        return 0
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of exiting: the exit status is ours
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _main(argv)
    except CompressError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except _Stopped as stopped:
        print(f"stopped by {stopped}; run the same command again to go on", file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


def _main(argv: list[str]) -> int:
    from compress.cli.validate import compose, explain, job_from_config

    config_dir = _config_dir(argv)
    _refuse_shadows(config_dir)
    multirun = any(flag in argv for flag in ("-m", "--multirun")) or "hydra.mode=MULTIRUN" in argv
    if not multirun and not any(argument.partition("=")[0] in _HYDRA_ONLY for argument in argv):
        overrides = [argument for argument in _positional(argv) if not argument.startswith(("hydra.", "hydra/"))]
        config, choices = compose(overrides, config_dir)
        job = job_from_config(config, choices, overrides)
        if job.dry_run:
            from compress.pipeline import dry_run

            print(dry_run(job))
            return 0
    statuses: list[int] = []
    try:
        _hydra_main(argv, statuses)
    except CompressError:
        raise
    except Exception as error:
        raise explain(error) from error
    if multirun:
        return _gather()
    return statuses[0] if statuses else 0


def _hydra_main(argv: list[str], statuses: list[int]) -> None:
    import hydra
    from omegaconf import OmegaConf

    from compress.cli.folders import conf_path, install
    from compress.config.registry import register

    register()
    install()
    OmegaConf.register_new_resolver("process_number", os.getpid, replace=True)
    before = sys.argv
    sys.argv = ["compress", *argv]
    try:
        hydra.main(version_base="1.3", config_path=conf_path(), config_name="config")(_Job(statuses))()
    finally:
        sys.argv = before


class _Job:
    """What Hydra calls with a composed config, once or once per job of a sweep; never raises in a sweep."""

    __name__ = "compress"

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses

    def __call__(self, config: Any) -> int:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        facts = HydraConfig.get()
        sweep = facts.mode == RunMode.MULTIRUN
        directory = Path(facts.runtime.output_dir)
        try:
            status = self._run(config, facts, directory, sweep)
        except CompressError as error:
            if not (directory / "status.json").is_file():
                _write_status(directory, error.exit_status, str(error))
            if not sweep:
                raise
            log.error("job %s failed: %s", facts.job.num, error)
            status = error.exit_status
        except (KeyboardInterrupt, _Stopped) as stop:
            _write_status(directory, getattr(stop, "exit_status", 130), "stopped by a signal")
            raise
        except Exception as error:
            # What nobody foresaw: the traceback goes to the log, the reason to status.json and the screen.
            log.debug("unforeseen", exc_info=True)
            with (directory / "compress.log").open("a", encoding="utf-8") as stream:
                stream.write(traceback.format_exc())
            reason = f"{type(error).__name__}: {error}"
            _write_status(directory, 1, reason)
            print(f"error: {reason} (traceback in {directory / 'compress.log'})", file=sys.stderr)
            status = 1
        self.statuses.append(status)
        return status

    def _run(self, config: Any, facts: Any, directory: Path, sweep: bool) -> int:
        from omegaconf import OmegaConf

        from compress.cli.validate import job_from_config
        from compress.console import setup_logging

        directory.mkdir(parents=True, exist_ok=True)
        setup_logging(directory / "compress.log")
        copied = OmegaConf.create(config)
        OmegaConf.set_struct(copied, False)
        overrides = [str(override) for override in facts.overrides.task]
        job = job_from_config(copied, dict(facts.runtime.choices), overrides, sweep=sweep)
        for warning in job.warnings:
            log.warning("%s", warning)
        if job.dry_run:
            from compress.pipeline import dry_run

            print(dry_run(job))
            return 0
        from compress.pipeline import run_job
        from compress.results.table import print_table

        outcome = run_job(job, directory)
        print_table(outcome.record, artifact=outcome.artifact)
        for missed in outcome.record["budget"]["missed"]:
            print(f"budget missed: {missed['message']}", file=sys.stderr)
        return outcome.exit_status


def _write_status(directory: Path, exit_status: int, reason: str) -> None:
    from compress.results.record import write_json

    if directory.is_dir():
        write_json(directory / "status.json", {"status": "failed", "exit_status": exit_status, "reason": reason})


def _gather() -> int:
    """Return the worst of a sweep's jobs, in the order 1, 3, 0; a job that could not start counts as failed."""
    from compress.cli.callback import sweep_directory

    root = sweep_directory()
    if root is None:
        return 0
    worst = 0
    for file in sorted(root.glob("*/status.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        status = int(content["exit_status"])
        if status:
            print(f"job {file.parent.name}: {content['status']}: {content.get('reason', content.get('missed'))}", file=sys.stderr)
        worst = max(worst, {0: 0, 3: 1}.get(status, 2))
    return {0: 0, 1: 3, 2: 1}[worst]


def _positional(argv: Sequence[str]) -> list[str]:
    """Return the overrides of a command line: what is no flag and no flag's value."""
    found, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument in ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--experimental-rerun"):
            skip = True
        elif not argument.startswith("-"):
            found.append(argument)
    return found


def _config_dir(argv: Sequence[str]) -> str | None:
    for position, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            folder = value or (argv[position + 1] if position + 1 < len(argv) else "")
            if not Path(folder).is_dir() or not folder:
                raise ConfigError(f"--config-dir {folder}: no such folder")
            return str(Path(folder).absolute())
    return None


def _refuse_shadows(config_dir: str | None) -> None:
    from compress.cli.folders import options

    if config_dir is None:
        return
    for file in sorted((Path(config_dir) / "recipe").glob("*.yaml")):
        if file.stem in options("recipe"):
            raise ConfigError(f"{file}: a shipped recipe is called {file.stem} too; give yours another name")
