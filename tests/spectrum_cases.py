"""Eigenvalues of every size, and small spectra of given ones."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigenscope.spectra import Spectrum

# Sums of a few hundred doubles of similar size round to a few hundred ulp.
ROUNDING = 1e-12

eigenvalues = hnp.arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.floats(-1e50, 1e50, allow_nan=False, allow_subnormal=True),
)


def spectrum_of(*values: float, dimension=None, noise_floor=0.0) -> Spectrum:
    return Spectrum.from_eigenvalues(
        values, dimension=dimension, noise_floor=noise_floor
    )


def fields(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "values": np.array([1.0, 2.0]),
        "weights": np.array([0.5, 0.5]),
        "dimension": 2,
        "exact": True,
        "noise_floor": 0.0,
    }
    return base | changes
