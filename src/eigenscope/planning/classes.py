"""The job of decomposing a Gauss-Newton matrix by classes."""

from collections.abc import Callable
from typing import Any, Final, cast

from eigenscope.analysis import decompose_by_class
from eigenscope.budget import resolve
from eigenscope.operators import GaussNewton, Hessian
from eigenscope.planning.job import Job
from eigenscope.planning.operators import chunk_of
from eigenscope.planning.smaller import on_first

_PASSES: Final = 2  # the labels and pull-backs first, then the Jacobian


def job_of_classes(options: dict[str, Any]) -> Job:
    """Return the job of `es.decompose_by_class`.

    Args:
        options: Its arguments by name, defaults included.

    Returns:
        The job.
    """
    operator: GaussNewton | Hessian = options["operator"]
    problem = operator.problem

    def call_on(size: int) -> Callable[[], object]:
        smaller = cast("Any", on_first(operator, problem.first(size)))
        return lambda: decompose_by_class(smaller, memory=options["memory"])

    return Job(
        name="means by class",
        method="backward passes, pulled back by class",
        num_samples=problem.num_samples,
        device=operator.device,
        call_on=call_on,
        chunk=chunk_of(operator),
        budget=resolve(options["memory"]),
        passes=_PASSES,
        backward=float(problem.num_outputs),
        is_shared=True,
    )
