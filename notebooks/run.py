#!/usr/bin/env python3
"""Execute notebooks: all of them in place, or with other parameters into another folder.

    python notebooks/run.py [NAME ...] [--tiny] [--output DIR]

The cell tagged `parameters` holds what may be changed; `--tiny` replaces it, as the tests do.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import socket
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

FOLDER = Path(__file__).resolve().parent

TINY: Mapping[str, object] = {
    "settings": ["debug=tiny", "model.layers=3", "benchmark.shapes=[1x32]", "benchmark.memory=false"],
    "layers": "1,2",
    "budget": {"max_metric_drop": 1.0, "min_speedup": 0.01},
}
"""Parameters with which a notebook takes seconds; their numbers say nothing."""

_SECONDS = 1800
_LARGEST = 300_000
"""Bytes of a notebook at most: it is read in a browser and kept in git."""


def execute(notebook: Path, folder: Path, parameters: Mapping[str, object] | None = None) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of a fresh kernel.

    Parameters
    ----------
    notebook
        The file.
    folder
        Working directory of the kernel: what the notebook writes goes below it.
    parameters
        Values that the cell tagged ``parameters`` gets in place of its own.
    """
    content = nbformat.read(notebook, as_version=4)
    if parameters is not None:
        replace_parameters(content, parameters)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        content,
        timeout=_SECONDS,
        kernel_name="python3",
        resources=resources,
        record_timing=False,
        coalesce_streams=True,
    )
    client.extra_arguments = ["--log-level=ERROR"]  # it warns that it listens on this machine's loopback
    client.execute()
    shrink_images(content)
    content.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},  # not its version: it would change the file and tell a reader nothing
    }
    return content


def replace_parameters(content: nbformat.NotebookNode, parameters: Mapping[str, object]) -> None:
    """Give the names that the cell tagged ``parameters`` assigns other values."""
    (cell,) = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", ())]
    names = re.findall(r"^(\w+) = ", cell.source, flags=re.MULTILINE)
    cell.source = "\n".join(f"{name} = {parameters[name]!r}" for name in names)


def shrink_images(content: nbformat.NotebookNode) -> None:
    """Store the figures in 64 colours: a third of the bytes, and drawings need no more."""
    for cell in content.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                image = Image.open(BytesIO(b64decode(output.data["image/png"]))).convert("RGB")
                small = BytesIO()
                image.quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
                output.data["image/png"] = b64encode(small.getvalue()).decode()


def private(content: nbformat.NotebookNode) -> list[str]:
    """Return the lines of outputs that tell of the machine that executed them: its paths, user or host."""
    words = [rf"\b{re.escape(getpass.getuser())}@"]  # alone it may be any word: users are called test and runner
    if len(socket.gethostname()) > 3:
        words.append(rf"\b{re.escape(socket.gethostname())}\b")
    places = [re.escape(str(place)) for place in (Path.home(), FOLDER.parent, Path(sys.prefix))]
    pattern = re.compile("|".join([*words, *places, r"(?<![\w.])/(?:home|root|Users|tmp|usr|work|mnt)/\S*"]))
    lines = (line.strip() for text in _texts(content) for line in text.splitlines())
    return [line for line in dict.fromkeys(lines) if pattern.search(line)]


def _texts(content: nbformat.NotebookNode) -> Iterator[str]:
    for cell in content.cells:
        for output in cell.get("outputs", ()):
            yield from _strings({key: value for key, value in output.items() if key != "metadata"})


def _strings(value: Any, kind: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, kind)
    elif isinstance(value, str) and not kind.startswith("image/"):
        yield value


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute and write; returns 0, or 1 where a notebook fails or is not fit to be kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks; all by default")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and generated rows; needs --output")
    parser.add_argument("--output", type=Path, help="folder to write to and to work in, in place of notebooks/")
    options = parser.parse_args(arguments)
    if options.tiny and options.output is None:
        parser.error("--tiny needs --output: its numbers are not those to keep")
    folder = FOLDER if options.output is None else options.output
    folder.mkdir(parents=True, exist_ok=True)
    known = {file.stem: file for file in sorted(FOLDER.glob("*.ipynb"))}
    chosen = [Path(name).stem for name in options.names] or list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(known)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm asks for widgets that nothing needs
    return max(_run(known[name], folder, TINY if options.tiny else None) for name in chosen)


def _run(notebook: Path, folder: Path, parameters: Mapping[str, object] | None) -> int:
    began = time.monotonic()
    try:
        content = execute(notebook, folder, parameters)
    except CellExecutionError as error:
        print(f"{notebook.name}: {error}", file=sys.stderr)
        return 1
    text = nbformat.writes(content) + "\n"
    faults = [f"an output tells of this machine: {found}" for found in private(content)]
    if len(text.encode()) > _LARGEST:
        faults.append(f"{len(text.encode()):,} bytes; at most {_LARGEST:,} are kept")
    for fault in faults:
        print(f"{notebook.name}: not written: {fault}", file=sys.stderr)
    if faults:
        return 1
    (folder / notebook.name).write_text(text, encoding="utf-8")
    print(f"{notebook.name}: {time.monotonic() - began:.0f} s, {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
