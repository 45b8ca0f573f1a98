"""The demo: one network, trained on true and on random labels, and its spectra."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.budget import require_fits
from eigenscope.experiments.jacobian_spectra import (
    JacobianPlan,
    prepare_jacobian,
    run_jacobian_spectra,
)
from eigenscope.problem import Problem
from eigenscope.progress import progress
from eigenscope.store import Run
from eigenscope.training import TrainingLog, accuracy, train_classifier
from eigenscope.zoo import ImageData, build_model, load_data, load_weights, save_weights

LABELS = ("true", "random")
TRAINED_COPIES: Final = 3  # weights, gradients, momentum
DEMO_JACOBIAN: Final = JacobianPlan(outputs=("logits", "probabilities"), num_vectors=4)
_BATCH_SIZE = 64
_LEARNING_RATE = 0.02


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """How the demo trains.

    Attributes:
        epochs: Epochs with true labels; random ones, which are memorized one by one,
            take four times as many.
        seed: Seed of weights, order and random labels.
        memory: Budget such as "4GiB"; None for half of what is available.
    """

    epochs: int = 30
    seed: int = 0
    memory: str | int | None = None


def run_demo(out: Path, plan: DemoPlan) -> dict[str, Run]:
    """Train LeNet on the digits with true and with random labels; compute spectra.

    Both networks start from the same weights. Spectra are those of the test images'
    Jacobian, logits and probabilities, n × k·d.

    Args:
        out: Folder; what is in it from an earlier demo of the same plan is used again.
        plan: How to train.

    Returns:
        The finished runs by kind of labels.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If the memory budget is too small, before anything is trained.

    Cost:
        About a minute on two cores.
    """
    train, test = demo_data()
    jacobian = require_demo_fits(plan)
    runs: dict[str, Run] = {}
    for labels in LABELS:
        targets = train.targets
        if labels == "random":
            source = torch.Generator().manual_seed(plan.seed)
            targets = torch.randint(10, targets.shape, generator=source)
        path = out / f"{labels}-labels"
        arguments: dict[str, JsonValue] = {
            "model": "lenet",
            "data": "digits",
            "split": "test",
            "labels": labels,
            "epochs": demo_epochs(plan, labels),
            "batch_size": _BATCH_SIZE,
            "learning_rate": _LEARNING_RATE,
            "outputs": ["logits", "probabilities"],
            "layouts": ["samples"],
            "seed": plan.seed,
        }
        started = (path / "manifest.json").exists()
        begin = Run.resume if started else Run.create
        with begin(path, verb="demo", arguments=arguments) as run:
            model = _trained(run, train.inputs, targets, plan)
            run.record_result("train_accuracy", accuracy(model, train.inputs, targets))
            run.record_result("class_names", list(test.class_names))
            problem = Problem(model, (test.inputs, test.targets))
            run_jacobian_spectra(run, problem, jacobian)
        runs[labels] = Run.open(path)
    return runs


def require_demo_fits(plan: DemoPlan) -> JacobianPlan:
    """Return what is computed of the networks, if it and their training fit.

    Args:
        plan: How to train, and in what memory.

    Returns:
        The outputs and the memory of the Jacobians.

    Raises:
        ValueError: If they do not fit.
    """
    train, test = demo_data()
    model = demo_model(plan)
    weights = sum(param.nbytes for param in model.parameters())
    images = train.inputs.nbytes + test.inputs.nbytes
    require_fits(
        images + TRAINED_COPIES * weights,
        plan.memory,
        what="the digits and a LeNet that is trained",
        way_out="or leave the budget out",
    )
    jacobian = replace(DEMO_JACOBIAN, memory=plan.memory)
    prepare_jacobian(Problem(model, (test.inputs, test.targets)), jacobian)
    return jacobian


def demo_data() -> tuple[ImageData, ImageData]:
    """Return the digits' training and test images."""
    return load_data("digits", split="train"), load_data("digits")


def demo_model(plan: DemoPlan) -> torch.nn.Module:
    """Return the network with its first weights."""
    shape = (1, 32, 32)
    return build_model("lenet", sample_shape=shape, num_classes=10, seed=plan.seed)


def demo_epochs(plan: DemoPlan, labels: str) -> int:
    """Return the epochs for true or random labels."""
    return plan.epochs if labels == "true" else 4 * plan.epochs


def trained_for(
    model: torch.nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    seed: int,
    tick: Callable[[TrainingLog], None] | None = None,
) -> None:
    """Train the network as the demo does."""
    with _one_thread():
        train_classifier(
            model,
            inputs,
            targets,
            epochs=epochs,
            batch_size=_BATCH_SIZE,
            learning_rate=_LEARNING_RATE,
            generator=torch.Generator().manual_seed(seed),
            progress=tick,
        )


@contextmanager
def _one_thread() -> Generator[None]:
    """Train so small a network on one thread: several wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _trained(
    run: Run, inputs: Tensor, targets: Tensor, plan: DemoPlan
) -> torch.nn.Module:
    """Return the trained network, from the run if an earlier demo has trained it."""
    model = demo_model(plan)
    weights = run.results_path("weights.safetensors")
    if weights.exists():
        load_weights(model, weights)
        return model.eval()
    epochs = int(str(run.arguments["epochs"]))
    label = f"training, {run.arguments['labels']} labels"
    ticks = progress(range(epochs), label=label, total=epochs)

    def tick(log: TrainingLog) -> None:
        del log
        next(ticks, None)

    next(ticks)
    with run.stage("training"):
        trained_for(model, inputs, targets, epochs=epochs, seed=plan.seed, tick=tick)
    save_weights(model, weights)
    return model
