"""The tangent kernel of a data set as a symmetric operator."""

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope._types import (
    Components,
    KernelMethod,
    KernelOutputs,
    require_choice,
)
from eigenscope.budget import resolve
from eigenscope.distributed import Ranks
from eigenscope.kernels import KernelChoice, KernelEngine
from eigenscope.kernels.matrices import kernel_matrices
from eigenscope.kernels.tangent import groups_of
from eigenscope.operators.base import SymmetricOperator
from eigenscope.operators.gram import StoredGram
from eigenscope.operators.kernel_tiles import write_kernels
from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.parameter_jacobian import ParameterJacobian
from eigenscope.problem import Problem
from eigenscope.store import Run


@final
class NTK(SymmetricOperator):
    """Θ = J Jᵀ (outputs "full", n·k × n·k), or Σ_c J_c J_cᵀ ("trace", n × n).

    Row i·k + c of a full kernel belongs to output c of sample i. Products never form
    the kernel nor J; for many of them, and for whole spectra, take `dense()`, which
    `es.spectrum` does, or `write` it to a run.

    Args:
        problem: The network, the data, the output and the parameters.
        outputs: "full" or "trace".
        method: How the dense form is computed; see `es.ntk`.
        memory: Budget such as "4GiB" for the dense form and for tiles; None for half
            of what is available.

    Raises:
        ValueError: If an option is unknown, the problem has no parameters, BatchNorm
            is in training mode, or the model mixes samples.

    Cost:
        A product: k backward passes over the data and as many products with J; k times
        that for "trace". `dense()`: as `es.ntk`. `diagonal()`: k backward passes.

    Example:
        >>> net = torch.nn.Linear(3, 2)
        >>> kernel = NTK(Problem(net, torch.eye(3)), outputs="trace")
        >>> kernel.shape, kernel.diagonal().tolist()
        ((3, 3), [4.0, 4.0, 4.0])
    """

    def __init__(
        self,
        problem: Problem,
        *,
        outputs: KernelOutputs = "full",
        method: KernelMethod = "auto",
        memory: str | int | None = None,
    ) -> None:
        require_choice("outputs", outputs, KernelOutputs)
        require_choice("method", method, KernelMethod)
        self.problem = problem
        self.outputs: KernelOutputs = outputs
        self.method: KernelMethod = method
        self.memory = memory
        self._jacobian = ParameterJacobian(problem, memory=memory)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        size = self.problem.num_samples
        if self.outputs == "full":
            size *= self.problem.num_outputs
        return size, size

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._jacobian.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self._jacobian.device

    @property
    @override
    def ranks(self) -> Ranks:
        return self.problem.ranks

    @cached_property
    def choices(self) -> dict[str, KernelChoice]:
        """How the part of each parameter is computed, and why."""
        return KernelEngine(
            self.problem,
            outputs=self.outputs,
            method=self.method,
            free_bytes=resolve(self.memory),
        ).choices

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        J = self._jacobian
        if self.outputs == "full":
            return J.multiply(J.multiply_transpose(block))
        k = self.problem.num_outputs
        result = torch.zeros_like(block)
        for output in range(k):
            wide = block.new_zeros(len(block), k, block.shape[1])
            wide[:, output] = block
            found = J.multiply(J.multiply_transpose(wide.flatten(0, 1)))
            result += found.view(wide.shape)[:, output]
        return result

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        norms = self._jacobian.squared_row_norms()
        if self.outputs == "full":
            return norms
        sums = norms.view(-1, self.problem.num_outputs).sum(1)
        return require_no_overflow(sums, "the diagonal of a tangent kernel")

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        found = kernel_matrices(
            self.problem,
            None,
            groups=dict.fromkeys(self.problem.params, ""),
            outputs=self.outputs,
            method=self.method,
            memory=self.memory,
        )
        return found[""].to(self.dtype)

    def write(self, run: Run, *, name: str = "ntk") -> StoredGram:
        """Write the lower triangle into a run, tile by tile; what is there stays.

        Args:
            run: A run that is open for writing.
            name: The array's name.

        Returns:
            The stored matrix.

        Raises:
            ValueError: If the budget does not hold what two samples need.
            OSError: If the disk is too small; before work starts where that is known.

        Cost:
            As `dense()`, with the memory of some tiles in place of the result's.
        """
        return self._written(run, name, dict.fromkeys(self.problem.params, name))[name]

    def write_components(
        self, run: Run, *, by: Components = "parameter", name: str = "ntk"
    ) -> dict[str, StoredGram]:
        """Write the kernel of every parameter, or of every module's own parameters.

        Args:
            run: A run that is open for writing.
            by: "parameter" or "module".
            name: First part of the arrays' names, which end in ".parameter".

        Returns:
            Parameter name or module path to the stored matrix.

        Raises:
            ValueError: As `write`, or if `by` is unknown.
        """
        groups = groups_of(self.problem, by)
        arrays = {
            param: f"{name}.{group or 'model'}" for param, group in groups.items()
        }
        found = self._written(run, f"{name}_components", arrays)
        return {group: found[arrays[param]] for param, group in groups.items()}

    def _written(
        self, run: Run, name: str, arrays: dict[str, str]
    ) -> dict[str, StoredGram]:
        found = write_kernels(
            self.problem,
            run,
            name,
            arrays,
            outputs=self.outputs,
            method=self.method,
            memory=self.memory,
        )
        return {array: StoredGram(tiled) for array, tiled in found.items()}
