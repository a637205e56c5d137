"""A recipe becomes steps: planned and checked before any work, then run or reused, then measured."""

from compress.pipeline.execute import Outcome, run_job
from compress.pipeline.plan import Plan, PlannedStep, make_plan
from compress.pipeline.show import dry_run

__all__ = ["Outcome", "Plan", "PlannedStep", "dry_run", "make_plan", "run_job"]
