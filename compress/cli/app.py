"""``python -m compress``: from the arguments to an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from compress.cli.signals import Stopped, stoppable
from compress.errors import CompressError, ConfigError

if TYPE_CHECKING:
    from argparse import Namespace

    from omegaconf import DictConfig

    from compress.cli.compose import Composer

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        0 done and every budget met; 1 the run failed; 2 what the user can mend by changing the command or the
        input; 3 done, but a budget was missed; 128 + n ended by signal n.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with stoppable():
            if os.environ.get("WORLD_SIZE", "1") == "1":
                return _main(arguments)
            from compress.training.processes import alone_or_together

            return alone_or_together(lambda: _main(arguments))
    except CompressError as error:
        return _complain(f"error: {error}", error.exit_status)
    except Stopped as stop:
        return _complain(str(stop), stop.exit_status)
    except KeyboardInterrupt:
        return _complain("stopped by SIGINT", 130)
    except BrokenPipeError:  # `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except Exception as error:  # the last resort: a fault of ours, told in one line unless asked for more
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _complain(f"error: {reason} (HYDRA_FULL_ERROR=1 shows the traceback)", 1)


def _complain(message: str, exit_status: int) -> int:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exc()
    print(message, file=sys.stderr, flush=True)
    return exit_status


def _main(arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        from compress.cli.help import text

        print(text(), end="")
        return 0
    if "--version" in arguments:
        import compress

        print(f"compress {compress.__version__}")
        return 0
    from compress.cli.compose import Composer

    options = _parse(arguments)
    composer = Composer(options.config_dir)
    if options.cfg or options.info or options.hydra_help or options.shell_completion:
        return _show(composer, options)
    overrides: list[str] = options.overrides
    if options.multirun or "hydra.mode=MULTIRUN" in overrides:
        from compress.cli.sweep import run_sweep

        return run_sweep(composer, overrides)
    return _run(composer, overrides)


def _parse(arguments: list[str]) -> Namespace:
    """Parse Hydra's flags, wherever they stand on the line."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see python -m compress --help")

    parser.error = refuse  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(arguments)
    for name in ("config_path", "config_name", "experimental_rerun"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} is not supported; --config-dir DIR adds a folder of configs")
    return options


def _show(composer: Composer, options: Namespace) -> int:
    """Show a config, or what else Hydra can show."""
    hydra: Any = composer.hydra
    if options.cfg:
        composer.compose(options.overrides)
        hydra.show_cfg("config", options.overrides, options.cfg, options.package, options.resolve)
    elif options.info:
        composer.compose(options.overrides)
        hydra.show_info(options.info, config_name="config", overrides=options.overrides)
    elif options.hydra_help:
        from hydra._internal.utils import get_args_parser

        hydra.hydra_help(config_name="config", args_parser=get_args_parser(), args=options)
    else:
        hydra.shell_completion(config_name="config", overrides=options.overrides)
    return 0


def _run(composer: Composer, overrides: list[str]) -> int:
    """Compose, check and run one job, or print its plan."""
    from compress.cli.validate import job_of

    config = composer.compose(overrides)
    if str(config.hydra.mode) == "RunMode.MULTIRUN":  # as an experiment may ask
        from compress.cli.sweep import run_sweep

        return run_sweep(composer, overrides)
    job = job_of(config)
    if job.auto is not None:
        from compress.sweeping.auto import check

        check(job)
    if job.dry_run:
        from compress.cli.jobs import plan_of

        print(plan_of(job))
        return 0
    return _launch(composer, config, overrides)


def _launch(composer: Composer, config: DictConfig, overrides: list[str]) -> int:
    """Run a checked job in a directory of its own, which Hydra fills with the config."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import run_job
    from hydra.types import HydraContext, RunMode
    from omegaconf import open_dict, read_write

    from compress.cli.directories import given_by_user, make_fresh
    from compress.cli.jobs import run_alone
    from compress.cli.validate import job_of

    job = job_of(config)
    HydraConfig.instance().set_config(config)  # interpolations of the run's directory
    directory = Path(str(config.hydra.run.dir))
    if not given_by_user(overrides, "hydra.run.dir"):
        directory = make_fresh(directory)
    elif directory.exists() and not directory.is_dir():
        raise ConfigError(f"hydra.run.dir={directory} is a file; name a directory, which is made if it does not exist")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.run.dir = str(directory)
        config.hydra.mode = RunMode.RUN
    callbacks = Callbacks(config)
    callbacks.on_run_start(config=config, config_name="config")
    result = run_job(
        task_function=lambda _: run_alone(job, directory),
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(config_loader=composer.loader, callbacks=callbacks),
        configure_logging=False,
    )
    callbacks.on_run_end(config=config, config_name="config", job_return=result)
    return int(result.return_value)
