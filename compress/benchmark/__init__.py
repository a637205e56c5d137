"""Measurement from the files on disk: quality, latency, memory, size; each variant in a process of its own."""

from compress.benchmark.measure import measure

__all__ = ["measure"]
