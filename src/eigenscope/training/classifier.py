"""A small honest trainer for classifiers that fit in memory with their data."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """One entry for each epoch, measured while the weights change.

    Attributes:
        losses: Mean cross-entropy over the epoch, each sample at the step that saw it.
        accuracies: Share of right answers, likewise; from 0 to 1.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPass:
    """One pass over the data, measured while the weights changed.

    Attributes:
        loss: Mean cross-entropy; the first that is not finite after a divergence.
        accuracy: Share of right answers.
        diverged_at: Step whose loss was not finite; None if all were.
    """

    loss: float
    accuracy: float
    diverged_at: int | None = None


def train_classifier(
    model: nn.Module,
    inputs: Float[Tensor, "sample *shape"],
    targets: Int64[Tensor, "sample"],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    generator: torch.Generator | None = None,
    progress: Callable[[TrainingLog], None] | None = None,
) -> TrainingLog:
    """Minimise the mean cross-entropy by SGD with momentum at a constant rate.

    Every epoch visits all samples once in a fresh random order; the last batch may be
    smaller. No augmentation. Order and dropout depend on `generator` alone and the
    caller's random state is left as it was. Afterwards the model is in eval mode
    and no parameter has a `.grad`.

    Args:
        model: The classifier, trained in place in training mode.
        inputs: All samples, on the model's device.
        targets: Their classes.
        epochs: Passes over the data, at least 1.
        batch_size: Samples in each step, at least 1.
        learning_rate: Step size, constant.
        momentum: Momentum of SGD, 0 for none.
        weight_decay: Coefficient λ of λ‖θ‖²/2, added to the loss.
        generator: Source of all randomness, on the CPU; a fresh one with a fixed seed
            if None.
        progress: Called after each epoch with the log so far.

    Returns:
        Loss and accuracy of each epoch.

    Raises:
        ValueError: If there is not one target for each input, a count is less than 1,
            or the loss becomes infinite or not a number.

    Cost:
        `epochs` forward and backward passes over the data.

    Example:
        >>> inputs, targets = torch.eye(2), torch.arange(2)
        >>> model = nn.Linear(2, 2)
        >>> log = train_classifier(
        ...     model, inputs, targets, epochs=20, batch_size=2, learning_rate=1.0
        ... )
        >>> log.accuracies[-1], accuracy(model, inputs, targets)
        (1.0, 1.0)
    """
    _require_pairs(inputs, targets)
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            "epochs and batch_size must be at least 1, got "
            f"epochs={epochs} and batch_size={batch_size}."
        )
    generator = generator or torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    log = TrainingLog(losses=(), accuracies=())
    model.train()
    with random_state_from(generator):
        for _ in range(epochs):
            order = torch.randperm(len(inputs), generator=generator)
            passed = train_epoch(
                model, optimizer, inputs, targets, order=order, batch_size=batch_size
            )
            if passed.diverged_at is not None:
                raise ValueError(
                    f"the loss must stay finite, got {passed.loss} at step "
                    f"{passed.diverged_at} of an epoch "
                    f"(learning_rate={learning_rate}); lower learning_rate, or check "
                    "inputs and weights for such values."
                )
            log = TrainingLog(
                losses=(*log.losses, passed.loss),
                accuracies=(*log.accuracies, passed.accuracy),
            )
            if progress is not None:
                progress(log)
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return log


def evaluate(
    model: nn.Module,
    inputs: Float[Tensor, "sample *shape"],
    targets: Int64[Tensor, "sample"],
    *,
    batch_size: int = 250,
) -> tuple[float, float]:
    """Mean cross-entropy and share of right answers over all samples, in eval mode.

    Args:
        model: The classifier; every module's mode is left as it was.
        inputs: The samples, on the model's device.
        targets: Their classes.
        batch_size: Samples in each forward pass; changes the result by rounding only.

    Returns:
        The loss and the accuracy, from 0 to 1.

    Raises:
        ValueError: If there is not one target for each input, or none at all.

    Cost:
        One forward pass over the data.

    Example:
        >>> loss, right = evaluate(nn.Identity(), 9 * torch.eye(2), torch.arange(2))
        >>> round(loss, 6), right
        (0.000123, 1.0)
    """
    _require_pairs(inputs, targets)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, right = 0.0, 0
    try:
        with torch.inference_mode():
            for x, y in zip(
                inputs.split(batch_size), targets.split(batch_size), strict=True
            ):
                outputs = model(x)
                total += cross_entropy(outputs, y, reduction="sum").item()
                right += _num_right(outputs, y)
    finally:
        for module, mode in modes:
            module.training = mode
    return total / len(inputs), right / len(inputs)


def accuracy(
    model: nn.Module,
    inputs: Float[Tensor, "sample *shape"],
    targets: Int64[Tensor, "sample"],
    *,
    batch_size: int = 1000,
) -> float:
    """Share of samples whose largest output is that of their class, in eval mode.

    Args:
        model: The classifier; every module's mode is left as it was.
        inputs: The samples, on the model's device.
        targets: Their classes.
        batch_size: Samples in each forward pass; does not change the result.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: If there is not one target for each input, or none at all.

    Cost:
        One forward pass over the data.

    Example:
        >>> accuracy(nn.Identity(), torch.eye(3), torch.tensor([0, 1, 0]))
        0.6666666666666666
    """
    return evaluate(model, inputs, targets, batch_size=batch_size)[1]


@contextmanager
def random_state_from(generator: torch.Generator) -> Generator[None]:
    """Seed torch's own generator from ours, then give the caller's state back."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Float[Tensor, "sample *shape"],
    targets: Int64[Tensor, "sample"],
    *,
    order: Int64[Tensor, "sample"],
    batch_size: int,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> EpochPass:
    """Take one step for each batch of samples in a given order.

    Args:
        model: The classifier, changed in place, in the mode that it is in.
        optimizer: Of its parameters.
        inputs: All samples, on the model's device.
        targets: Their classes.
        order: Numbers of the samples.
        batch_size: Samples in each step; the last batch may be smaller.
        augment: Changes a batch of inputs before the model sees it.

    Returns:
        Loss and accuracy; or where the loss stopped to be finite, with no step taken
        from there.
    """
    total, right = 0.0, 0
    for step, chosen in enumerate(order.to(inputs.device).split(batch_size)):
        batch = inputs[chosen] if augment is None else augment(inputs[chosen])
        outputs = model(batch)
        loss = cross_entropy(outputs, targets[chosen])
        if not torch.isfinite(loss):
            return EpochPass(
                loss=loss.item(), accuracy=right / len(inputs), diverged_at=step
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chosen)
        right += _num_right(outputs.detach(), targets[chosen])
    return EpochPass(loss=total / len(inputs), accuracy=right / len(inputs))


def _num_right(outputs: Tensor, targets: Tensor) -> int:
    return int((outputs.argmax(dim=1) == targets).sum())


def _require_pairs(inputs: Tensor, targets: Tensor) -> None:
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ValueError(
            "there must be one target for each input and at least one of them, got "
            f"{len(inputs)} inputs and {len(targets)} targets."
        )
