"""``python -m compress.inspect PATH``: what a checkpoint is, where it comes from, its size, and whether it is whole."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.checkpoint import MANIFEST, open_checkpoint
from compress.errors import CompressError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Show a checkpoint; returns 0, or 2 where it is not whole."""
    parser = argparse.ArgumentParser(prog="python -m compress.inspect", description="Show and verify a checkpoint.")
    parser.add_argument("path", type=Path)
    path: Path = parser.parse_args(arguments).path
    try:
        checkpoint = open_checkpoint(path)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    from rich.console import Console
    from rich.table import Table

    # Labels, paths and configs are data: none of their brackets is markup.
    manifest, console = checkpoint.manifest, Console(markup=False, highlight=False)
    shown = ", ".join(manifest.labels[:12]) + (", ..." if len(manifest.labels) > 12 else "")
    console.print(f"{path}: {manifest.format} {manifest.precision}, every file as written")
    console.print(f"{manifest.task} by {manifest.metric}, {len(manifest.labels)} labels: {shown}")
    console.print(f"{manifest.architecture}, {manifest.layers} layers, at most {manifest.max_length} tokens")
    lineage = Table("step", "kind", "key", "config", title="lineage")
    for entry in manifest.lineage:
        lineage.add_row(entry["name"], entry["kind"], entry["key"][:16], json.dumps(entry["config"], sort_keys=True))
    console.print(lineage)
    structure = path / "structure.json"
    if structure.is_file():
        console.print("structure", json.loads(structure.read_text(encoding="utf-8")))
    if manifest.facts:
        console.print("facts", dict(manifest.facts))
    files = Table("file", "bytes", "SHA-256", title="files", show_footer=True)
    sizes = {name: (path / name).stat().st_size for name in (*manifest.files, MANIFEST)}
    for name, digest in sorted({**manifest.files, MANIFEST: checkpoint.digest}.items()):
        files.add_row(name, f"{sizes[name]:,}", digest[:16])
    files.columns[0].footer, files.columns[1].footer = "all", f"{sum(sizes.values()):,}"
    console.print(files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
