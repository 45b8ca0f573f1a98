"""The recorder inside real trainers, and recordings in real logs."""

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import eigenscope as es
from eigenscope.store import Run

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(20, 4, generator=SOURCE)
Y = torch.randint(3, (20,), generator=SOURCE)


def measures() -> dict[str, Any]:
    loss = nn.CrossEntropyLoss()
    return {
        "jacobian": es.JacobianSpectrum(X[:6]),
        "trace": es.CurvatureTrace((X[:6], Y[:6]), loss, num_matvecs=4),
    }


def seeded(seed: int = 0) -> None:
    torch.default_generator.manual_seed(seed)


def net() -> nn.Sequential:
    seeded()
    parts = (nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(*parts, nn.Linear(5, 3))


def lightning_fit(
    folder: Path, recorder: es.Recorder | None, by: Any, last: str | None = None
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Fit three epochs of three steps; return the trainer and the final weights."""
    L: Any = importlib.import_module("lightning.pytorch")

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    model = Module()
    callbacks = []
    if recorder is not None:
        callbacks = [es.lightning_callback(recorder, by=by, module="net")]
    seeded(1)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)
    trainer.fit(model, loader, ckpt_path=last)
    return trainer, model.net.state_dict()


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # Lightning's own advice
@pytest.mark.parametrize("by", ["epoch", "step"])
def test_a_lightning_training_is_recorded_and_the_same_to_the_bit(tmp_path, by):
    with torch.random.fork_rng():
        _, expected = lightning_fit(tmp_path, None, by)
        with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
            schedule = es.Schedule.every(1 if by == "epoch" else 3)
            recorder = es.Recorder(run, measures(), schedule=schedule)
            trainer, found = lightning_fit(tmp_path, recorder, by)
        trainer.save_checkpoint(tmp_path / "saved" / "epoch=2-step=9.ckpt")
    numbers = (0, 1, 2, 3) if by == "epoch" else (0, 3, 6, 9)
    assert recorder.history().numbers == numbers
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    # the checkpoint that Lightning wrote, which counts epochs from 0, gives the same
    with Run.create(tmp_path / "series", verb="series", arguments={}) as run:
        late = es.record_series(
            run, net(), tmp_path / "saved", measures(), counter=by
        ).spectra("jacobian")
    (last,) = late.values()
    found = recorder.history().spectra("jacobian")[numbers[-1]]
    assert last.values.tolist() == found.values.tolist()


class Classifier(nn.Module):
    """What a Hugging Face Trainer trains: keywords in, loss and logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        logits = self.net(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def transformers_train(
    folder: Path, recorder: es.Recorder | None, by: Any
) -> dict[str, torch.Tensor]:
    transformers: Any = importlib.import_module("transformers")
    model = Classifier()
    callbacks = []
    if recorder is not None:
        callbacks = [es.transformers_callback(recorder, by=by, module="net")]
    rows = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "hf"),
        num_train_epochs=3,
        per_device_train_batch_size=8,
        save_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=callbacks
    )
    trainer.train()
    return model.net.state_dict()


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # the Trainer's own advice
@pytest.mark.parametrize("by", ["epoch", "step"])
def test_a_hugging_face_training_is_recorded_and_the_same_to_the_bit(tmp_path, by):
    with torch.random.fork_rng():
        expected = transformers_train(tmp_path, None, by)
        with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
            schedule = es.Schedule.every(1 if by == "epoch" else 3)
            recorder = es.Recorder(run, measures(), schedule=schedule)
            found = transformers_train(tmp_path, recorder, by)
    numbers = (0, 1, 2, 3) if by == "epoch" else (0, 3, 6, 9)
    assert recorder.history().numbers == numbers
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    if by == "step":  # the folders that the Trainer wrote are found and load
        with Run.create(tmp_path / "series", verb="series", arguments={}) as run:
            late = es.record_series(run, net(), tmp_path / "hf", measures())
        assert late.numbers == (3, 6, 9)
        recorded = recorder.history().spectra("jacobian")
        for number, spectrum in late.spectra("jacobian").items():
            assert spectrum.values.tolist() == recorded[number].values.tolist()


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # of the imports
def test_epochs_cut_short_and_other_processes_are_not_recorded(tmp_path):
    transformers: Any = importlib.import_module("transformers")
    given = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    control = transformers.TrainerControl()
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        recorder = es.Recorder(run, measures())
        callback = es.transformers_callback(recorder, by="epoch")
        for epoch in (1.0, 1.9999, 2 - 1e-9, 2.67):  # the last by `max_steps`
            state = transformers.TrainerState(epoch=epoch, global_step=1)
            callback.on_epoch_end(given, state, control, model=net())
            assert recorder.history().numbers == ((1,) if epoch < 1.99995 else (1, 2))
        other = transformers.TrainerState(epoch=3.0, is_world_process_zero=False)
        callback.on_epoch_end(given, other, control, model=net())  # another process
        callback.on_train_begin(given, other, control, model=net())
    assert recorder.history().numbers == (1, 2)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # tensorboard's own
def test_tensorboard_gets_scalars_and_histograms(tmp_path):
    tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
    reading: Any = importlib.import_module(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    model = net().eval()
    with (
        Run.create(tmp_path / "run", verb="train", arguments={}) as run,
        tensorboard.SummaryWriter(tmp_path / "log") as writer,
    ):
        sink = es.TensorBoardSink(writer)
        recorder = es.Recorder(run, measures(), sinks=[sink])
        recorder.record(model, 3)
        recorder.record(model, 3)
    log = reading.EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    history = recorder.history()
    spectrum = history.spectra("jacobian")[3]
    (largest,) = log.Scalars("eigenscope/jacobian/lambda_max")
    assert (largest.step, largest.value) == (3, pytest.approx(spectrum.values[-1]))
    (trace,) = log.Scalars("eigenscope/trace/full")
    assert trace.value == pytest.approx(history.entries[3]["trace/full"][0])
    assert log.Scalars("eigenscope/trace/full/stderr")
    (drawn,) = log.Histograms("eigenscope/jacobian")
    assert sum(drawn.histogram_value.bucket) == pytest.approx(spectrum.dimension)


@pytest.mark.peer
def test_weights_and_biases_get_them_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        wandb: Any = importlib.import_module("wandb")
        logged = wandb.init(project="test", dir=str(tmp_path))
        with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
            recorder = es.Recorder(run, measures(), sinks=[es.WandbSink(logged)])
            recorder.record(net().eval(), 3)
        summary = dict(logged.summary)
        logged.finish()
    spectrum = recorder.history().spectra("jacobian")[3]
    assert summary["eigenscope/number"] == 3
    assert summary["eigenscope/jacobian/lambda_max"] == spectrum.values[-1]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.message
@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (es.lightning_callback, "lightning", "lightning"),
        (es.transformers_callback, "transformers", "transformers"),
    ],
)
def test_a_library_that_is_absent_is_named(monkeypatch, make, module, extra):
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=module)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    unused: Any = None
    with pytest.raises(ImportError, match=rf"pip install 'eigenscope\[{extra}\]'"):
        make(unused)
    with pytest.raises(ValueError, match="by must be one of 'epoch', 'step'; got"):
        make(unused, by="batch")
