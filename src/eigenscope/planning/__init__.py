"""What a call will cost, before it is made."""

from eigenscope.planning.calls import plan
from eigenscope.planning.plan import HEADER, Alternative, Plan, Step, format_seconds

__all__ = ["HEADER", "Alternative", "Plan", "Step", "format_seconds", "plan"]
