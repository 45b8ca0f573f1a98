"""Numbers that a spectrum gives: tr f(A), log det A and norms."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from eigenscope._types import require_choice
from eigenscope.estimators.eigenpairs import top_eigenpairs
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.whole import spectrum
from eigenscope.spectra import Eigenpairs, Estimate, Spectrum
from eigenscope.store import Run

NormKind = Literal["frobenius", "nuclear", "spectral"]
Function = Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]


def spectral_sum(
    operator_or_spectrum: Operand | Spectrum,
    function: Function,
    *,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str = "spectrum",
    **options: Any,
) -> Estimate:
    """Tr f(A) = Σ_i f(λ_i) over all D eigenvalues.

    Through `es.spectrum`, so exact where that is. An estimate has its standard error
    over probes, and as `bias` what half the steps change.

    Args:
        operator_or_spectrum: A symmetric operator or matrix, or its spectrum, from
            which any number of sums cost nothing.
        function: f, applied to NumPy arrays; finite on the whole spectrum.
        memory: Budget such as "4GiB" for the spectrum; half of what is available if
            None.
        run: A run that is open for writing: every finished group of probes is left
            there, and taken from there again.
        name: Name of the spectrum within the run; further sums of the same spectrum
            by that name take no product.
        **options: As for `es.spectrum`.

    Returns:
        The sum.

    Raises:
        ValueError: If f is not finite at an eigenvalue, or as for `es.spectrum`.
        Interrupted: On Ctrl-C, with the sum over the spectrum as it is.

    Cost:
        That of `es.spectrum`.

    Example:
        >>> print(spectral_sum(np.diag([1.0, 2.0]), np.exp))
        10.1073 ± 0
    """
    return _from_spectrum(
        operator_or_spectrum,
        lambda found: _finite_sum(found, function),
        {"memory": memory, "run": run, "name": name} | options,
    )


def _finite_sum(found: Spectrum, function: Function) -> Estimate:
    """Σ f(λ) if f is finite everywhere."""
    return found.sum(partial(finite_values, function))


def finite_values(
    function: Function, values: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Return f(λ) of each value.

    Args:
        function: f, of NumPy arrays.
        values: Eigenvalues, or their approximations.

    Returns:
        Numbers of the same shape, all finite.

    Raises:
        ValueError: If f does not act on each value, or is not finite at one.
    """
    with np.errstate(all="ignore"):
        result = np.asarray(function(values), dtype=np.float64)
    if result.shape != values.shape:
        raise ValueError(
            "the function must give one number for each eigenvalue; for an array of "
            f"shape {values.shape} it gave {result.shape}. Write it with functions of "
            "NumPy that act on every entry, such as np.exp."
        )
    broken = ~np.isfinite(result)
    if bool(broken.any()):
        raise ValueError(
            "the function must be finite on the whole spectrum; it is "
            f"{result[broken][0]} at {values[broken][0]:.6g}. Shift the operator, "
            "or choose a function that is defined there."
        )
    return result


def _from_spectrum(
    operand: Operand | Spectrum,
    measured: Callable[[Spectrum], Estimate],
    options: dict[str, Any],
) -> Estimate:
    """What is measured of the spectrum, also of a partial one on Ctrl-C."""
    if isinstance(operand, Spectrum):
        return measured(operand)
    try:
        return measured(spectrum(operand, **options))
    except Interrupted as stop:
        raise Interrupted(_measured_partially(stop.partial, measured)) from None


def _measured_partially(partial: Any, measured: Callable[[Any], Estimate]) -> Any:
    """The same of what is known so far; None where that does not suffice."""
    try:
        return None if partial is None else measured(partial)
    except ValueError:  # for example a logarithm, of a node of the first steps
        return None


def log_determinant(
    operator_or_spectrum: Operand | Spectrum,
    *,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str = "spectrum",
    **options: Any,
) -> Estimate:
    """Log det A = Σ_i log λ_i of a positive definite matrix.

    Args:
        operator_or_spectrum: A symmetric operator or matrix, or its spectrum.
        memory: Budget such as "4GiB" for the spectrum; half of what is available if
            None.
        run: A run that is open for writing, as for `es.spectral_sum`.
        name: Name of the spectrum within the run.
        **options: As for `es.spectrum`.

    Returns:
        The logarithm of the determinant.

    Raises:
        ValueError: If an eigenvalue is not above the noise floor, or as for
            `es.spectrum`.
        Interrupted: On Ctrl-C, with what the spectrum gives as it is.

    Cost:
        That of `es.spectrum`.

    Example:
        >>> print(log_determinant(np.diag([1.0, 2.0, 4.0])))
        2.07944 ± 0
    """
    return _from_spectrum(
        operator_or_spectrum,
        _log_sum,
        {"memory": memory, "run": run, "name": name} | options,
    )


def _log_sum(found: Spectrum) -> Estimate:
    """Σ log λ of what is positive beyond rounding."""
    least = float(found.values[0])
    if least <= found.noise_floor:
        raise ValueError(
            "log det needs a positive definite matrix; its least eigenvalue is "
            f"{least:.6g}, and the noise floor {found.noise_floor:.3g}. Add a multiple "
            "of the identity, or use es.spectral_sum with another function."
        )
    return _finite_sum(found, np.log)


def norm(
    operator_or_spectrum: Operand | Spectrum,
    kind: NormKind = "frobenius",
    *,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str | None = None,
    **options: Any,
) -> Estimate:
    """√Σλ² ("frobenius"), Σ|λ| ("nuclear") or max|λ| ("spectral").

    Args:
        operator_or_spectrum: A symmetric operator or matrix, or its spectrum.
        kind: Which norm.
        memory: Budget such as "4GiB" for the spectrum; half of what is available if
            None.
        run: A run that is open for writing: what is found is left there, and taken
            from there again.
        name: Name within the run; None for "spectrum", or "eigenpairs" with
            "spectral".
        **options: As for `es.spectrum`, or with "spectral" as for
            `es.top_eigenpairs`.

    Returns:
        The norm. The spectral one has the residual of its eigenpair as `bias`: an
        eigenvalue is that near.

    Raises:
        ValueError: If the kind is unknown, or as for `es.spectrum`.
        Interrupted: On Ctrl-C, with the norm as far as it is known.

    Cost:
        That of `es.spectrum` or `es.top_eigenpairs`.

    Example:
        >>> print(norm(np.diag([3.0, -4.0])), norm(np.diag([3.0, -4.0]), "nuclear"))
        5 ± 0 7 ± 0
    """
    require_choice("kind", kind, NormKind)
    if kind == "spectral":
        kept: dict[str, Any] = {
            "memory": memory,
            "run": run,
            "name": name or "eigenpairs",
        }
        return _spectral_norm(operator_or_spectrum, kept | options)
    return _from_spectrum(
        operator_or_spectrum,
        _root_of_squares if kind == "frobenius" else _sum_of_moduli,
        {"memory": memory, "run": run, "name": name or "spectrum"} | options,
    )


def _sum_of_moduli(found: Spectrum) -> Estimate:
    return _finite_sum(found, np.abs)


def _root_of_squares(found: Spectrum) -> Estimate:
    """√Σλ², with errors by the slope of the root."""
    largest = float(np.abs(found.values).max())
    # Squares leave the range of numbers long before the numbers do.
    unit = largest if largest > 0 else 1.0
    squares = _finite_sum(found, lambda values: np.square(values / unit))
    root = max(float(squares.value), 0.0) ** 0.5
    slope = 0.5 * unit / root if root else 0.0
    return replace(
        squares,
        value=unit * root,
        stderr=float(squares.stderr) * slope,
        bias=squares.bias * slope,
    )


def _spectral_norm(operand: Operand | Spectrum, options: dict[str, Any]) -> Estimate:
    """max|λ|, from a spectrum or by the eigenpair it belongs to."""
    if isinstance(operand, Spectrum):
        largest = float(np.abs(operand.values).max())
        return Estimate(value=largest, stderr=0.0, num_matvecs=0)
    try:
        return _norm_of(top_eigenpairs(operand, 1, which="magnitude", **options))
    except Interrupted as stop:
        raise Interrupted(_measured_partially(stop.partial, _norm_of)) from None


def _norm_of(pairs: Eigenpairs) -> Estimate:
    """The modulus of one eigenpair, which is as near as its residual."""
    return Estimate(
        value=abs(float(pairs.values[0])),
        stderr=0.0,
        bias=float(pairs.residuals[0]),
        num_matvecs=int(str(pairs.provenance.get("num_matvecs", 0))),
        converged=bool(pairs.converged[0]),
        provenance=pairs.provenance,
    )
