"""The search for a recipe that keeps a budget: what ``recipe=auto`` runs."""

from compress.sweeping.auto.run import check, describe, run_auto

__all__ = ["check", "describe", "run_auto"]
