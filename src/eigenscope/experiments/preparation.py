"""Model and data of an experiment, made once all that can be wrong has been checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from eigenscope.experiments.configuration import (
    DataSection,
    Experiment,
    HessianSection,
    ModelSection,
)
from eigenscope.experiments.images import Images, load_split
from eigenscope.experiments.tables import read_table
from eigenscope.problem import call_model, left_as_found
from eigenscope.zoo import (
    build_model,
    data_names,
    is_factory,
    load_weights,
    model_names,
)
from eigenscope.zoo.factories import import_factory
from eigenscope.zoo.names import resolve_name

_EXPLAINED = (OSError, ValueError, ImportError, TypeError)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What an experiment runs on.

    Attributes:
        experiment: The experiment.
        model: The network, with its first weights, in eval mode.
        train: Training images, with label noise where it was asked for.
        test: Test images.
        hessian_data: Images and labels of the Hessian spectra, if there are any.
    """

    experiment: Experiment
    model: nn.Module
    train: Images
    test: Images
    hessian_data: tuple[Tensor, Tensor] | None


def prepare_experiment(experiment: Experiment, *, device: str = "cpu") -> Prepared:
    """Load the data and build the network.

    Args:
        experiment: The experiment.
        device: Where the network runs.

    Returns:
        Both, on the device.

    Raises:
        ValueError: If device, model, weights or data are wrong or do not fit.
        OSError: If files are missing.
    """
    place = usable_device(device)
    train, test = (load_split(experiment.data, split) for split in ("train", "test"))
    model = _built(experiment.model, train, experiment.seed).to(place).eval()
    chosen = None
    if experiment.hessian is not None:
        chosen = train.of_each_class(experiment.hessian.per_class)
        chosen = (chosen[0].to(place), chosen[1].to(place))
    return Prepared(
        experiment=experiment,
        model=model,
        train=train.to(place),
        test=test.to(place),
        hessian_data=chosen,
    )


def usable_device(name: str) -> torch.device:
    """Return a device by name, once a tensor could be made there.

    Args:
        name: As on the command line, such as "cuda:1".

    Returns:
        The device.

    Raises:
        ValueError: If this torch cannot use it here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device must be one that this torch can use here, such as cpu; got "
            f"{name!r}: {reason}"
        ) from error


def outside_faults(table: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with files, model and data that a table names.

    Args:
        table: Of an experiment; sections that are wrong in themselves are left out.

    Returns:
        One line for each fault.

    Cost:
        Reading the data and building the network.
    """
    faults: list[str] = []
    data = _section(DataSection, table.get("data"))
    model = _section(ModelSection, table.get("model"))
    hessian = _section(HessianSection, table.get("hessian"))
    if model is not None:
        faults += _model_faults(model)
    if data is None:  # what is wrong with its other entries is said elsewhere
        faults += _name_faults("data", table.get("data"), data_names())
    train: Images | None = None
    for split in ("test", "train"):
        if data is not None:
            try:
                train = load_split(data, split)
            except _EXPLAINED as error:
                faults.append(f"data: {error}")
                train = None
    if train is not None and model is not None and not faults:
        try:
            _built(model, train, 0)
        except _EXPLAINED as error:
            faults.append(f"model: {error}")
    if train is not None and hessian is not None:
        try:
            train.of_each_class(hessian.per_class)
        except ValueError as error:
            faults.append(str(error))
    return list(dict.fromkeys(faults))


def _model_faults(model: ModelSection) -> list[str]:
    """Return what is wrong with names, before there is data to build a network for."""
    faults = _name_faults("model", {"name": model.name}, model_names())
    if model.weights is not None and not Path(model.weights).expanduser().is_file():
        place = Path(model.weights).expanduser().absolute()
        faults.append(f"model.weights must be a file; there is none at {place}")
    return faults


def _name_faults(kind: str, table: Any, known: Sequence[str]) -> list[str]:
    """Return what is wrong with the name of a model or of data, if it has one."""
    name: Any = table.get("name") if isinstance(table, Mapping) else None
    if not isinstance(name, str):
        return []
    try:
        if is_factory(name):
            import_factory(kind, name)
        else:
            resolve_name(f"{kind}.name", name, known)
    except _EXPLAINED as error:
        return [str(error)]
    return []


def _built(section: ModelSection, images: Images, seed: int) -> nn.Module:
    model = build_model(
        section.name,
        sample_shape=tuple(images.inputs.shape[1:]),
        num_classes=len(images.class_names),
        seed=seed,
    )
    if section.weights is not None:
        load_weights(model, Path(section.weights).expanduser())
    _require_scores(model, section.name, images)
    return model


def _require_scores(model: nn.Module, name: str, images: Images) -> None:
    """Raise unless the network gives a number for every class of each of two images.

    Their values may overflow: before training, BatchNorm normalizes by nothing in eval
    mode, and a hundred layers that double a number are beyond float32.

    Raises:
        ValueError: If the outputs are of another shape.
    """
    inputs, classes = images.inputs[:2], len(images.class_names)
    model.eval()
    with torch.no_grad(), left_as_found(model):
        shape = tuple(call_model(model, inputs).shape)
    if len(shape) != 2 or shape[0] != len(inputs) or shape[1] < classes:
        raise ValueError(
            f"a network must give one row for each image, with a number for each of "
            f"{classes} classes; {name} gives {shape} for {len(inputs)} images"
        )


def _section(kind: Any, table: Any) -> Any:
    """Return a section by itself, None if it is absent or too wrong to be used."""
    if not isinstance(table, Mapping):
        return None
    return read_table(kind, table)[0]
