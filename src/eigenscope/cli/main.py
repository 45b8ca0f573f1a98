"""Dispatch of the verbs, and errors as messages."""

import sys

from eigenscope.cli.options import (
    CompareOptions,
    DemoOptions,
    FitOptions,
    InfoOptions,
    JacobianOptions,
    Options,
    parse,
)

_USER_ERRORS = (ValueError, TypeError, OSError, ImportError, KeyError, RuntimeError)


def main(arguments: list[str] | None = None) -> None:
    """Run one verb of the command line and end the process with its code.

    Args:
        arguments: Words after the program's name; None for those of the process.

    Raises:
        SystemExit: With 0 if all went well, 1 after an error that is explained on
            standard error, 2 for wrong options, 130 after Ctrl-C.
    """
    options = parse(arguments)
    try:
        _run(options)
    except KeyboardInterrupt:
        print(
            "interrupted; what was computed is kept: run the same command again with "
            "--resume",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    except _USER_ERRORS as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"eigenscope: {message}", file=sys.stderr)
        raise SystemExit(1) from error


def _run(options: Options) -> None:
    """Import what the verb needs, torch above all, only now, and call it."""
    if isinstance(options, JacobianOptions):
        from eigenscope.cli.jacobian import run_jacobian

        run_jacobian(options)
    elif isinstance(options, DemoOptions):
        from eigenscope.cli.demo import run_demo

        run_demo(options)
    elif isinstance(options, FitOptions):
        from eigenscope.cli.fit import run_fit

        run_fit(options)
    elif isinstance(options, CompareOptions):
        from eigenscope.cli.compare import run_compare

        run_compare(options)
    elif isinstance(options, InfoOptions):
        from eigenscope.cli.info import run_info

        run_info(options)
