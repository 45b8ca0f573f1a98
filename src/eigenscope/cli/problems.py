"""The problem that the options name: data, model, weights, device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from eigenscope.cli.options import OutputName, ProblemOptions
from eigenscope.experiments.preparation import usable_device
from eigenscope.problem import Problem
from eigenscope.zoo import (
    ImageData,
    build_model,
    data_from_factory,
    is_factory,
    load_data,
    load_weights,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NamedProblem:
    """A problem and what its data calls the classes.

    Attributes:
        problem: Model and data.
        class_names: By class; None if the data does not say.
    """

    problem: Problem
    class_names: list[str] | None


def problem_of(
    options: ProblemOptions,
    *,
    output: OutputName = "logits",
    loss: Any = None,
    params: Sequence[str] | None = None,
) -> NamedProblem:
    """Load the data, build the model and load its weights.

    Args:
        options: Of the command line.
        output: What is differentiated.
        loss: The loss, for its curvature.
        params: Names or globs of parameters; None for all that require gradients.

    Returns:
        The problem, its model in eval mode, and the names of the classes.

    Raises:
        ValueError: If a name, a file or the device is wrong, or they do not fit.
        OSError: If a file is missing.
        ImportError: If an extra is missing.
    """
    device = usable_device(options.device)
    data = _data(options)
    pairs = (data.inputs, data.targets) if isinstance(data, ImageData) else data
    class_names = _class_names(data)
    model = build_model(
        options.model,
        sample_shape=_sample_shape(options.model, pairs),
        num_classes=len(class_names) if class_names else _num_classes(pairs),
        seed=options.seed,
    )
    if options.weights is not None:
        load_weights(model, options.weights)
    model = model.to(device=device, dtype=getattr(torch, options.dtype)).eval()
    problem = Problem(
        model,
        pairs,
        loss=loss,
        output=output,
        params=params,
        batch_size=options.batch_size,
    )
    return NamedProblem(problem=problem, class_names=class_names)


def _data(options: ProblemOptions) -> Any:
    chosen: dict[str, Any] = {
        "root": options.data_root,
        "split": options.split,
        "num_samples": options.num_samples,
        "per_class": options.per_class,
    }
    if is_factory(options.data):
        return data_from_factory(options.data, **chosen)
    return load_data(options.data, **chosen)


def _sample_shape(model: str, data: Any) -> tuple[int, ...]:
    """Return the shape of one sample, () where mappings go to the user's own model.

    Raises:
        TypeError: If a model by name is to be built for mappings.
    """
    inputs = _first_inputs(data)
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape[1:])
    if not is_factory(model):
        raise TypeError(
            f"a model by name takes batches of tensors, and the first batch of this "
            f"data is a {type(inputs).__name__}; pass --model package.module:factory."
        )
    return ()


def _first_inputs(data: Any) -> object:
    """Return inputs with a sample axis, of the first batch or of all samples."""
    if isinstance(data, Tensor):
        return data
    if isinstance(data, tuple):
        return cast("tuple[object, ...]", data)[0]
    if isinstance(data, Dataset):
        sample = cast("Any", data)[0] if len(cast("Any", data)) else None
        first = sample[0] if isinstance(sample, tuple | list) else sample
        return first[None] if isinstance(first, Tensor) else first
    batch = next(iter(cast("Iterable[Any]", data)), None)
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _class_names(data: Any) -> list[str] | None:
    """Return the data's `class_names`, or `classes` as torchvision spells it."""
    if isinstance(data, ImageData):
        return list(data.class_names)
    source = getattr(data, "dataset", data)
    classes = getattr(source, "classes", None)
    if isinstance(classes, Mapping) or not isinstance(classes, Iterable):
        return None
    return [str(name) for name in cast("Iterable[object]", classes)]


def _num_classes(data: Any) -> int | None:
    """Return the largest class in a tensor of targets plus one, if there is one."""
    targets = cast("tuple[Any, ...]", data)[1] if isinstance(data, tuple) else None
    if not isinstance(targets, Tensor) or targets.ndim != 1 or not len(targets):
        return None
    return None if targets.is_floating_point() else int(targets.max()) + 1
