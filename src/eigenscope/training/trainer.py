"""A training that can be stopped after any epoch and goes on to the same bits."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from eigenscope.store import write_atomically
from eigenscope.training.augmentation import shift_and_flip
from eigenscope.training.classifier import EpochPass, random_state_from, train_epoch

OptimizerName = Literal["sgd", "adam"]
RateSchedule = Literal["constant", "multistep", "cosine"]

_MODEL, _OPTIMIZER, _EPOCH = "model/", "optimizer/", "epoch"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """How a classifier is trained.

    Attributes:
        epochs: Passes over the data; 0 leaves the initial weights.
        batch_size: Samples in each step; the last batch of an epoch may be smaller.
        optimizer: "sgd" or "adam".
        learning_rate: Step size at the beginning.
        momentum: Of SGD, 0 for none; Adam has its own.
        weight_decay: Coefficient λ of λ‖θ‖²/2, added to the loss.
        schedule: "constant"; "multistep": times `decay` at each milestone; "cosine":
            times (1 + cos(π e/E))/2 in epoch e of E.
        milestones: Epochs after which "multistep" lowers the step size.
        decay: Factor of "multistep".
        augment: Whether images are shifted by up to four pixels and mirrored.
        keep_every: Epochs between weights that are kept; 0 for none.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: RateSchedule = "constant"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    augment: bool = False
    keep_every: int = 0

    def faults(self) -> list[str]:
        """Return what is wrong with the numbers, one line for each."""
        least = {
            "epochs": (self.epochs, 0),
            "batch_size": (self.batch_size, 1),
            "momentum": (self.momentum, 0),
            "weight_decay": (self.weight_decay, 0),
            "keep_every": (self.keep_every, 0),
        }
        found = [
            f"{name} must be at least {bound}; got {value}"
            for name, (value, bound) in least.items()
            if not value >= bound
        ]
        found += [
            f"{name} must be finite; got {value}"
            for name in ("momentum", "weight_decay")
            if math.isinf(value := getattr(self, name)) and value > 0
        ]
        if any(b <= a for a, b in pairwise((0, *self.milestones))):
            found.append(
                "milestones must be epochs from 1 on, each later than the one before; "
                f"got {list(self.milestones)}"
            )
        for name in ("learning_rate", "decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                found.append(f"{name} must be positive and finite; got {value}")
        is_multistep = self.schedule == "multistep"
        if is_multistep != bool(self.milestones):
            found.append(
                "milestones belong to schedule = 'multistep', which needs at least "
                f"one; got schedule = {self.schedule!r} and {list(self.milestones)}"
            )
        return found

    def rate(self, epoch: int) -> float:
        """Return the step size in an epoch, counted from 0.

        Example:
            >>> plan = Optimization(epochs=4, batch_size=1, learning_rate=1.0)
            >>> plan.rate(3)
            1.0
        """
        if self.schedule == "multistep":
            passed = sum(epoch >= milestone for milestone in self.milestones)
            return self.learning_rate * self.decay**passed
        if self.schedule == "cosine":
            half = 1 + math.cos(math.pi * epoch / self.epochs)
            return self.learning_rate * half / 2
        return self.learning_rate


@final
class Trainer:
    """A classifier, its optimizer and the number of epochs that are behind it.

    The order of samples, dropout and augmentation of an epoch depend on the seed and
    the epoch's number alone, so that a saved state needs no random state.

    Args:
        model: The classifier, trained in place.
        inputs: All samples, on the model's device.
        targets: Their classes.
        plan: How to train.
        seed: Seed of all randomness.
        black: Value of a black pixel by channel, for augmentation.

    Attributes:
        epoch: Epochs that are behind it.

    Example:
        >>> plan = Optimization(epochs=20, batch_size=2, learning_rate=1.0)
        >>> trainer = Trainer(nn.Linear(2, 2), torch.eye(2), torch.arange(2), plan=plan)
        >>> [trainer.run_epoch() for _ in range(20)][-1].accuracy, trainer.epoch
        (1.0, 20)
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Float[Tensor, "sample *shape"],
        targets: Int64[Tensor, "sample"],
        *,
        plan: Optimization,
        seed: int = 0,
        black: tuple[float, ...] = (0.0,),
    ) -> None:
        self.epoch = 0
        self._model, self._inputs, self._targets = model, inputs, targets
        self._plan, self._seed, self._black = plan, seed, torch.tensor(black)
        self._optimizer = _optimizer(model, plan)

    def run_epoch(self) -> EpochPass:
        """Pass over the data once; leaves eval mode and no gradients.

        Returns:
            Loss and accuracy, or where the training diverged; it has then not moved on.
        """
        seed = self._seed * 1_000_003 + self.epoch  # a new stream for each epoch
        generator = torch.Generator().manual_seed(seed)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.rate(self.epoch)
        augment = partial(shift_and_flip, fill=self._black, generator=generator)
        self._model.train()
        with random_state_from(generator):
            passed = train_epoch(
                self._model,
                self._optimizer,
                self._inputs,
                self._targets,
                order=torch.randperm(len(self._inputs), generator=generator),
                batch_size=self._plan.batch_size,
                augment=augment if self._plan.augment else None,
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._model.eval()
        if passed.diverged_at is None and not self._is_finite():
            num_steps = -(-len(self._inputs) // self._plan.batch_size)
            passed = replace(passed, loss=math.nan, diverged_at=num_steps)
        if passed.diverged_at is None:
            self.epoch += 1
        return passed

    def _is_finite(self) -> bool:
        """Return whether weights and buffers are, after the last step, too."""
        tensors = self._model.state_dict().values()
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, buffers, the optimizer's state and the epoch's number.

        Args:
            path: A file; it is replaced in one step.
        """
        tensors = {_MODEL + k: v for k, v in self._model.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{_OPTIMIZER}{index}/{name}"] = value
        plain = {name: _on_its_own(tensor) for name, tensor in tensors.items()}
        write_atomically(Path(path), save(plain, metadata={_EPOCH: str(self.epoch)}))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take up what `save` wrote.

        Args:
            path: The file.

        Raises:
            ValueError: If it is no state of such a training.
        """
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = _part(tensors, _MODEL)
        if _EPOCH not in header or weights.keys() != self._model.state_dict().keys():
            raise ValueError(
                f"{path} must be the state of a training of this network; its entries "
                "are others. Start the training anew in another folder."
            )
        self._model.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _part(tensors, _OPTIMIZER).items():
            index, _, name = key.partition("/")
            state.setdefault(int(index), {})[name] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.epoch = int(header[_EPOCH])


def _optimizer(model: nn.Module, plan: Optimization) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if plan.optimizer == "adam":
        return torch.optim.Adam(
            parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=plan.learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
    )


def _on_its_own(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU that shares no memory with another."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
