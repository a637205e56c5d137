"""Where examples come from: a packaged dataset, files, a hub; cleaned, split and fingerprinted."""

from compress.data.base import SPLITS, Data
from compress.data.prepare import describe, peek, prepare

__all__ = ["SPLITS", "Data", "describe", "peek", "prepare"]
