"""Which errors explain themselves, and which are bugs that need their traceback."""

import dis
from types import TracebackType

_PACKAGE = "eigenscope"
_OUT_OF_MEMORY = {"MemoryError", "OutOfMemoryError"}  # torch's is not imported here


def explanation(error: Exception) -> str | None:
    """Return what to tell the user instead of a traceback, or None for a bug.

    An error explains itself if the operating system refused something, memory ran
    out, or this package raised it on purpose, by a `raise` statement. What fails by
    itself, in this package or another, and what the user's own factory or model
    raises is traced back to its line.

    Args:
        error: An exception that was caught, with its traceback.

    Returns:
        The message, or None.

    Example:
        >>> try:
        ...     {}["absent"]
        ... except KeyError as error:
        ...     explanation(error) is None
        True
    """
    if isinstance(error, OSError):
        return _of_system(error)
    if any(kind.__name__ in _OUT_OF_MEMORY for kind in type(error).__mro__):
        return f"memory ran out ({error}); try --batch-size, --memory or fewer samples."
    if _is_raised_here(error.__traceback__):
        return str(error.args[0] if isinstance(error, KeyError) else error)
    return None


def is_echo(error: Exception) -> bool:
    """Return whether an error only tells what another rank has raised.

    Args:
        error: An exception that explains itself.

    Returns:
        Whether it is that other rank's to print.
    """
    if type(error) is not RuntimeError or error.__cause__ is not None:
        return False
    return _where(error.__traceback__) == f"{_PACKAGE}.distributed.group"


def _where(trace: TracebackType | None) -> str:
    """Return the module where an error began."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _of_system(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    name = "" if error.filename is None else f": {error.filename}"
    return f"{error.strerror}{name}"


def _is_raised_here(trace: TracebackType | None) -> bool:
    """Whether a `raise` statement of this package is where the error began."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    operation = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    is_ours = module.partition(".")[0] == _PACKAGE
    return is_ours and dis.opname[operation] == "RAISE_VARARGS"
