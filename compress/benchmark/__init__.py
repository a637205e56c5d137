"""Measurement from the files on disk: quality, latency, memory, size; each variant in a process of its own."""
