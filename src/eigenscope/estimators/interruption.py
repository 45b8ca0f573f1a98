"""Ctrl-C in the middle of an estimate: what is known so far is not lost."""

from typing import Any, final


@final
class Interrupted(KeyboardInterrupt):
    """Ctrl-C came while an estimator ran; `partial` is what it knows so far.

    It is a `KeyboardInterrupt`, so a script stops as ever unless it asks for more.

    Args:
        partial: A valid result of the estimator's own kind whose `converged` (or
            stderr) says how far it had come, or None if it had nothing yet.

    Attributes:
        partial: The same.

    Example:
        >>> try:
        ...     raise Interrupted(0.5)
        ... except KeyboardInterrupt as stop:
        ...     print(stop)
        interrupted, with a partial result in .partial
    """

    def __init__(self, partial: Any) -> None:
        has = "no result yet" if partial is None else "a partial result in .partial"
        super().__init__(f"interrupted, with {has}")
        self.partial = partial
