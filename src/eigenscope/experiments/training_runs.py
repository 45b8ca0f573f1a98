"""An experiment into a run: train, save the state, measure, epoch by epoch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

from eigenscope.experiments.epoch_measures import EpochMeasures
from eigenscope.experiments.preparation import Prepared
from eigenscope.experiments.records import budget_of
from eigenscope.problem import Batches, state_digest
from eigenscope.progress import progress
from eigenscope.store import Run
from eigenscope.training import History, Recorder, Trainer
from eigenscope.zoo import save_weights

STATE = "training.safetensors"
CHECKPOINTS = "checkpoints"
DIVERGED = "diverged"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """How a training ended.

    Attributes:
        epochs: Epochs that are done and recorded.
        diverged: Where the loss stopped to be finite or the network to be measurable,
            if it did: "epoch" (counted from 1), "learning_rate", and "step" or
            "reason".
    """

    epochs: int
    diverged: dict[str, Any] | None


def run_training(
    run: Run, prepared: Prepared, *, memory: str | int | None = None
) -> TrainingOutcome:
    """Train and record from where the run stands to the last epoch.

    After every epoch the state is saved first and measured then, so a run that was
    killed goes on to the same bits: from the last state, with the recordings that
    are there left as they are. A training whose loss stops to be finite, or whose
    network can no longer be measured, as when products overflow, ends there; its
    recordings stay, and the run is not complete.

    Args:
        run: A run that is open for writing.
        prepared: The experiment, its network and data.
        memory: Budget; None for what the run began with.

    Returns:
        How it ended.

    Raises:
        ValueError: If data or first weights are not those that the run started with.
        OSError: If the disk is full; what is done stays.

    Cost:
        The training, and what the measures cost.
    """
    experiment, plan = prepared.experiment, prepared.experiment.training
    _require_same_start(run, prepared)
    measures = EpochMeasures(prepared, memory=budget_of(run, memory))
    run.record_result("class_names", list(prepared.train.class_names))
    for name, size in _sizes(prepared).items():
        run.record_result(name, size)
    trainer = Trainer(
        prepared.model,
        *prepared.train.first(None),
        plan=plan,
        seed=experiment.seed,
        black=prepared.train.black,
    )
    state = run.results_path(STATE)
    if state.exists():
        trainer.load(state)
    label = f"training {experiment.name}"
    left = range(trainer.epoch, plan.epochs + 1)
    for epoch in progress(left, label=label, total=plan.epochs + 1, done=trainer.epoch):
        if epoch > trainer.epoch:
            with run.stage("training"):
                passed = trainer.run_epoch()
            if passed.diverged_at is not None:
                return _ended(run, prepared, epoch, step=passed.diverged_at)
            trainer.save(state)
        if plan.keep_every and epoch % plan.keep_every == 0:
            save_weights(prepared.model, checkpoint_path(run, epoch))
        try:
            Recorder(run, measures.at(epoch)).record(prepared.model, epoch)
        except ValueError as error:
            if epoch == 0:  # not what the training has made of it
                raise
            return _ended(run, prepared, epoch, reason=str(error))
    _record_end(run)
    run.complete()
    return TrainingOutcome(epochs=plan.epochs, diverged=None)


def checkpoint_path(run: Run, epoch: int) -> Path:
    """Return where the weights after an epoch are kept."""
    return run.path / CHECKPOINTS / f"epoch_{epoch:06d}.safetensors"


def _sizes(prepared: Prepared) -> dict[str, int]:
    """Return numbers of samples, of parameters and of layers with a matrix."""
    sizes = [parameter.numel() for parameter in prepared.model.parameters()]
    matrices = [p for p in prepared.model.parameters() if p.ndim > 1]
    return {
        "num_train": len(prepared.train.targets),
        "num_test": len(prepared.test.targets),
        "num_parameters": sum(sizes),
        "num_weight_layers": len(matrices),
    }


def _require_same_start(run: Run, prepared: Prepared) -> None:
    """Compare training data and first weights with those that the run started with.

    Raises:
        ValueError: If they differ.
    """
    data = Batches(
        prepared.train.first(None),
        batch_size=None,
        labels="labels",
        device=None,
        dtype=None,
    )
    found: dict[str, Any] = {
        "data": data.fingerprint(),
        "weights": state_digest(prepared.model),
    }
    recorded = cast("dict[str, Any] | None", run.settings.get("fingerprint"))
    if recorded is None:
        run.record_settings({"fingerprint": found})
        return
    changed = [name for name in found if found[name] != recorded.get(name)]
    if changed:
        raise ValueError(
            f"a training must go on with the data and the first weights that it "
            f"started with; the {' and the '.join(changed)} of {run.path} differ now. "
            "Give the original ones, or start a new run in another folder."
        )


def _ended(run: Run, prepared: Prepared, epoch: int, **how: Any) -> TrainingOutcome:
    """Record where a training ended before its time: at a step, or for a reason."""
    rate = prepared.experiment.training.rate(epoch - 1)
    where: dict[str, Any] = {"epoch": epoch, "learning_rate": rate, **how}
    run.record_result(DIVERGED, where)
    _record_end(run)
    return TrainingOutcome(epochs=epoch - 1, diverged=where)


def _record_end(run: Run) -> None:
    """Record loss and accuracy after the last epoch as the run's summary."""
    history = History.load(run)
    last = history.entries[history.numbers[-1]]
    for name in ("loss/train", "loss/test", "accuracy/train", "accuracy/test"):
        run.record_result(name.replace("/", "_"), last[name])
    run.record_result("epochs", history.numbers[-1])
