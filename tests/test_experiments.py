"""Experiments as files: what they hold, and everything that is wrong with one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import enter_folder, factory

from eigenscope.experiments.catalog import (
    arguments_of_experiment,
    experiment_names,
    read_study,
    recorded_experiment,
)
from eigenscope.experiments.images import load_split, noisy_labels
from eigenscope.experiments.tables import merged, nested
from eigenscope.training import Optimization
from eigenscope.zoo import build_model

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))
TINY = """
seed = 3
[model]
name = "nets_of_mine:net"
[data]
name = "nets_of_mine:pairs"
[training]
epochs = 2
batch_size = 7
learning_rate = 0.1
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def written(text: str, name: str = "tiny.toml") -> str:
    Path(name).write_text(text)
    return name


PUBLISHED = {
    "lenet-mnist": (1e-2, 0, 256),
    "lenet-fashion-mnist": (1e-2, 0, 256),
    "lenet-svhn": (1e-2, 0, 128),
    "lenet-cifar10": (1e-2, 1e-4, 256),
    "vgg11-bn-mnist": (5e-3, 5e-5, 128),
    "vgg11-bn-fashion-mnist": (1e-3, 0, 256),
    "vgg11-bn-svhn": (1e-2, 1e-4, 128),
    "vgg11-bn-cifar10": (1e-2, 0, 256),
    "resnet18-mnist": (1e-2, 1e-4, 128),
    "resnet18-fashion-mnist": (5e-3, 5e-5, 128),
    "resnet18-svhn": (1e-3, 0, 256),
    "resnet18-cifar10": (1e-2, 1e-4, 128),
}


def test_the_twelve_pairs_are_trained_as_published(monkeypatch):
    monkeypatch.setattr("eigenscope.experiments.catalog.outside_faults", lambda _: [])
    study = read_study("layer-hessians")
    assert set(study.experiments) == set(PUBLISHED)
    for name, experiment in study.experiments.items():
        rate, decay, batch = PUBLISHED[name]
        assert experiment.training == Optimization(
            epochs=50, batch_size=batch, learning_rate=rate, weight_decay=decay
        )
        assert f"{experiment.model.name}-{experiment.data.name}" == name
        assert experiment.seed == 0
        assert experiment.hessian is not None
        assert (experiment.hessian.per_class, experiment.hessian.every) == (10, 1)


def test_every_experiment_that_comes_along_is_sound(monkeypatch):
    monkeypatch.setattr("eigenscope.experiments.catalog.outside_faults", lambda _: [])
    for name in experiment_names():
        study = read_study(name, changes=["training.epochs=1", "data.root=here"])
        assert study.description
        for experiment in study.experiments.values():
            assert experiment.training.epochs == 1
            assert experiment.data.root == str(Path("here").absolute())
            again = recorded_experiment(arguments_of_experiment(experiment))
            assert replace(experiment, description="") == again


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_sound(path, monkeypatch):
    monkeypatch.setattr("eigenscope.experiments.catalog.outside_faults", lambda _: [])
    study = read_study(str(path))
    assert study.description
    assert study.experiments


@pytest.mark.vision
def test_blocks_of_the_example_begin_as_the_identity(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    largest = {}
    for name in ("resnet56_cifar10", "identity_resnets:resnet56"):
        model = build_model(name, sample_shape=(3, 32, 32), num_classes=10).eval()
        with torch.no_grad():
            largest[name] = float(model(images).abs().max())
    plain, identity = largest.values()
    assert plain > 1e4
    assert identity < 10


def test_variants_replace_entries_of_the_file():
    text = TINY + (
        '[[variants]]\nname = "slow"\ntraining.learning_rate = 0.01\n'
        '[[variants]]\nname = "long"\ntraining.epochs = 9\nhessian = {per_class = 2}\n'
    )
    found = read_study(written(text)).experiments
    slow, long = found["slow"], found["long"]
    assert slow.name == "tiny-slow"
    assert (slow.training.learning_rate, slow.training.epochs) == (0.01, 2)
    assert (long.training.learning_rate, long.training.epochs) == (0.1, 9)
    assert slow.hessian is None
    assert long.hessian is not None


@pytest.mark.message
def test_everything_that_is_wrong_is_said_at_once():
    text = (
        'sede = 1\n[model]\nname = "lennet"\n[data]\nname = "fasion-mnist"\n'
        'label_noise = 2.0\n[training]\nepochs = "fifty"\nbatch_size = 0\n'
        'learning_rat = 0.1\noptimizer = "sdg"\naugment = 1\nmilestones = [1, true]\n'
        "[hessian]\nper_class = 0\n[jacobian]\nnum_samples = 1.5\n"
    )
    with pytest.raises(ValueError, match="must be without faults; it has 13") as caught:
        read_study(written(text))
    message = str(caught.value)
    for fault in (
        "sede is no key here; the nearest are seed, model",
        "training.learning_rat is no key here; the nearest are learning_rate",
        "training.learning_rate is required and missing",
        "training.epochs must be a whole number; got 'fifty'",
        "training.batch_size must be at least 1; got 0",
        "training.optimizer must be one of 'sgd', 'adam'; got 'sdg'",
        "training.augment must be true or false; got 1",
        "training.milestones must be a list, each a whole number; got [1, True]",
        "data.label_noise must be from 0 to 1; got 2.0",
        "hessian.per_class must be at least 1; got 0",
        "jacobian.num_samples must be a whole number; got 1.5",
        "model.name must be package.module:factory or one of lenet",
    ):
        assert f"\n  {fault}" in message
    assert "data: " not in message  # its numbers are wrong, and its name:
    assert "\n  data.name must be package.module:factory or one of fashion-" in message


@pytest.mark.message
@pytest.mark.parametrize(
    ("head", "tail", "faults"),
    [
        ("variants = 3\n", "", ["variants must be tables [[variants]]; got 3"]),
        (
            'variants = ["a", {name = 5}, {name = "b/c"}]\n',
            "",
            [
                "must be a table with a name of its own; got 'a'",
                "must be a table with a name of its own; got 5",
                "names of [[variants]] are folders, without /; got 'b/c'",
            ],
        ),
        (
            'members = "lenet"\n',
            "",
            ["data, model, seed, training beside them", "a list of names; got 'lenet'"],
        ),
        ('name = "../up"\n', "", ["that of a folder, without /; got '../up'"]),
        (
            "",
            "momentum = inf\nmilestones = [5, -3]\n[curvature]\nnum_matvecs = 3\n",
            [
                "training.momentum must be finite; got inf",
                "training.milestones must be epochs from 1 on, each later",
                "curvature.num_matvecs must be at least 4; got 3",
            ],
        ),
    ],
    ids=["variants", "variant", "members", "name", "numbers"],
)
def test_studies_and_numbers_that_make_no_sense_are_said(head, tail, faults):
    bare = TINY.partition("[hessian]")[0]
    with pytest.raises(ValueError, match="must be without faults") as caught:
        read_study(written(head + bare + tail))
    for fault in faults:
        assert fault in str(caught.value)


@pytest.mark.message
def test_model_and_data_factories_that_are_not_there_are_said_together():
    text = TINY.replace("nets_of_mine:net", "no_nets:wide")
    text = text.replace("nets_of_mine:pairs", "no_data:pairs")
    with pytest.raises(ValueError, match="must be without faults") as caught:
        read_study(written(text))
    assert "there is no module 'no_nets'" in str(caught.value)
    assert "there is no module 'no_data'" in str(caught.value)
    Path("tiny.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="a text in UTF-8; its byte 0 is none"):
        read_study("tiny.toml")


@pytest.mark.message
def test_files_are_looked_for_beside_unknown_keys():
    text = TINY + "\n[jacobian]\nevry = 2\n"
    changes = ["data.name=mnist", "data.num_trian=3"]
    with pytest.raises(ValueError, match="must be without faults; it has 3") as caught:
        read_study(written(text), changes=changes)
    for fault in (
        "data.num_trian is no key here; the nearest are num_train",
        "jacobian.evry is no key here; the nearest are every",
        "data: mnist requires root (--data-root)",
    ):
        assert f"\n  {fault}" in str(caught.value)


@pytest.mark.message
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("data.name=mnist", "data: mnist requires root (--data-root)"),
        ("data.name=nowhere", "data: data must be package.module:factory or one of"),
        ("data.num_train=0", "data.num_train must be at least 1; got 0"),
        ("data.label_seed=-1", "data.label_seed must be from 0 to 2³²−1; got -1"),
        (f"data.name={factory('mappings')}", "must be a pair of tensors, (inputs"),
        ("model.weights=nowhere.pth", "model.weights must be a file; there is none at"),
        ("model.name=lenet", "model: lenet requires samples of shape"),
        ("hessian.per_class=9", "hessian.per_class must be at most 8, the training"),
        ("hessian=3", "hessian must be a table, [hessian]; got 3"),
        ("training.learning_rate=0", "learning_rate must be positive and finite; got"),
        ("training.schedule=multistep", "milestones belong to schedule = 'multistep'"),
        ("curvature.num_matvecs=2", "curvature.num_matvecs must be at least 4; got 2"),
        (f"model.name={factory('tall')}", "tall gives (2, 3, 1) for 2 images"),
        (f"model.name={factory('narrow')}", "a number for each of 3 classes; nets_of"),
        ("jacobian.first=-1", "jacobian.first must be at least 0; got -1"),
        ("seed=-1", "seed must be at least 0; got -1"),
    ],
)
def test_faults_of_numbers_files_and_networks_are_said(change, fault):
    with pytest.raises(ValueError, match="must be without faults; it has 1:") as caught:
        read_study(written(TINY), changes=[change])
    assert fault in str(caught.value)


@pytest.mark.message
def test_files_and_names_that_are_not_there_are_said():
    there = written(TINY)
    said = (
        r"`eigenscope train --list`; there is no file .*lenet-mnst\.toml\. The nearest"
    )
    with pytest.raises(FileNotFoundError, match=said + r" names are lenet-mn.*: tiny"):
        read_study(str(Path(there).with_name("lenet-mnst.toml")))
    with pytest.raises(
        FileNotFoundError, match=r"got 'lenet-mnst'\. The nearest names"
    ):
        read_study("lenet-mnst")
    with pytest.raises(ValueError, match=r"tiny\.toml must be TOML"):
        read_study(written("seed = = 3"))
    with pytest.raises(ValueError, match="--set must be KEY=VALUE"):
        read_study(written(TINY), changes=["training.epochs"])
    with pytest.raises(ValueError, match="members has 'lenet-mnst'; the nearest are"):
        read_study(written('members = ["lenet-mnst"]'))
    text = TINY + "[[variants]]\ndata.num_train = 5\n"
    with pytest.raises(ValueError, match="a table with a name of its own; got ''"):
        read_study(written(text))
    with pytest.raises(ValueError, match="compatible = true; got 'module'"):
        read_study(
            written(TINY), changes=["hessian.compatible=true", "hessian.layers=module"]
        )


def test_random_labels_are_those_of_numpy_and_a_larger_share_holds_a_smaller():
    true = torch.arange(2000) % 10
    expected = np.random.RandomState(7).choice(10, 2000)
    drawn = noisy_labels(true, num_classes=10, share=1.0, seed=7)
    assert drawn.tolist() == expected.tolist()
    changed = {
        share: noisy_labels(true, num_classes=10, share=share, seed=7) != true
        for share in (0.25, 0.5, 1.0)
    }
    assert bool((changed[0.25] <= changed[0.5]).all())
    assert bool((changed[0.5] <= changed[1.0]).all())
    assert float(changed[0.5].double().mean()) == pytest.approx(0.45, abs=0.03)


def test_only_training_labels_are_noisy_and_classes_are_drawn_as_published():
    changes = ["data.label_noise=1.0", "hessian.per_class=2"]
    section = read_study(written(TINY), changes=changes).experiments[""].data
    train, test = load_split(section, "train"), load_split(section, "test")
    assert test.targets.tolist() == (torch.arange(24) % 3).tolist()
    assert train.targets.tolist() != test.targets.tolist()
    inputs, targets = test.of_each_class(2)
    assert targets.tolist() == [0, 0, 1, 1, 2, 2]
    for number in range(3):
        places = np.arange(number, 24, 3)
        rows = np.random.RandomState(0).choice(places, 2, replace=False)
        chosen: Any = inputs[2 * number : 2 * number + 2]
        assert torch.equal(chosen, test.inputs[torch.from_numpy(rows)])


def test_dotted_names_make_tables():
    assert nested({"a.b": 1, "a.c.d": [2]}) == {"a": {"b": 1, "c": {"d": [2]}}}
    assert merged({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
