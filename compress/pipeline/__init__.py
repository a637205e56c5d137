"""A recipe becomes steps: planned and checked before any work, then run or reused, then measured."""

from compress.pipeline.built import Built, read_built
from compress.pipeline.execute import build_job, run_job
from compress.pipeline.finish import Outcome
from compress.pipeline.plan import Plan, PlannedStep, make_plan
from compress.pipeline.show import dry_run
from compress.pipeline.together import Member, measure_together

__all__ = [
    "Built",
    "Member",
    "Outcome",
    "Plan",
    "PlannedStep",
    "build_job",
    "dry_run",
    "make_plan",
    "measure_together",
    "read_built",
    "run_job",
]
