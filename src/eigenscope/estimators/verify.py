"""Is an operator what it says? Checks by random vectors, with a short verdict."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, cast, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.budget import require_fits
from eigenscope.estimators.krylov import KrylovSpace
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.probes import draw_probes, first_seed
from eigenscope.estimators.products import Products, as_operator
from eigenscope.operators import (
    CurvatureOperator,
    Gram,
    LinearOperator,
    StoredGram,
    SymmetricOperator,
)
from eigenscope.precision import widened
from eigenscope.problem import Problem
from eigenscope.problem.model import state_digest

_BLOCK: Final = 4
_HELD: Final = 8  # blocks: probes, images, and what they are compared with
_ENTRIES: Final = 8
_DENSE_ROWS: Final = 512
_STEPS: Final = 20


@runtime_checkable
class Splittable(Protocol):
    """An operator that can be made again with another batch size."""

    def with_batch_size(self, batch_size: int) -> LinearOperator:
        """Return the same operator, computed from batches of another size."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One property and how well it holds.

    Attributes:
        name: The property.
        error: By how much it is missed, relative to the size of the products.
        tolerance: What rounding explains.
        detail: What was compared.
    """

    name: str
    error: float
    tolerance: float
    detail: str

    @property
    def has_passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `es.verify` found, one check after the other.

    Attributes:
        operator: Name of the operator's type.
        shape: Its shape.
        checks: All checks that this operator allows.
        num_matvecs: Products taken.

    Example:
        >>> from eigenscope.operators import Dense
        >>> verdict = verify(Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]])))
        >>> verdict.has_passed, [check.name for check in verdict.failed]
        (False, ['symmetry'])
    """

    operator: str
    shape: tuple[int, int]
    checks: tuple[Check, ...]
    num_matvecs: int

    @property
    def has_passed(self) -> bool:
        """Whether every check has."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that have not passed."""
        return tuple(check for check in self.checks if not check.has_passed)

    def to_json(self) -> dict[str, JsonValue]:
        """Return everything as JSON can hold it.

        Returns:
            What `from_json` takes.
        """
        return {
            "operator": self.operator,
            "shape": list(self.shape),
            "checks": [asdict(check) for check in self.checks],
            "num_matvecs": self.num_matvecs,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Verdict":
        """Return what `to_json` gave.

        Args:
            saved: The verdict as JSON holds it.

        Returns:
            The verdict.
        """
        rows, columns = saved["shape"]
        return cls(
            operator=saved["operator"],
            shape=(rows, columns),
            checks=tuple(Check(**check) for check in saved["checks"]),
            num_matvecs=saved["num_matvecs"],
        )

    def __bool__(self) -> bool:
        return self.has_passed

    def __str__(self) -> str:
        rows, columns = self.shape
        summary = "all checks passed" if self else f"{len(self.failed)} FAILED"
        lines = [f"{self.operator} {rows} × {columns}: {summary}"]
        for check in self.checks:
            mark = "ok  " if check.has_passed else "FAIL"
            lines.append(
                f"  {mark} {check.name:<24} {check.error:8.1e} "
                f"(≤ {check.tolerance:.0e})  {check.detail}"
            )
        return "\n".join(lines)


def verify(
    operator_or_matrix: Operand,
    *,
    generator: torch.Generator | None = None,
    memory: str | int | None = None,
) -> Verdict:
    """Check A = Aᵀ, A(ax + by) = aAx + bAy, A[x y] = [Ax Ay], … on random vectors.

    Symmetry, linearity, a block against its columns, the same answer twice, the dense
    form or a random sub-block of entries against products, the exact diagonal, and
    where the operator can tell: no negative eigenvalue in a Krylov space if it
    promises to be positive semi-definite, the same product from batches of another
    size, and a model that is left as it was. Hessian, Gauss-Newton and Fisher
    matrices can tell all of it, and the dense form of one of their layers stands for
    that of the whole where this is large.

    Args:
        operator_or_matrix: A square operator, tensor or NumPy array.
        generator: Source of the vectors; a fresh one with a fixed seed if None.
        memory: Budget such as "4GiB" for the vectors; half of what is available if
            None. The Krylov space goes to disk where it does not fit.

    Returns:
        The verdict: true if every check has passed; `print` shows them.

    Raises:
        ValueError: If it is not square, or the vectors do not fit the budget.
        TypeError: If it is no matrix of real floating-point numbers.

    Cost:
        About 60 products, and the dense form of at most 512 rows.

    Example:
        >>> print(str(verify(torch.eye(3))).splitlines()[0])
        Dense 3 × 3: all checks passed
    """
    return _Inspection(operator_or_matrix, first_seed(generator), memory).verdict()


@final
class _Inspection:
    """The checks of one operator."""

    def __init__(self, operand: Operand, seed: int, memory: str | int | None) -> None:
        rows, columns = tuple(operand.shape)
        if rows != columns:
            raise ValueError(
                f"the operator must be square to be verified; got shape "
                f"{(rows, columns)}. Pass es.gram(jacobian)."
            )
        self._operator = as_operator(operand)
        self._dim, self._seed, self._count = rows, seed, 0
        self._num_drawn = 0
        self._budget = require_fits(
            _HELD * _BLOCK * rows * self._operator.dtype.itemsize,
            memory,
            what=f"{_HELD * _BLOCK} vectors of {rows} numbers",
            way_out="or verify a part: operator.restricted(...)",
        )
        epsilon = torch.finfo(self._operator.dtype).eps
        self._tolerance = min(0.1, max(100.0, self._dim**0.5) * epsilon * 10)
        self._checks: list[Check] = []

    def verdict(self) -> Verdict:
        """Run all checks."""
        problem = getattr(self._operator, "problem", None)
        before = _state(problem) if isinstance(problem, Problem) else None
        self._x, self._y = self._draw(), self._draw()
        self._ax, self._ay = self._times(self._x), self._times(self._y)
        self._check_symmetry()
        self._check_linearity()
        self._check_columns()
        self._check_repetition()
        self._check_entries()
        self._check_layer()
        self._check_sign()
        self._check_split()
        if before is not None:
            same = before == _state(cast("Problem", problem))
            self._add("model untouched", 0.0 if same else 1.0, "weights, .grad, mode")
        return Verdict(
            operator=type(self._operator).__name__,
            shape=(self._dim, self._dim),
            checks=tuple(self._checks),
            num_matvecs=self._count,
        )

    def _check_symmetry(self) -> None:
        left, right = self._x.T @ self._ay, self._ax.T @ self._y
        scale = _size(self._x) * _size(self._ay) + _size(self._ax) * _size(self._y)
        gap = float((left - right).abs().max())
        self._add("symmetry", _relative(gap, scale), "⟨x, Ay⟩ and ⟨Ax, y⟩")

    def _check_linearity(self) -> None:
        mixed = self._times(1.5 * self._x - self._y)
        expected = 1.5 * self._ax - self._ay
        self._compare("linearity", mixed, expected, "A(1.5x - y)")

    def _check_columns(self) -> None:
        columns = [self._times(self._x[:, i]) for i in range(self._x.shape[1])]
        alone = torch.stack(columns, 1)
        self._compare("block equals its columns", alone, self._ax, "A[x y] and Ax, Ay")

    def _check_repetition(self) -> None:
        again = self._times(self._x)
        self._compare("determinism", again, self._ax, "the same product twice")

    def _check_entries(self) -> None:
        """The dense form, or some columns of entries, against products."""
        if self._dim <= _DENSE_ROWS:
            dense = self._operator.dense().to(self._ax)
            self._compare("dense form", dense @ self._x, self._ax, "A as a matrix")
            diagonal, picked = dense.diagonal(), torch.arange(self._dim)
        else:
            chooser = torch.Generator().manual_seed(self._seed)
            picked = torch.randperm(self._dim, generator=chooser)[:_ENTRIES]
            unit = torch.zeros(self._dim, len(picked)).to(self._x)
            unit[picked, torch.arange(len(picked))] = 1
            columns = self._times(unit)
            detail = f"{len(picked)} random columns against products"
            self._compare("entries", columns.T @ self._x, self._ax[picked], detail)
            diagonal = columns[picked, torch.arange(len(picked))]
        if isinstance(self._operator, SymmetricOperator) and self._dim <= _DENSE_ROWS:
            exact = self._operator.diagonal().to(self._ax)
            self._compare("diagonal", exact[picked], diagonal, "op.diagonal()")

    def _check_layer(self) -> None:
        """The dense form of a random parameter's block against products."""
        operator = self._operator
        if self._dim <= _DENSE_ROWS or not isinstance(operator, CurvatureOperator):
            return
        columns = operator.layout.columns
        sizes = {name: part.stop - part.start for name, part in columns.items()}
        small = [name for name, size in sizes.items() if size <= _DENSE_ROWS]
        if not small:
            return
        chooser = torch.Generator().manual_seed(self._seed)
        name = small[int(torch.randint(len(small), (), generator=chooser))]
        inside = torch.zeros_like(self._x)
        inside[columns[name]] = self._x[columns[name]]
        found = self._times(inside)[columns[name]]
        expected = operator.restricted(name).dense() @ inside[columns[name]]
        self._compare("sub-block", found, expected, f"the dense block of {name}")

    def _check_sign(self) -> None:
        promised = isinstance(self._operator, Gram | StoredGram)
        if not getattr(self._operator, "is_positive_semidefinite", promised):
            return
        if self._checks[0].error > self._checks[0].tolerance:
            return  # without symmetry there is no quadratic form to look at
        products = Products(self._operator)
        space = KrylovSpace(products, seed=self._seed, memory=self._budget)
        space.draw(1)
        for _ in range(min(_STEPS, self._dim)):
            if space.num_next:
                space.expand()
        least = float(space.ritz().values[0])
        self._count += products.count
        error = _relative(max(0.0, -least), space.norm)
        self._add("positive semi-definite", error, "least Ritz value")

    def _check_split(self) -> None:
        if not isinstance(self._operator, Splittable):
            return
        other = self._operator.with_batch_size(3)
        self._count += self._x.shape[1]
        detail = "batches of 3 samples"
        self._compare("split invariance", other @ self._x, self._ax, detail)

    def _draw(self) -> Float[Tensor, "dim vector"]:
        indices = range(self._num_drawn, self._num_drawn + _BLOCK)
        self._num_drawn += _BLOCK
        probes = draw_probes(indices, self._dim, seed=self._seed, law="normal")
        return probes.T.contiguous().to(self._operator.device, self._operator.dtype)

    def _times(self, x: Tensor) -> Tensor:
        self._count += 1 if x.ndim == 1 else x.shape[1]
        return self._operator @ x

    def _compare(self, name: str, found: Tensor, expected: Tensor, detail: str) -> None:
        gap = _size(found - expected)
        self._add(name, _relative(gap, _size(expected)), detail)

    def _add(self, name: str, error: float, detail: str) -> None:
        check = Check(name=name, error=error, tolerance=self._tolerance, detail=detail)
        self._checks.append(check)


def _size(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(widened(x)))


def _relative(gap: float, scale: float) -> float:
    """Gap over scale; what is not a number counts as infinitely wrong."""
    if gap != gap or scale != scale:
        return float("inf")
    return gap / scale if scale else gap


def _state(problem: Problem) -> tuple[str, list[bool], list[bool]]:
    model = problem.model
    return (
        state_digest(model),
        [module.training for module in model.modules()],
        [parameter.grad is None for parameter in model.parameters()],
    )
