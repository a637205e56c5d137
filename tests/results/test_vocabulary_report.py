"""The report of a run that pruned a vocabulary."""

from __future__ import annotations

from typing import Any

from compress.results.markup import to_markdown
from compress.results.report import sections
from compress.results.report_html import render


def entry(source: str, name: str, whole: float) -> dict[str, Any]:
    pieces = {"pieces_before": 10.0, "pieces_after": 10.5, "unknown_before": 0.0, "unknown_after": 0.002}
    return {"source": source, "name": name, "texts": 40, "whole": whole, "tokens": 0.97, **pieces}


def test_it_shows_what_texts_kept_and_what_is_missing(record: dict[str, Any]) -> None:
    assert "Vocabulary" not in to_markdown("run", sections(record, [], None))
    texts = [entry("test", "tweets", 0.812), entry("other domain", "bbc_news", 0.25)]
    record["vocabulary"] = {"vocabulary": {"rows_before": 30522, "rows": 9000, "texts": texts}}
    found = sections(record, [], None)
    text = to_markdown("run", found)
    assert "## Vocabulary" in text
    assert "| 9000 of 30522 | tweets, test | 40 | 81.2 % | 97.0 % | 10.0 | 10.5 | +5.0 % | 0.2 % |" in text
    assert "bbc_news, other domain" in render("run", found)
    texts[1] = {"source": "other domain", "name": "", "missing": "no such package"}
    text = to_markdown("run", sections(record, [], None))
    assert "other domain" not in text.split("No texts")[0]
    assert "No texts of another domain: no such package" in text
