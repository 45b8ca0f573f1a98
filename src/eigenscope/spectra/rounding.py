"""What cannot be told from rounding."""

import math


def rounding_floor(largest: float, *, dimension: int, epsilon: float) -> float:
    """ε · |λ|_max · √D: moduli up to here cannot be told from rounding.

    A symmetric D × D matrix formed with unit roundoff ε carries an error of about
    this norm, and by Weyl's inequality no eigenvalue moves further.

    Args:
        largest: |λ|_max.
        dimension: D.
        epsilon: ε of the dtype in which the matrix was formed.

    Returns:
        The floor, in units of the eigenvalues.

    Example:
        >>> rounding_floor(2.0, dimension=100, epsilon=1e-16)
        2e-15
    """
    return epsilon * abs(largest) * math.sqrt(dimension)
