"""Spectra, top eigenvalues and traces of the curvature, whole and by layer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenscope._types import require_choice
from eigenscope.budget import Share
from eigenscope.estimators import spectrum, top_eigenpairs, trace
from eigenscope.estimators.order import Which
from eigenscope.estimators.trace import TraceMethod, require_num_matvecs
from eigenscope.estimators.whole import Method, require_sizes
from eigenscope.operators import Curvature
from eigenscope.spectra import Eigenpairs, Estimate, Spectrum
from eigenscope.training.measures.latest import Latest
from eigenscope.training.measures.risks import FULL, Layers, RiskCurvature

_VECTORS = "vectors"


@final
class CurvatureSpectra:
    """Spectra of a curvature matrix, whole and of its layers' diagonal blocks.

    A measure for `es.Recorder`; named "hessian" it records "hessian/full" and
    "hessian/<layer>". A spectrum is exact where its small side is known (Gauss-Newton
    and Fisher matrices, blocks of piecewise linear layers), else an estimate with its
    error; see `es.spectrum`.

    Args:
        data: Inputs and targets, as for `es.Problem`; the same at every recording.
        loss: The loss.
        kind: "hessian", "gauss-newton" (of the same loss) or "fisher" (the empirical
            one).
        layers: "parameter", "module", "weights" (each parameter of more than one axis),
            names or globs of parameters, your groups as for `es.layer_blocks`, or None
            for no blocks.
        full: Whether the whole matrix is measured.
        params: Parameters by name or glob; None for all that require gradients.
        method: As for `es.spectrum`, like the following.
        tolerance: Error of an estimate, relative to mean |λ|.
        max_probes: The most probes.
        max_steps: The most products for each of them.
        num_outer: Dimension of the Krylov space that finds the outer eigenpairs.
        batch_size: Samples that go through the network together; None chooses.
        seed: Seed of all probes, the same at every recording.
        memory: Budget such as "4GiB"; None for half of what is available.

    Raises:
        ValueError: If an option is unknown or out of its range, or nothing is asked.

    Cost:
        For n samples and k outputs at most k backward passes for all exact layers
        together and an (n·k)³ eigenproblem for each; hundreds of products for an
        estimate.

    Example:
        >>> data = (torch.eye(3), torch.tensor([0, 1, 0]))
        >>> hessian = CurvatureSpectra(data, nn.CrossEntropyLoss())
        >>> found = hessian(nn.Linear(3, 2))
        >>> list(found), [part.dimension for part in found.values()]
        (['full', 'weight', 'bias'], [8, 6, 2])
    """

    def __init__(
        self,
        data: object,
        loss: Callable[[Any, Any], Any],
        *,
        kind: Curvature = "hessian",
        layers: Layers = "parameter",
        full: bool = True,
        params: str | Sequence[str] | None = None,
        method: Method = "auto",
        tolerance: float = 0.02,
        max_probes: int = 64,
        max_steps: int = 256,
        num_outer: int = 100,
        batch_size: int | None = None,
        seed: int = 0,
        memory: str | int | None = None,
    ) -> None:
        require_choice("method", method, Method)
        require_sizes(tolerance, max_probes, max_steps, num_outer)
        if not full and layers is None:
            raise ValueError(
                "full=False and layers=None ask for no spectrum at all; choose layers, "
                "or leave full=True."
            )
        self._risk = RiskCurvature(
            data=data,
            loss=loss,
            kind=kind,
            layers=layers,
            params=params,
            batch_size=batch_size,
            memory=memory,
        )
        self._full, self._seed = full, seed
        self._options: dict[str, Any] = {
            "method": method,
            "memory": Share.of(memory, 2),
        }
        self._sampling: dict[str, Any] = {
            "tolerance": tolerance,
            "max_probes": max_probes,
            "max_steps": max_steps,
            "num_outer": num_outer,
        }
        self._latest = Latest(self._spectra)

    def __call__(self, model: nn.Module) -> dict[str, Spectrum]:
        """Return "full" and the layers' names to spectra.

        Args:
            model: The network, as it is.

        Returns:
            The spectra; of an unchanged network those of the last call.
        """
        return self._latest(model)

    def calls(self, model: nn.Module) -> dict[str, "partial[Spectrum]"]:
        """Return what computes each spectrum.

        Args:
            model: The network, as it is.

        Returns:
            "full" and the layers' names to calls of `es.spectrum`.
        """
        matrix = self._risk.matrix(model)
        parts = {FULL: matrix} if self._full else {}
        parts |= self._risk.blocks(model, matrix)
        return {
            name: partial(
                spectrum,
                part,
                generator=torch.Generator().manual_seed(self._seed),
                **self._options,
                **self._sampling,
            )
            for name, part in parts.items()
        }

    def _spectra(self, model: nn.Module) -> dict[str, Spectrum]:
        return {name: call() for name, call in self.calls(model).items()}


@final
class CurvatureEigenvalues:
    """The outermost eigenvalues of a curvature matrix, each with its residual.

    A measure for `es.Recorder`. It begins with the eigenvectors that it found last, so
    that a network that has changed little costs few products; what it finds does not
    depend on them beyond the tolerance.

    Args:
        data: Inputs and targets, as for `es.Problem`.
        loss: The loss.
        k: Number of eigenvalues.
        which: As for `es.top_eigenpairs`.
        kind: "hessian", "gauss-newton" or "fisher" (the empirical one).
        params: Parameters by name or glob; None for all that require gradients.
        tolerance: As for `es.top_eigenpairs`.
        max_matvecs: As for `es.top_eigenpairs`.
        warm: Whether to begin with the last eigenvectors.
        batch_size: Samples that go through the network together; None chooses.
        seed: Seed of all random blocks.
        memory: Budget such as "4GiB"; None for half of what is available.

    Raises:
        ValueError: If an option is unknown or out of its range.

    Cost:
        As `es.top_eigenpairs`.

    Example:
        >>> data = (torch.eye(2), torch.zeros(2, 1))
        >>> net = nn.Linear(2, 1, bias=False)
        >>> print(CurvatureEigenvalues(data, nn.MSELoss())(net))
        1 ± 0
    """

    def __init__(
        self,
        data: object,
        loss: Callable[[Any, Any], Any],
        *,
        k: int = 1,
        which: Which = "largest",
        kind: Curvature = "hessian",
        params: str | Sequence[str] | None = None,
        tolerance: float | None = None,
        max_matvecs: int | None = None,
        warm: bool = True,
        batch_size: int | None = None,
        seed: int = 0,
        memory: str | int | None = None,
    ) -> None:
        require_choice("which", which, Which)
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}.")
        self._risk = RiskCurvature(
            data=data,
            loss=loss,
            kind=kind,
            params=params,
            batch_size=batch_size,
            memory=memory,
        )
        self._which: Which = which
        self._k, self._seed, self._warm = k, seed, warm
        self._options: dict[str, Any] = {
            "tolerance": tolerance,
            "max_matvecs": max_matvecs,
            "memory": Share.of(memory, 2),
        }
        self._vectors: Float[Tensor, "dim k"] | None = None

    def __call__(self, model: nn.Module) -> Estimate | dict[str, Estimate]:
        """Return the eigenvalue, or "1", "2", … to eigenvalues in their order.

        Args:
            model: The network, as it is.

        Returns:
            Each with the norm of its residual, which bounds its error, as `stderr`.
        """
        pairs = self.calls(model)[FULL]()
        if self._warm:
            self._vectors = pairs.vectors
        count = pairs.provenance.get("num_matvecs", 0)
        found = {
            str(place): Estimate(
                value=float(value),
                stderr=float(residual),
                num_matvecs=count if isinstance(count, int) else 0,
                converged=bool(converged),
            )
            for place, (value, residual, converged) in enumerate(
                zip(pairs.values, pairs.residuals, pairs.converged, strict=True), 1
            )
        }
        return found["1"] if self._k == 1 else found

    def calls(self, model: nn.Module) -> dict[str, "partial[Eigenpairs]"]:
        """Return what computes the eigenpairs.

        Args:
            model: The network, as it is.

        Returns:
            "full" to a call of `es.top_eigenpairs`.
        """
        matrix = self._risk.matrix(model)
        start = self._vectors
        if start is not None and len(start) != matrix.shape[0]:
            start = None  # parameters were frozen or unfrozen since
        call = partial(
            top_eigenpairs,
            matrix,
            self._k,
            which=self._which,
            start=start,
            generator=torch.Generator().manual_seed(self._seed),
            **self._options,
        )
        return {FULL: call}

    def state(self) -> dict[str, Tensor]:
        """What the next call begins with; the recorder keeps it beside the results.

        Returns:
            Tensors by name.
        """
        return {} if self._vectors is None else {_VECTORS: self._vectors}

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Begin the next call with what another object's `state` gave.

        Args:
            state: Tensors by name.
        """
        self._vectors = state.get(_VECTORS) if self._warm else None


@final
class CurvatureTrace:
    """Traces of a curvature matrix, whole and of its layers' diagonal blocks.

    A measure for `es.Recorder`; named "hessian_trace" it records "hessian_trace/full"
    and "hessian_trace/<layer>", each with its standard error.

    Args:
        data: Inputs and targets, as for `es.Problem`.
        loss: The loss.
        kind: "hessian", "gauss-newton" or "fisher" (the empirical one).
        layers: As for `es.CurvatureSpectra`.
        params: Parameters by name or glob; None for all that require gradients.
        method: As for `es.trace`.
        num_matvecs: Products for each trace.
        batch_size: Samples that go through the network together; None chooses.
        seed: Seed of all probes, the same at every recording.
        memory: Budget such as "4GiB"; None for half of what is available.

    Raises:
        ValueError: If an option is unknown or out of its range.

    Cost:
        `num_matvecs` products for the whole and for each layer.

    Example:
        >>> data = (torch.eye(2), torch.zeros(2, 1))
        >>> trace = CurvatureTrace(data, nn.MSELoss(), layers="parameter")
        >>> {name: float(part) for name, part in trace(nn.Linear(2, 1)).items()}
        {'full': 4.0, 'weight': 2.0, 'bias': 2.0}
    """

    def __init__(
        self,
        data: object,
        loss: Callable[[Any, Any], Any],
        *,
        kind: Curvature = "hessian",
        layers: Layers = None,
        params: str | Sequence[str] | None = None,
        method: TraceMethod = "xtrace",
        num_matvecs: int = 100,
        batch_size: int | None = None,
        seed: int = 0,
        memory: str | int | None = None,
    ) -> None:
        require_num_matvecs(method, num_matvecs)
        self._risk = RiskCurvature(
            data=data,
            loss=loss,
            kind=kind,
            layers=layers,
            params=params,
            batch_size=batch_size,
            memory=memory,
        )
        self._method: TraceMethod = method
        self._num_matvecs, self._seed = num_matvecs, seed
        self._memory = Share.of(memory, 2)

    def __call__(self, model: nn.Module) -> dict[str, Estimate]:
        """Return "full" and the layers' names to traces.

        Args:
            model: The network, as it is.

        Returns:
            The traces with their standard errors.
        """
        return {name: call() for name, call in self.calls(model).items()}

    def calls(self, model: nn.Module) -> dict[str, "partial[Estimate]"]:
        """Return what estimates each trace.

        Args:
            model: The network, as it is.

        Returns:
            "full" and the layers' names to calls of `es.trace`.
        """
        matrix = self._risk.matrix(model)
        parts = {FULL: matrix} | self._risk.blocks(model, matrix)
        return {
            name: partial(
                trace,
                part,
                method=self._method,
                num_matvecs=self._num_matvecs,
                generator=torch.Generator().manual_seed(self._seed),
                memory=self._memory,
            )
            for name, part in parts.items()
        }
