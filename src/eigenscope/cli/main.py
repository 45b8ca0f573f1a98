"""Dispatch of the verbs, and errors as messages."""

import os
import sys

from eigenscope.cli.errors import explanation, is_echo
from eigenscope.cli.options import (
    CompareOptions,
    DemoOptions,
    FitOptions,
    HessianOptions,
    InfoOptions,
    JacobianOptions,
    MatchOptions,
    NTKOptions,
    PlanOptions,
    ReportOptions,
    SeriesOptions,
    TrainOptions,
    WeightsOptions,
)
from eigenscope.cli.parsing import Options, parse

_RUNS = (JacobianOptions, NTKOptions, HessianOptions, SeriesOptions)


def main(arguments: list[str] | None = None) -> None:
    """Run one verb of the command line and end the process with its code.

    Args:
        arguments: Words after the program's name; None for those of the process.

    Raises:
        SystemExit: With 1 after an error that is explained on standard error, 2 for
            wrong options, 130 after Ctrl-C.
        Exception: Whatever else went wrong, a bug or an error in the user's own
            factory, with its traceback; the process ends with 1.
    """
    words = sys.argv[1:] if arguments is None else arguments
    options: Options | None = None
    try:
        options = _options(words)
        _run_together(options)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(options)}", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        if is_echo(error):  # the rank that it began on has said it
            raise SystemExit(1) from error
        print(f"eigenscope: {message}", file=sys.stderr)
        raise SystemExit(1) from error


def _options(words: list[str]) -> Options:
    """Parse; for a run that goes on, what is not given is what the run began with."""
    options = parse(words)
    _require_size(options)
    if isinstance(options, _RUNS) and options.resume:
        from eigenscope.cli.arguments import recorded_options

        return parse(words, defaults=recorded_options(options))
    return options


def _require_size(options: Options) -> None:
    """Raise before anything else if the memory that is given is no size.

    Raises:
        ValueError: If so.
    """
    verb = options.verb if isinstance(options, PlanOptions) else options
    if verb.memory is not None:
        from eigenscope.budget import parse_bytes

        parse_bytes(verb.memory)


def _how_to_go_on(options: Options | None) -> str:
    if isinstance(options, _RUNS):
        verb = type(options).__name__.removesuffix("Options").lower()
        again = f"eigenscope {verb} --resume --out {options.out}"
        return f"; what was computed is kept, and this goes on with it: {again}"
    if isinstance(options, TrainOptions) and not options.list:
        return "; what was recorded is kept: the same command with --resume goes on"
    if isinstance(options, DemoOptions):
        return "; what was computed is kept: the same command goes on with it"
    return ""


def _run_together(options: Options) -> None:
    """Run a verb, by all processes that a launcher has started if it writes a run."""
    if "WORLD_SIZE" not in os.environ:
        _run(options)
    elif isinstance(options, _RUNS):
        from eigenscope.distributed.launch import joined

        with joined():
            _run(options)
    elif os.environ.get("RANK", "0") == "0":
        _run(options)


def _run(options: Options) -> None:
    """Import what the verb needs, torch above all, only now, and call it."""
    if isinstance(options, JacobianOptions):
        from eigenscope.cli.jacobian import run_jacobian

        run_jacobian(options)
    elif isinstance(options, NTKOptions):
        from eigenscope.cli.ntk import run_ntk

        run_ntk(options)
    elif isinstance(options, HessianOptions):
        from eigenscope.cli.hessian import run_hessian

        run_hessian(options)
    elif isinstance(options, SeriesOptions):
        from eigenscope.cli.series import run_series

        run_series(options)
    elif isinstance(options, DemoOptions):
        from eigenscope.cli.demo import run_demo

        run_demo(options)
    elif isinstance(options, TrainOptions):
        from eigenscope.cli.train import run_train

        run_train(options)
    elif isinstance(options, FitOptions):
        from eigenscope.cli.fit import run_fit

        run_fit(options)
    elif isinstance(options, CompareOptions):
        from eigenscope.cli.compare import run_compare

        run_compare(options)
    elif isinstance(options, ReportOptions):
        from eigenscope.cli.report import run_report

        run_report(options)
    elif isinstance(options, PlanOptions):
        from eigenscope.cli.plan import run_plan

        run_plan(options)
    elif isinstance(options, MatchOptions):
        from eigenscope.cli.match import run_match

        run_match(options)
    elif isinstance(options, WeightsOptions):
        from eigenscope.cli.weights import run_weights

        run_weights(options)
    elif isinstance(options, InfoOptions):
        from eigenscope.cli.info import run_info

        run_info(options)
