"""What trainings, and the measures of their epochs, will cost."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eigenscope.budget import resolve
from eigenscope.experiments.costs import jacobian_cost
from eigenscope.experiments.demo import (
    LABELS,
    TRAINED_COPIES,
    DemoPlan,
    demo_data,
    demo_epochs,
    demo_model,
    require_demo_fits,
    trained_for,
)
from eigenscope.experiments.epoch_measures import EpochMeasures, PublishedSpectra
from eigenscope.experiments.preparation import Prepared
from eigenscope.experiments.published import NUM_PRODUCTS
from eigenscope.planning import Plan, Step, plan, plan_of_job, plan_of_measure
from eigenscope.planning.job import Job
from eigenscope.problem import Problem
from eigenscope.training import Optimization, Trainer, evaluate


def training_cost(
    prepared: Mapping[str, Prepared], *, memory: str | int | None, effort: float
) -> Plan:
    """Return what trainings with their measures will cost.

    Args:
        prepared: Experiments by name, their networks and data.
        memory: Budget.
        effort: Seconds for all rehearsals.

    Returns:
        For every experiment a step for its epochs, one for loss and accuracy, and one
        for each measure.
    """
    parts: list[Plan | Step] = []
    for name, one in prepared.items():
        found = _of_experiment(one, memory, effort / len(prepared))
        parts.append(found.named(name) if len(prepared) > 1 else found)
    return Plan.joined("eigenscope train", parts, memory=memory)


def epoch_cost(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    settings: Optimization,
    *,
    seed: int = 0,
    black: tuple[float, ...] = (0.0,),
    effort: float,
) -> Plan:
    """Return what one epoch of a training will cost.

    Args:
        model: The network, of which copies are trained.
        inputs: All samples.
        targets: Their classes.
        settings: How it is trained.
        seed: Of order and augmentation.
        black: What shifted images are filled with.
        effort: Seconds for rehearsals.

    Returns:
        A plan of one step.
    """

    def call_on(size: int) -> Callable[[], object]:
        trainer = Trainer(
            copy.deepcopy(model),
            inputs[:size],
            targets[:size],
            plan=settings,
            seed=seed,
            black=black,
        )
        return trainer.run_epoch

    job = _epoch_job(call_on, model, len(targets), batch_size=settings.batch_size)
    return plan_of_job("epoch", job, effort=effort)


def demo_cost(wanted: DemoPlan, *, effort: float) -> Plan:
    """Return what the demo will cost.

    Args:
        wanted: How it trains.
        effort: Seconds for all rehearsals.

    Returns:
        A step for both trainings, and those of the spectra.

    Raises:
        ValueError: If the memory budget is too small.
    """
    jacobian = require_demo_fits(wanted)
    train, test = demo_data()
    model = demo_model(wanted)
    epochs = sum(demo_epochs(wanted, labels) for labels in LABELS)

    def call_on(size: int) -> Callable[[], object]:
        some = train.inputs[:size], train.targets[:size]
        return partial(trained_for, copy.deepcopy(model), *some, epochs=1, seed=0)

    one = _epoch_job(call_on, model, len(train.targets), batch_size=64)
    training = plan_of_job("training", one, effort=effort / 2).times(epochs)
    problem = Problem(model, (test.inputs, test.targets))
    spectra = jacobian_cost(problem, jacobian, effort=effort / 2)
    both = spectra.times(len(LABELS))
    return Plan.joined("eigenscope demo", [training, both], memory=wanted.memory)


def _of_experiment(prepared: Prepared, memory: str | int | None, effort: float) -> Plan:
    measures = EpochMeasures(prepared, memory=memory)
    epochs = prepared.experiment.training.epochs
    each = effort / (2 + len(measures.sections))
    train = prepared.train
    one = epoch_cost(
        prepared.model,
        train.inputs,
        train.targets,
        prepared.experiment.training,
        seed=prepared.experiment.seed,
        black=train.black,
        effort=each,
    )
    kept = prepared.experiment.training.keep_every
    size = sum(p.numel() * p.element_size() for p in prepared.model.parameters())
    files = (TRAINED_COPIES - 1) * size + (epochs // kept if kept else 0) * size
    state = Step(name="state and weights", method="after every epoch", disk_bytes=files)
    scores = plan_of_job("scores", _scores(prepared), effort=each)
    parts: list[Plan | Step] = [one.times(epochs), state, scores.times(epochs + 1)]
    for name, (_, measure) in measures.sections.items():
        count = measures.num_recordings(name)
        found = _of_measure(name, measure, prepared.model, each)
        parts.append(found.merged(f"{name}, {count} recordings").times(count))
    return Plan.joined("training", parts)


def _of_measure(name: str, measure: Any, model: nn.Module, effort: float) -> Plan:
    if not isinstance(measure, PublishedSpectra):
        return plan_of_measure(name, measure, model, effort=effort)
    parts = measure.parts(model)
    plans = [
        plan(
            part.multiply, torch.ones(part.shape[0], 1), effort=effort / len(parts)
        ).times(NUM_PRODUCTS)
        for part in parts.values()
    ]
    return Plan.joined(name, plans)


def _epoch_job(
    call_on: Callable[[int], Callable[[], object]],
    model: nn.Module,
    num_samples: int,
    *,
    batch_size: int,
) -> Job:
    return Job(
        name="training",
        method=f"batches of {batch_size}",
        num_samples=num_samples,
        device=_device(model),
        call_on=call_on,
        chunk=batch_size,
        budget=resolve(None),
        backward=1.0,
        least=batch_size,
    )


def _scores(prepared: Prepared) -> Job:
    """Return the job of loss and accuracy on both splits."""
    splits = (prepared.train, prepared.test)
    inputs = max((own.inputs for own in splits), key=len)
    targets = max((own.targets for own in splits), key=len)
    total = sum(len(own.targets) for own in splits)

    def call_on(size: int) -> Callable[[], object]:
        return partial(evaluate, prepared.model, *_first(inputs, targets, size))

    return Job(
        name="loss and accuracy",
        method="forward passes",
        reason="training and test data after every epoch",
        num_samples=total,
        device=_device(prepared.model),
        call_on=call_on,
        chunk=250,
        budget=resolve(None),
        least=250,
    )


def _first(inputs: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return inputs[:size], targets[:size]


def _device(model: nn.Module) -> torch.device:
    return next(iter(model.parameters())).device
