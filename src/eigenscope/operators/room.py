"""Whether a dense form fits, before anything is computed of it."""

from eigenscope.budget import require_free, resolve
from eigenscope.operators.base import LinearOperator, SymmetricOperator


def require_room(
    operator: LinearOperator, memory: str | int | None, *, copies: int = 1
) -> int | None:
    """Raise unless the dense form of an operator fits.

    Args:
        operator: The operator.
        memory: Its budget; None for what is free.
        copies: Matrices of its size that are held at one time.

    Returns:
        The bytes of the stated budget that are left; None if none is stated.

    Raises:
        ValueError: If it does not fit; says what does.
    """
    rows, columns = operator.shape
    is_curvature = isinstance(operator, SymmetricOperator)
    instead = (
        "take a layer (es.layer_blocks(operator)), or what needs products alone, as "
        "es.spectrum(operator, method='slq') and es.top_eigenpairs"
        if is_curvature
        else "write it to a run: operator.write(run), or take products: operator @ x"
    )
    needed = copies * rows * columns * operator.dtype.itemsize
    require_free(
        needed,
        memory,
        what=f"the dense form of {rows} × {columns} numbers",
        way_out=instead,
    )
    return None if memory is None else resolve(memory) - needed
