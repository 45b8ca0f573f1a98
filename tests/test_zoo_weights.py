"""Weight files: what loads, what is refused and with which words."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from eigenscope import zoo


class Trap:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def net(seed=0, *, hidden=5):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2)
        )


def assert_same_state(actual, expected):
    torch.testing.assert_close(
        dict(actual.state_dict()), dict(expected.state_dict()), rtol=0, atol=0
    )


@pytest.fixture
def saved():
    model = net(1)
    nn.init.constant_(model.get_buffer("1.running_mean"), 0.25)
    return model


def test_safetensors_come_back_bit_for_bit(saved, tmp_path):
    zoo.save_weights(saved, tmp_path / "deep" / "w.safetensors")
    loaded = net(2)
    zoo.load_weights(loaded, tmp_path / "deep" / "w.safetensors")
    assert_same_state(loaded, saved)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_and_checkpoints_load(saved, tmp_path, entry, prefix):
    state = {prefix + key: value for key, value in saved.state_dict().items()}
    content = state if entry is None else {"epoch": 3, entry: state}
    torch.save(content, tmp_path / "w.pt")
    loaded = net(2)
    zoo.load_weights(loaded, str(tmp_path / "w.pt"))
    assert_same_state(loaded, saved)


def test_a_model_whose_own_names_have_the_prefix_keeps_it(saved, tmp_path):
    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    torch.save(Wrapped(saved).state_dict(), tmp_path / "w.pt")
    loaded = Wrapped(net(2))
    zoo.load_weights(loaded, tmp_path / "w.pt")
    assert_same_state(loaded.module, saved)


def test_the_model_keeps_its_dtype(saved, tmp_path):
    zoo.save_weights(saved, tmp_path / "w.safetensors")
    loaded = net(2).double()
    zoo.load_weights(loaded, tmp_path / "w.safetensors")
    assert_same_state(loaded, saved.double())


def test_tied_weights_survive_and_may_be_stored_once(tmp_path):
    def tied(seed):
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        nn.init.constant_(model.get_parameter("0.weight"), float(seed))
        model[1].weight = model[0].weight
        return model

    zoo.save_weights(tied(1), tmp_path / "both.safetensors")
    save_file({"0.weight": torch.ones(3, 3)}, tmp_path / "once.safetensors")
    for name in ("both", "once"):
        loaded = tied(2)
        zoo.load_weights(loaded, tmp_path / f"{name}.safetensors")
        assert_same_state(loaded, tied(1))


def test_an_interrupted_save_keeps_the_old_file(saved, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    zoo.save_weights(saved, path)

    def stop_half_way(_, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("eigenscope.zoo.weights.save_file", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        zoo.save_weights(net(2), path)
    monkeypatch.undo()
    loaded = net(3)
    zoo.load_weights(loaded, path)
    assert_same_state(loaded, saved)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path):
    model, before = net(2), net(2)
    zoo.save_weights(net(1, hidden=6), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        zoo.load_weights(model, tmp_path / "w.safetensors")
    assert_same_state(model, before)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"weight": Trap(tmp_path / "sprung")}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="would execute code"):
        zoo.load_weights(nn.Linear(1, 1), tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.message
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["whole model", "plain pickle"])
def test_a_file_that_needs_code_is_told_how_to_convert(tmp_path, kind):
    path = tmp_path / "w.pt"
    if kind == "whole model":
        torch.save(nn.Linear(1, 1), path)
    else:
        path.write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(ValueError, match=r"execute code.*convert.*'w.safetensors'"):
        zoo.load_weights(nn.Linear(1, 1), path)


@pytest.mark.message
def test_missing_unexpected_and_misshapen_names_are_all_told(tmp_path):
    state = net(1).state_dict()
    state["extra"] = torch.zeros(1)
    del state["1.weight"]
    state["2.weight"] = torch.zeros(7, 7)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="does not fit") as caught:
        zoo.load_weights(net(2), tmp_path / "w.pt")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(
        "the Sequential, which has 9 tensors by name; the file has 9:"
    )
    assert lines[1:] == [
        "  1 missing: 1.weight",
        "  1 unexpected: extra",
        "  1 of another shape: 2.weight (7, 7), the model has (2, 5)",
    ]


@pytest.mark.message
def test_hundreds_of_names_are_shortened(tmp_path):
    torch.save({f"k{i}": torch.zeros(1) for i in range(300)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="300 unexpected: k0; k1; k2; k3; k4; and 295"):
        zoo.load_weights(nn.Linear(1, 1), tmp_path / "w.pt")


@pytest.mark.message
def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file .*gone.pt"):
        zoo.load_weights(nn.Linear(1, 1), tmp_path / "gone.pt")


@pytest.mark.message
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", ["half", "empty", "text"])
def test_truncated_and_corrupt_files_are_told(saved, tmp_path, name, content):
    path = tmp_path / name
    zoo.save_weights(saved, tmp_path / "whole.safetensors")
    torch.save(saved.state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / f"whole{path.suffix}").read_bytes()
    parts = {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not weights " * 9,
    }
    path.write_bytes(parts[content])
    size = len(parts[content])
    with pytest.raises(
        ValueError, match=rf"{name} \({size} bytes\) is truncated, corr"
    ):
        zoo.load_weights(net(2), path)


@pytest.mark.message
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "lr": 0.1}, "got a dict with the entries epoch; lr"),
        ([torch.zeros(1)], "got a list"),
        ({"state_dict": {"lr": 0.1}}, "got a dict with the entries state_dict"),
    ],
)
def test_a_file_without_tensors_by_name_is_told(tmp_path, content, found):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=f"must hold a state_dict.*{found}"):
        zoo.load_weights(nn.Linear(1, 1), tmp_path / "w.pt")


@pytest.mark.message
def test_weights_are_saved_as_safetensors_only(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .safetensors, got .*w.pt"):
        zoo.save_weights(nn.Linear(1, 1), tmp_path / "w.pt")


@pytest.mark.message
def test_state_that_is_no_tensor_cannot_be_saved(tmp_path):
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"version": 1}

    with pytest.raises(ValueError, match="other entries, _extra_state"):
        zoo.save_weights(Odd(), tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())
