"""What a call will cost, before it is made."""

from eigenscope.planning.calls import plan, plan_of_job, plan_of_measure
from eigenscope.planning.plan import Alternative, Plan, Step
from eigenscope.planning.words import format_seconds

__all__ = [
    "Alternative",
    "Plan",
    "Step",
    "format_seconds",
    "plan",
    "plan_of_job",
    "plan_of_measure",
]
