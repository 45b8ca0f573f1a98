"""The jobs of functions of plain tensors: Jacobians and kernels of a batch."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Final

from torch import Tensor

from eigenscope.budget import resolve
from eigenscope.jacobian import (
    InputJacobianEngine,
    ParameterEngine,
    input_jacobian,
    parameter_jacobian,
    per_sample_gradients,
)
from eigenscope.kernels import (
    KernelEngine,
    KernelSettings,
    conjugate_kernel,
    ntk,
    ntk_components,
    projected_ntk,
)
from eigenscope.kernels.conjugate import features_of
from eigenscope.kernels.tangent import groups_of, problems
from eigenscope.planning.job import Job
from eigenscope.planning.pairs import measured_pair_seconds
from eigenscope.problem import Problem
from eigenscope.problem.alike import data_of
from eigenscope.problem.data import DEFAULT_BATCH_SIZE

Options = dict[str, Any]
_SAMPLED: Final = ("x", "y", "x1", "x2")


def _input_jacobian(options: Options) -> Job:
    problem = Problem(options["model"], options["x"], output=options["output"])
    settings = InputJacobianEngine(problem).settings
    row = problem.num_outputs * _entries(options["x"]) * problem.dtype.itemsize
    how = "a folded copy" if settings.accelerated else "the model itself"
    return _job(
        input_jacobian,
        options,
        problem,
        name="input Jacobian",
        method=f"backward passes through {how}",
        reason=_why_bottleneck(settings.bottleneck),
        kept_bytes=_rows(row),
        chunk=settings.chunk_size,
        backward=float(problem.num_outputs),
    )


def _parameter_jacobian(options: Options) -> Job:
    problem = Problem(
        options["model"],
        data_of(options["x"]),
        output=options["output"],
        params=options["params"],
    )
    return _by_parameters(parameter_jacobian, options, problem, problem.num_outputs)


def _per_sample_gradients(options: Options) -> Job:
    problem = Problem(options["model"], data_of(options["x"]), params=options["params"])
    return _by_parameters(per_sample_gradients, options, problem, 1)


def _by_parameters(
    function: Callable[..., Any], options: Options, problem: Problem, outputs: int
) -> Job:
    engine = ParameterEngine(problem)
    size = sum(p.numel() for p in problem.params.values())
    row = outputs * size * problem.dtype.itemsize
    return _job(
        function,
        options,
        problem,
        name=function.__name__.replace("_", " "),
        method="per-sample gradients",
        reason=paths_of(engine),
        kept_bytes=_rows(row),
        chunk=engine.chunk_size,
        backward=float(outputs),
    )


def _ntk(options: Options) -> Job:
    return _tangent(ntk, options, num_kernels=1)


def _ntk_components(options: Options) -> Job:
    problem, _ = problems(
        options["model"], options["x1"], None, "logits", "full", options["params"]
    )
    count = len(set(groups_of(problem, options["by"]).values()))
    return _tangent(ntk_components, options, num_kernels=count)


def _tangent(function: Callable[..., Any], options: Options, num_kernels: int) -> Job:
    outputs = options["outputs"]
    problem, other = problems(
        options["model"],
        options["x1"],
        options["x2"],
        options["output"],
        outputs,
        options["params"],
    )
    ratio = 1.0 if other is None else other.num_samples / problem.num_samples
    each = problem.num_outputs if outputs == "full" else 1
    item = max(4, problem.dtype.itemsize)
    kernel = num_kernels * ratio * each * each * item
    budget = resolve(options["memory"])
    free = max(1, budget - round(kernel * problem.num_samples**2))
    engine = KernelEngine(
        problem,
        other,
        outputs="full" if outputs == "full" else "trace",
        method=options["method"],
        free_bytes=free,
    )
    factor = engine.sample_bytes * (1 if other is None else 1 + ratio)
    settings = engine.settings(problem.num_samples)
    return _job(
        function,
        options,
        problem,
        name="tangent kernel",
        method=forms_of(engine),
        reason="by parameter, whichever needs fewest multiplications and fits",
        pair_flops=pair_flops_of(engine) * (1 if other is None else 2 * ratio),
        dtype=engine.dtype,
        pair_seconds=paired(problem, other, settings, options, free),
        kept_bytes=_pairs(kernel, factor, free),
        chunk=settings.block_size,
        passes=float(engine.num_passes()) if other is None else 1.0,
        backward=problem.num_outputs * (1.0 + (ratio if other is not None else 0.0)),
    )


def paired(
    problem: Problem,
    other: Problem | None,
    settings: KernelSettings,
    options: Options,
    free_bytes: int,
) -> Callable[[int], float]:
    """Return what measures the products of a kernel's pairs on so many samples.

    Args:
        problem: Samples of the rows.
        other: Those of the columns; None for the same.
        settings: Of the kernel.
        options: With "outputs" and "method" as `es.ntk` takes them.
        free_bytes: Memory for gradients.

    Returns:
        From samples to the seconds of one pair, of n₁² pairs.
    """
    ratio = 1.0 if other is None else other.num_samples / problem.num_samples

    def measured(size: int) -> float:
        each = measured_pair_seconds(
            problem,
            other,
            size,
            outputs="full" if options["outputs"] == "full" else "trace",
            method=options["method"],
            settings=settings,
            free_bytes=free_bytes,
        )
        return each * ratio

    return measured


def _projected(options: Options) -> Job:
    problem, other = problems(
        options["model"],
        options["x1"],
        options["x2"],
        options["output"],
        options["outputs"],
        options["params"],
    )
    ratio = 1.0 if other is None else other.num_samples / problem.num_samples
    each = problem.num_outputs if options["outputs"] == "full" else 1
    count = options["num_projections"]
    kernel = (2 if each > 1 else 3) * ratio * each * each * problem.dtype.itemsize
    sides = 1.0 if other is None else 1 + ratio
    sketch = count * problem.num_outputs * problem.dtype.itemsize * sides
    sketch *= 2 if each > 1 else 1  # squares, of which a product is taken at the end
    return _job(
        projected_ntk,
        options,
        problem,
        name="projected tangent kernel",
        method=f"{count} random directions",
        pair_flops=4.0 * ratio * (problem.num_outputs * each) * count,
        dtype=problem.dtype,
        kept_bytes=_pairs(kernel, sketch, resolve(options["memory"])),
        result_last=True,
        chunk=ParameterEngine(problem).chunk_size,
        backward=problem.num_outputs * (1.0 + (ratio if other is not None else 0.0)),
    )


def _conjugate(options: Options) -> Job:
    problem = Problem(options["model"], data_of(options["x1"]), params=[])
    item = max(4, problem.dtype.itemsize)
    x2 = options["x2"]
    ratio = 1.0 if x2 is None else _count(x2) / problem.num_samples
    features = features_of(problem, options["layer"], problem.batches.first(2))
    row = features[0].numel()
    return _job(
        conjugate_kernel,
        options,
        problem,
        name="conjugate kernel",
        method="features of a forward pass",
        pair_flops=row * (1.0 if x2 is None else 2 * ratio),
        dtype=problem.dtype,
        kept_bytes=_pairs(ratio * item, 2 * row * item, resolve(options["memory"])),
        chunk=problem.batches.batch_size or DEFAULT_BATCH_SIZE,
        backward=0.0,
        result_last=True,
    )


FUNCTIONS: Final[dict[Callable[..., Any], Callable[[Options], Job]]] = {
    input_jacobian: _input_jacobian,
    parameter_jacobian: _parameter_jacobian,
    per_sample_gradients: _per_sample_gradients,
    ntk: _ntk,
    ntk_components: _ntk_components,
    conjugate_kernel: _conjugate,
    projected_ntk: _projected,
}


def pair_flops_of(engine: KernelEngine) -> float:
    """Return flops for each pair of samples of a symmetric kernel, one triangle."""
    return sum(choice.multiplications for choice in engine.choices.values())


def forms_of(engine: KernelEngine) -> str:
    """Return how many parameters a kernel takes in which form."""
    forms = [choice.form for choice in engine.choices.values()]
    return ", ".join(f"{form} × {forms.count(form)}" for form in dict.fromkeys(forms))


def paths_of(engine: ParameterEngine) -> str:
    """Return how many parameters are served by which path."""
    paths = [covered.path for covered in engine.coverage.values()]
    counted = (f"{paths.count(path)} by {path}" for path in dict.fromkeys(paths))
    return f"parameters: {', '.join(counted)}"


def _job(
    function: Callable[..., Any], options: Options, problem: Problem, **said: Any
) -> Job:
    """Return the job of a function on the first samples of its arguments."""
    total = problem.num_samples
    allowed = signature(function).parameters

    def call_on(size: int) -> Callable[[], object]:
        some = {
            name: _first(value, -(-size * _count(value) // total))
            if name in _SAMPLED and value is not None
            else value
            for name, value in options.items()
            if name in allowed
        }
        return lambda: function(**some)

    return Job(
        num_samples=total,
        device=problem.device,
        call_on=call_on,
        budget=resolve(options.get("memory")),
        **said,
    )


def _rows(row_bytes: int) -> Callable[[int], int]:
    """Return the bytes of rows, by their number."""
    return lambda size: size * row_bytes


def _pairs(
    pair_bytes: float, sample_bytes: float = 0.0, most: int = 0
) -> Callable[[int], int]:
    """Return the bytes of a kernel and of what is kept of samples, by their number."""

    def kept(size: int) -> int:
        return round(pair_bytes * size * size) + min(round(sample_bytes * size), most)

    return kept


def _first(value: Any, size: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _first(entry, size) for key, entry in value.items()}
    return value[:size] if isinstance(value, Tensor) and value.ndim else value


def _count(value: Any) -> int:
    if isinstance(value, Mapping):
        return max(_count(entry) for entry in value.values())
    return len(value) if isinstance(value, Tensor) and value.ndim else 1


def _entries(x: Any) -> int:
    return x[0].numel()


def _why_bottleneck(name: str | None) -> str:
    if name is None:
        return ""
    return f"{name!r} has fewer inputs than there are outputs: these are differentiated"
