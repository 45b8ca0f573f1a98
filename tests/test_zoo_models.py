"""Models by name and the user's own factories."""

import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from eigenscope import zoo
from eigenscope.zoo.extras import require_extra

RESNETS = {  # parameters, as pytorchcv documents them in millions
    "resnet20_cifar10": 272_474,
    "resnet56_cifar10": 855_770,
    "resnet110_cifar100": 1_736_564,
    "resnet164bn_cifar10": 1_704_154,
    "resnet272bn_cifar100": 2_840_116,
}


FACTORIES = """
from torch import nn, ones
import torch

net = nn.Linear(2, 2)
number = 3

def plain():
    return nn.Linear(3, 2)

def fitted(sample_shape, *, num_classes=7):
    return nn.Linear(sample_shape[0], num_classes)

def anything(**options):
    model = nn.Identity()
    model.options = options
    return model

def needs_depth(depth):
    return nn.Identity()

def text():
    return "a model"

def pairs(split):
    return ones(4, 3), split

def stream(num_samples=None):
    return (ones(1) for _ in range(3))

def batches(per_class=1):
    return [ones(per_class)]
"""


def num_params(model):
    return sum(param.numel() for param in model.parameters())


def build(
    name, *, sample_shape: Any = (1, 32, 32), num_classes: Any = 10, seed=0
) -> Any:
    return zoo.build_model(
        name, sample_shape=sample_shape, num_classes=num_classes, seed=seed
    )


def data_from(name, **options: Any) -> Any:
    return zoo.data_from_factory(name, **options)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of factories in the current directory, importable afterwards only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "my_nets.py").write_text(FACTORIES, encoding="utf-8")
    (tmp_path / "broken_nets.py").write_text("import not_there\n", encoding="utf-8")
    yield "my_nets"
    for module in ("my_nets", "broken_nets"):
        sys.modules.pop(module, None)


def test_lenet_has_the_layers_and_sizes_of_the_experiments():
    model = build("lenet")
    assert num_params(model) == 61_706
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["conv1.weight"] == (6, 1, 5, 5)
    assert shapes["conv2.weight"] == (16, 6, 5, 5)
    assert shapes["fc1.weight"] == (120, 400)
    assert shapes["fc2.weight"] == (84, 120)
    assert shapes["fc3.bias"] == (10,)
    assert model(torch.ones(2, 1, 32, 32)).shape == (2, 10)


def test_lenet_takes_other_channels_and_class_counts():
    model = build("lenet", sample_shape=(3, 32, 32), num_classes=100)
    assert model(torch.ones(2, 3, 32, 32)).shape == (2, 100)


def test_lenet_computes_relu_and_pooling_after_each_convolution():
    model = build("lenet")
    p = dict(model.named_parameters())
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    y = x
    for conv in ("conv1", "conv2"):
        y = nn.functional.conv2d(y, p[f"{conv}.weight"], p[f"{conv}.bias"]).relu()
        y = nn.functional.max_pool2d(y, 2)
    y = y.flatten(1)
    for fc in ("fc1", "fc2"):
        y = (y @ p[f"{fc}.weight"].T + p[f"{fc}.bias"]).relu()
    y = y @ p["fc3.weight"].T + p["fc3.bias"]
    # same operations in the same precision, up to the order of summation
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "widths"),
    [("mlp-512", (3072, 512, 10)), ("mlp-512x3", (3072, 512, 512, 512, 10))],
)
def test_mlps_follow_the_data_and_have_no_biases(name, widths):
    model = build(name, sample_shape=(3, 32, 32))
    shapes = [tuple(param.shape) for param in model.parameters()]
    assert shapes == [(b, a) for a, b in pairwise(widths)]
    relus = [module for module in model if isinstance(module, nn.ReLU)]
    assert len(relus) == len(widths) - 2


def test_mlp_weights_are_glorot_normal():
    weight = dict(build("mlp-512", sample_shape=(3, 32, 32)).named_parameters())[
        "fc1.weight"
    ]
    expected = (2 / (3072 + 512)) ** 0.5
    # 1.6e6 entries: the sample deviation is off by 6e-4 relative, one sigma
    torch.testing.assert_close(
        weight.std(), torch.tensor(expected), rtol=3e-3, atol=0.0
    )
    # a normal law puts 4.55 % beyond two deviations, a uniform one nothing
    beyond = (weight.abs() > 2 * expected).float().mean()
    torch.testing.assert_close(beyond, torch.tensor(0.0455), rtol=0.02, atol=0.0)


@pytest.mark.vision
@pytest.mark.parametrize(("name", "count"), RESNETS.items(), ids=RESNETS)
def test_resnets_have_their_published_sizes(name, count):
    assert num_params(build(name, sample_shape=(3, 32, 32), num_classes=None)) == count


@pytest.mark.vision
@pytest.mark.parametrize("depth", ["resnet542bn", "resnet1001"])
@pytest.mark.parametrize("num_classes", [10, 100])
def test_the_deepest_resnets_exist_for_both_data_sets(depth, num_classes):
    model = build(
        f"{depth}_cifar{num_classes}", sample_shape=(3, 32, 32), num_classes=num_classes
    )
    assert dict(model.named_parameters())["output.bias"].shape == (num_classes,)


@pytest.mark.vision
def test_a_resnet_maps_images_to_ten_outputs():
    model = build("ResNet20_CIFAR10", sample_shape=(3, 32, 32)).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    "name",
    ["lenet", "mlp-512", pytest.param("resnet20_cifar10", marks=pytest.mark.vision)],
)
def test_the_seed_alone_decides_and_the_callers_random_state_stays(name):
    before = torch.get_rng_state()
    first, same, other = (
        build(name, sample_shape=(3, 32, 32), seed=seed) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    for a, b in zip(first.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    weight = next(iter(first.parameters()))
    assert not torch.equal(weight, next(iter(other.parameters())))


def test_the_callers_default_device_does_not_move_the_model():
    with torch.device("meta"):
        model = build("lenet")
    assert {param.device.type for param in model.parameters()} == {"cpu"}


def test_every_listed_name_is_known_and_they_are_nineteen():
    names = zoo.model_names()
    assert len(set(names)) == 19
    assert {"lenet", "mlp-512x3", "vgg11-bn", "resnet1001_cifar100"} <= set(names)


def test_importing_the_zoo_imports_no_optional_package():
    code = (
        "import sys, eigenscope.zoo\n"
        "extras = {'torchvision', 'pytorchcv', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(repr(extras) if extras else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.message
def test_unknown_models_are_answered_with_all_names_nearest_first():
    with pytest.raises(ValueError, match=r"one of resnet56_cifar10, .*lenet.*resnet56"):
        build("resnet56_cifar")


@pytest.mark.message
@pytest.mark.parametrize("shape", [(1, 28, 28), (3072,)])
def test_lenet_refuses_other_image_sizes(shape):
    with pytest.raises(
        ValueError, match=r"lenet requires.*\(channel, 32, 32\), got \("
    ):
        build("lenet", sample_shape=shape)


@pytest.mark.message
@pytest.mark.parametrize("name", ["lenet", "mlp-512"])
@pytest.mark.parametrize("num_classes", [None, 0])
def test_models_that_follow_the_data_require_a_class_count(name, num_classes):
    with pytest.raises(ValueError, match=f"{name} requires num_classes.*{num_classes}"):
        build(name, num_classes=num_classes)


@pytest.mark.message
def test_resnets_refuse_other_samples():
    with pytest.raises(
        ValueError, match=r"requires samples of shape \(3, 32, 32\), got"
    ):
        build("resnet20_cifar10")


@pytest.mark.message
def test_resnets_refuse_other_class_counts():
    with pytest.raises(ValueError, match=r"has 10 classes and the data has 100"):
        build("resnet20_cifar10", sample_shape=(3, 32, 32), num_classes=100)


@pytest.mark.message
def test_a_missing_extra_says_which_install_brings_it():
    with pytest.raises(ImportError, match=r"pip install 'eigenscope\[vision\]'"):
        require_extra("surely_not_installed.part", "vision")


@pytest.mark.usefixtures("nets")
def test_an_extra_with_a_missing_import_of_its_own_says_so():
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        zoo.build_model("broken_nets:net", sample_shape=(3,))
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        require_extra("broken_nets", "vision")


def test_a_factory_in_the_current_directory_is_called(nets):
    model = build(f"{nets}:plain", sample_shape=(3,))
    assert model(torch.ones(1, 3)).shape == (1, 2)


def test_a_factory_gets_what_it_takes_and_no_more(nets):
    wide = build(f"{nets}:fitted", sample_shape=(5,), num_classes=4)
    assert tuple(wide.weight.shape) == (4, 5)
    default = build(f"{nets}:fitted", sample_shape=(5,), num_classes=None)
    assert tuple(default.weight.shape) == (7, 5)
    taker = build(f"{nets}:anything", sample_shape=(5,), num_classes=None, seed=3)
    assert taker.options == {"sample_shape": (5,), "seed": 3}


def test_a_factory_is_seeded_and_leaves_the_random_state(nets):
    before = torch.get_rng_state()
    first, same, other = (
        build(f"{nets}:plain", sample_shape=(3,), seed=seed) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.testing.assert_close(first.weight, same.weight, rtol=0, atol=0)
    assert not torch.equal(first.weight, other.weight)


def test_names_with_a_colon_are_factories():
    assert zoo.is_factory("a.b:c")
    assert not zoo.is_factory("resnet20_cifar10")


@pytest.mark.message
@pytest.mark.parametrize("name", ["my_nets:", ":plain", "my nets:plain", "a:b:c"])
@pytest.mark.usefixtures("nets")
def test_malformed_factories_are_told_the_form(name):
    with pytest.raises(
        ValueError, match=r"model must have the form package.module:fac"
    ):
        zoo.build_model(name, sample_shape=(3,))


@pytest.mark.message
@pytest.mark.usefixtures("nets")
def test_a_missing_module_is_told_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=rf"no module 'their_nets'; .*{tmp_path.name}"):
        zoo.build_model("their_nets.big:plain", sample_shape=(3,))


@pytest.mark.message
def test_a_missing_factory_is_answered_with_the_nearest_names(nets):
    with pytest.raises(ValueError, match="has no fited; it has fitted,"):
        build(f"{nets}:fited", sample_shape=(3,))


@pytest.mark.message
def test_a_factory_must_be_callable(nets):
    with pytest.raises(ValueError, match=r"number must be a callable.*got int"):
        build(f"{nets}:number", sample_shape=(3,))


@pytest.mark.message
def test_a_factory_that_requires_more_is_told_what_is_offered(nets):
    with pytest.raises(
        ValueError, match=r"requires depth,.*offered sample_shape, num_cl"
    ):
        build(f"{nets}:needs_depth", sample_shape=(3,))


@pytest.mark.message
def test_a_model_factory_must_return_a_module(nets):
    with pytest.raises(TypeError, match=r"must return a torch.nn.Module, got str"):
        build(f"{nets}:text", sample_shape=(3,))


def test_a_data_factory_gets_the_options_that_it_takes(nets):
    inputs, split = data_from(f"{nets}:pairs", split="train")
    assert (tuple(inputs.shape), split) == ((4, 3), "train")
    assert len(data_from(f"{nets}:batches", per_class=6)[0]) == 6
    assert len(data_from(f"{nets}:batches", split="test")[0]) == 1


@pytest.mark.message
def test_a_data_factory_is_not_given_options_in_vain(nets):
    with pytest.raises(ValueError, match="no parameter num_samples, which was given"):
        zoo.data_from_factory(f"{nets}:pairs", split="test", num_samples=3)


@pytest.mark.message
@pytest.mark.parametrize(
    ("name", "kind"), [("text", "str"), ("stream", "generator"), ("number", "int")]
)
def test_a_data_factory_must_return_what_can_be_read_twice(nets, name, kind):
    error = ValueError if name == "number" else TypeError
    with pytest.raises(error, match=f"got {kind}"):
        zoo.data_from_factory(f"{nets}:{name}")


@pytest.mark.vision
@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [
        # torchvision's convolutions with 1 channel, then 512-4096-4096-10 and BatchNorm
        ("vgg11-bn", 1, 9_225_984 - 2 * 576 + 2_101_248 + 16_781_312 + 40_970 + 16_384),
        ("vgg11-bn", 3, 9_225_984 + 2_101_248 + 16_781_312 + 40_970 + 16_384),
        # torchvision's 11,689,512 less 1000 classes and a 7 × 7 stem
        ("resnet18", 3, 11_689_512 - 990 * 513 - 64 * 3 * (49 - 9)),
        ("resnet18", 1, 11_689_512 - 990 * 513 - 64 * (3 * 49 - 9)),
    ],
)
def test_networks_for_small_images_keep_their_size(name, channels, count):
    shape = (channels, 32, 32)
    model: Any = zoo.build_model(name, sample_shape=shape, num_classes=10, seed=1)
    model.eval()
    assert num_params(model) == count
    stem = model.conv1 if name == "resnet18" else model.features[:3]
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, 10)
        assert stem(torch.zeros(1, *shape)).shape[-2:] == (32, 32)
    other = zoo.build_model(name, sample_shape=shape, num_classes=10, seed=1).eval()
    states = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in states)
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())


@pytest.mark.message
def test_networks_for_small_images_refuse_others():
    for name in ("vgg11-bn", "resnet18"):
        with pytest.raises(ValueError, match=rf"{name} requires samples of shape \(ch"):
            zoo.build_model(name, sample_shape=(3, 28, 28), num_classes=10)
