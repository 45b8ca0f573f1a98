"""Spectra of input Jacobians and weights, and what the tangent kernel aligns with."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor, nn

from eigenscope._types import Layout, OutputSpec, require_choice
from eigenscope.budget import parse_bytes
from eigenscope.estimators import spectrum, weight_spectra
from eigenscope.estimators.weights import Kernels
from eigenscope.kernels import kernel_target_alignment
from eigenscope.operators import NTK, InputJacobian, gram
from eigenscope.problem import Problem
from eigenscope.problem.outputs import require_output
from eigenscope.spectra import Spectrum
from eigenscope.training.measures.latest import Latest

Factorization = Literal["eigh", "svd"]


@final
class JacobianSpectrum:
    """The spectrum of 𝒥𝒥ᵀ, the Gram matrix of a data set's input-output Jacobian.

    A measure for `es.Recorder`.

    Args:
        data: Inputs, as for `es.Problem`; targets play no part.
        output: "logits", "probabilities", "log_probabilities" or a callable.
        layout: "samples" or "outputs", as for `es.InputJacobian`.
        factorization: As for `es.spectrum`.
        batch_size: Samples that go through the network together; None chooses.
        memory: Budget such as "4GiB"; None for half of what is available.

    Raises:
        ValueError: If an option is unknown.

    Cost:
        k backward passes for k outputs, and the Gram matrix of the smaller side.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> JacobianSpectrum(torch.ones(2, 2))(net).values.round(6)
        array([ 0., 50.])
    """

    def __init__(
        self,
        data: object,
        *,
        output: OutputSpec = "logits",
        layout: Layout = "samples",
        factorization: Factorization = "eigh",
        batch_size: int | None = None,
        memory: str | int | None = None,
    ) -> None:
        require_output(output)
        require_choice("layout", layout, Layout)
        require_choice("factorization", factorization, Factorization)
        if memory is not None:
            parse_bytes(memory)
        self._data, self._batch_size, self._memory = data, batch_size, memory
        self._output: OutputSpec = output
        self._layout: Layout = layout
        self._factorization: Factorization = factorization
        self._latest = Latest(self._spectrum)

    def __call__(self, model: nn.Module) -> Spectrum:
        """Return the spectrum.

        Args:
            model: The network, as it is.

        Returns:
            The spectrum; of an unchanged network that of the last call.
        """
        return self._latest(model)

    def calls(self, model: nn.Module) -> dict[str, "partial[Spectrum]"]:
        """Return what computes the spectrum.

        Args:
            model: The network, as it is.

        Returns:
            "spectrum" to a call of `es.spectrum`.
        """
        problem = Problem(
            model, self._data, output=self._output, batch_size=self._batch_size
        )
        jacobian = InputJacobian(problem, layout=self._layout)
        call = partial(
            spectrum,
            gram(jacobian, memory=self._memory),
            factorization=self._factorization,
            memory=self._memory,
        )
        return {"spectrum": call}

    def _spectrum(self, model: nn.Module) -> Spectrum:
        return self.calls(model)["spectrum"]()


@final
class WeightSpectra:
    """Eigenvalues of W Wᵀ for every weight matrix W, as `es.weight_spectra`.

    A measure for `es.Recorder`; named "weights" it records "weights/<parameter>".

    Args:
        params: Parameters by name, glob or a sequence of these.
        kernels: "slices" or "matrix": how a convolution's weight is cut.
        memory: Budget such as "4GiB"; None for half of what is available.

    Raises:
        ValueError: If `kernels` is unknown.

    Cost:
        As `es.weight_spectra`.

    Example:
        >>> list(WeightSpectra()(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))))
        ['0.weight', '1.weight']
    """

    def __init__(
        self,
        *,
        params: str | Sequence[str] = "*",
        kernels: Kernels = "slices",
        memory: str | int | None = None,
    ) -> None:
        require_choice("kernels", kernels, Kernels)
        self._compute = partial(
            weight_spectra, params=params, kernels=kernels, memory=memory
        )
        self._latest = Latest(self._compute)

    def __call__(self, model: nn.Module) -> dict[str, Spectrum]:
        """Return names of parameters to spectra.

        Args:
            model: The network, as it is.

        Returns:
            The spectra; of an unchanged network those of the last call.
        """
        return self._latest(model)

    def calls(self, model: nn.Module) -> dict[str, "partial[dict[str, Spectrum]]"]:
        """Return what computes the spectra.

        Args:
            model: The network, as it is.

        Returns:
            "spectra" to a call of `es.weight_spectra`.
        """
        return {"spectra": partial(self._compute, model)}


@final
class TargetAlignment:
    """⟨Θ, YYᵀ⟩ / (‖Θ‖ ‖YYᵀ‖) of the trace NTK Θ and the targets Y.

    A measure for `es.Recorder`.

    Args:
        data: Inputs and targets (classes, or numbers), as for `es.Problem`.
        centered: As for `es.kernel_target_alignment`.
        output: As for `es.Problem`.
        params: Parameters by name or glob; None for all that require gradients.
        batch_size: Samples that go through the network together; None chooses.
        memory: Budget such as "4GiB"; None for half of what is available.

    Raises:
        ValueError: If an option is unknown.

    Cost:
        As the dense form of `es.NTK`.

    Example:
        >>> data = (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> round(TargetAlignment(data)(nn.Linear(2, 1, bias=False)), 6)
        1.0
    """

    def __init__(
        self,
        data: object,
        *,
        centered: bool = False,
        output: OutputSpec = "logits",
        params: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        memory: str | int | None = None,
    ) -> None:
        require_output(output)
        if memory is not None:
            parse_bytes(memory)
        self._data, self._centered, self._params = data, centered, params
        self._batch_size, self._memory = batch_size, memory
        self._output: OutputSpec = output

    def __call__(self, model: nn.Module) -> float:
        """Return the alignment.

        Args:
            model: The network, as it is.

        Returns:
            A number between 0 and 1; from -1 where the kernel is centered.

        Raises:
            ValueError: If the data has no targets.
        """
        kernel = self._kernel(model)
        targets = [batch.targets for batch in kernel.problem.batches]
        if not all(isinstance(target, Tensor) for target in targets):
            raise ValueError(
                "target alignment needs data with targets that are tensors; got "
                f"{type(targets[0]).__name__}. Pass (inputs, targets)."
            )
        return kernel_target_alignment(
            kernel.dense(), torch.cat(targets), centered=self._centered
        )

    def calls(self, model: nn.Module) -> dict[str, "partial[Tensor]"]:
        """Return what computes the kernel.

        Args:
            model: The network, as it is.

        Returns:
            "kernel" to a call of `es.NTK.dense`.
        """
        return {"kernel": partial(self._kernel(model).dense)}

    def _kernel(self, model: nn.Module) -> NTK:
        problem = Problem(
            model,
            self._data,
            output=self._output,
            params=self._params,
            batch_size=self._batch_size,
        )
        return NTK(problem, outputs="trace", memory=self._memory)
