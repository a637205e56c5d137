"""``python -m compress.report RUN_OR_SWEEP_DIR``: build the report again from what was recorded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.errors import CompressError, DataError

__all__ = ["main", "rebuild"]


def rebuild(directory: Path) -> list[Path]:
    """Write the report of a run, or of every run below a folder and over all of them.

    Raises
    ------
    DataError
        If there is no run there, or a record cannot be read.
    """
    from compress.results import report, sweep
    from compress.results.record import RECORD

    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; give the directory of a run or of a sweep")
    if (directory / RECORD).is_file():
        return report.write(directory)
    written = [path for file in sorted(directory.rglob(RECORD)) for path in report.write(file.parent)]
    return written + sweep.write(directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m compress.report", description="Rebuild the report of a run or a sweep."
    )
    parser.add_argument("directory", type=Path, help="a run's directory, or a folder with runs below it")
    options = parser.parse_args(arguments)
    try:
        for path in rebuild(options.directory):
            print(path)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
