"""The problem: a network, its data, and the numbers asked of it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from eigenscope._types import OutputSpec
from eigenscope.distributed import ALONE, RanksChoice, current_ranks
from eigenscope.problem.alike import require_same_numbers, require_same_on_all
from eigenscope.problem.batch import ModelInputs
from eigenscope.problem.data import Batches
from eigenscope.problem.model import (
    call_model,
    device_and_dtype,
    require_finite_weights,
    require_initialized,
    require_repeatable,
    state_digest,
)
from eigenscope.problem.outputs import require_output, transform_outputs
from eigenscope.problem.parameters import select_parameters
from eigenscope.problem.sharded import (
    own_tensors_explained,
    require_same_outputs,
    whole_network,
)

_PROBE_SAMPLES = 4
_COMPARED_ENTRIES = 64


@final
class Problem:
    """A network f_θ, a data set x_1 … x_n, and the output z = f_θ(x) in ℝᵏ.

    Everything is checked before any work starts: weights and inputs are finite, two
    passes over the data agree, and the model answers twice the same. The model is
    used as it is (device, dtype, mode) and left as it was found. If its parameters are
    in pieces (FSDP2, DTensors), every rank takes a whole copy.

    Args:
        model: Any module.
        data: A tensor, an (inputs, targets) tuple, a `Dataset`, a `DataLoader`, or
            any re-iterable of batches. A batch is a tensor, a pair (inputs, targets)
            or a mapping of keyword arguments. A list is a list of batches.
        loss: The loss (raw output, targets) → scalar or (sum, count); Jacobians do
            not need it.
        output: "logits" (the raw output, flattened), "probabilities" or
            "log_probabilities" (softmax over axis 1), or a callable of the raw output.
        params: Parameters by name, glob or a sequence of these; None for all that
            require gradients.
        batch_size: Samples per batch where the data does not say, and per chunk of
            the engines; None chooses.
        labels: The entry of a mapping batch that is the target.
        ranks: "all": where torch's process group is initialized, its ranks share the
            work. Each makes the same calls with the same model and the whole data, of
            which it takes its part. "own": this process works by itself.

    Raises:
        TypeError: If the model is no module, the loss no callable, the data of no
            supported kind, or the model fails on integer data.
        ValueError: If an option is wrong, data or weights are not finite, or the
            model is random.
        DataChangedError: If two passes over the data differ, or what the ranks hold.
        RuntimeError: If another rank has raised an error, or ended.

    Cost:
        Two passes over the data (one for plain tensors) on every rank and two forward
        passes of a few samples.

    Attributes:
        model: The network, or its whole copy.
        ranks: Who shares the work.

    Example:
        >>> problem = Problem(nn.Linear(3, 2), torch.ones(5, 3))
        >>> problem.num_samples, problem.num_outputs
        (5, 2)
    """

    def __init__(
        self,
        model: nn.Module,
        data: object,
        *,
        loss: Callable[[Any, Any], Any] | None = None,
        output: OutputSpec = "logits",
        params: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        labels: str = "labels",
        ranks: RanksChoice = "all",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a torch.nn.Module; got {type(model).__name__}. Put a "
                "function into the forward of a module."
            )
        self.ranks = current_ranks(ranks)
        require_initialized(model)
        whole = whole_network(model)
        with self.ranks.together():
            require_output(output)
            _require_loss(loss)
            require_finite_weights(whole)
            self.model = whole
            self.loss = loss
            self.output: OutputSpec = output
            self.params = select_parameters(whole, params)
            device, dtype = device_and_dtype(whole)
            self.batches = Batches(
                data, batch_size=batch_size, labels=labels, device=device, dtype=dtype
            )
            self.num_samples = self.batches.num_samples
            raw = self._checked_outputs(model)
            self.raw_shape = tuple(raw.shape[1:])
            found = transform_outputs(raw, output)
            self.num_outputs = found.shape[1]
            self.device, self.dtype = raw.device, raw.dtype
        self._require_copy_of(model)
        if self.ranks.size > 1:
            self._require_same_on_all(found)
        self.batches = self.batches.within(self.ranks.share(self.num_samples))

    def _require_copy_of(self, model: nn.Module) -> None:
        """Raise if the network is a whole copy that answers otherwise than its model.

        All ranks come here together: the model computes with all of them.
        """
        if self.model is not model:
            probe = self.batches.first(_PROBE_SAMPLES)
            with self.ranks.together():
                require_same_outputs(model, self.model, probe.inputs)

    def _checked_outputs(self, model: nn.Module) -> Tensor:
        """Return the raw outputs of a few samples, taken twice."""
        probe = self.batches.first(_PROBE_SAMPLES)
        with own_tensors_explained(is_copy=self.model is not model):
            raw = require_repeatable(self.model, probe.inputs)
        _require_one_row_per_sample(raw, probe.size)
        _require_real(raw, "the model")
        return raw

    def _require_same_on_all(self, outputs: Tensor) -> None:
        """Compare what the ranks were given, and some outputs of the first samples."""
        chosen = {"params": ", ".join(self.params)}
        require_same_on_all(self.ranks, self.fingerprint() | chosen)
        entries = outputs.detach().flatten()
        some = entries[:: -(-len(entries) // _COMPARED_ENTRIES)].tolist()
        require_same_numbers(self.ranks, "outputs", some, self.dtype)

    def raw(self, inputs: ModelInputs) -> Tensor:
        """Return the raw output z for one batch of inputs."""
        return call_model(self.model, inputs)

    def whole(self) -> "Problem":
        """Return the same problem as that of this process alone.

        For work that is dealt out to the ranks by other things than samples.

        Returns:
            A problem that hands out all samples and shares nothing.
        """
        other = copy.copy(self)
        other.ranks = ALONE
        other.batches = self.batches.within(range(self.num_samples))
        return other

    def with_output(self, output: OutputSpec) -> "Problem":
        """Return the same problem with another output of the same network.

        The data is shared and not read again.

        Args:
            output: As at construction.

        Returns:
            A new problem.
        """
        require_output(output)
        other = copy.copy(self)
        other.output = output
        raw = torch.zeros(1, *self.raw_shape, device=self.device, dtype=self.dtype)
        other.num_outputs = transform_outputs(raw, output).shape[1]
        return other

    def with_params(self, params: str | Sequence[str]) -> "Problem":
        """Return the same problem with other parameters of the same network.

        The data is shared and not read again.

        Args:
            params: Names or globs, as at construction.

        Returns:
            A new problem.
        """
        other = copy.copy(self)
        other.params = select_parameters(self.model, params)
        return other

    def first(self, num_samples: int) -> "Problem":
        """Return the same problem on the first samples only, in batches of its own.

        Args:
            num_samples: How many, at least 1; all where there are fewer.

        Returns:
            A new problem, checked anew.
        """
        wanted, batches = min(num_samples, self.num_samples), list[object]()
        for batch in self.batches:
            part = batch.part(0, min(wanted, batch.size)).owned()
            wanted -= part.size
            batches.append(self.batches.as_given(part))
            if not wanted:
                break
        return Problem(
            self.model,
            batches,
            loss=self.loss,
            output=self.output,
            params=list(self.params),
            batch_size=self.batches.batch_size,
            labels=self.batches.labels,
        )

    def fingerprint(self, *, num_samples: int | None = None) -> dict[str, str]:
        """Return digests of the data and of the model's weights.

        Args:
            num_samples: Of the first samples alone, as if there were no others.

        Returns:
            Hexadecimal digests under "data" and "weights"; a resumed run compares
            them with those that it started with.
        """
        return {
            "data": self.batches.fingerprint(num_samples),
            "weights": state_digest(self.model),
        }


def _require_real(raw: Tensor, source: str) -> None:
    if raw.is_complex():
        raise TypeError(
            f"{source} must return real numbers; got {raw.dtype}. Wrap it with "
            "torch.view_as_real, which gives real and imaginary parts."
        )


def _require_one_row_per_sample(raw: Tensor, size: int) -> None:
    if raw.ndim == 0 or len(raw) != size or raw.numel() == 0:
        raise ValueError(
            f"the model must return one row per sample; {size} samples gave shape "
            f"{tuple(raw.shape)}. Give the data a sample axis or wrap the model."
        )


def _require_loss(loss: object) -> None:
    if loss is None or (callable(loss) and not isinstance(loss, type)):
        return
    given = f"the class {loss.__name__}" if isinstance(loss, type) else repr(loss)
    raise TypeError(
        "loss must be a callable (raw output, targets) → scalar or (sum, count); got "
        f"{given}. Pass an instance or a function, for example nn.CrossEntropyLoss()."
    )
