"""The trainer: what it minimises, what it leaves behind, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from eigenscope import zoo
from eigenscope.training import TrainingLog, accuracy, train_classifier


def clusters(n=60):
    """Three separable classes in the plane."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % 3
    centers = torch.tensor([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])
    return centers[targets] + torch.randn(n, 2, generator=generator), targets


def net(seed=0, *, dropout=0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(2, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)
        )


def train(model, inputs, targets, **options: Any):
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 16, "learning_rate": 0.1}
    return train_classifier(model, inputs, targets, **(defaults | options))


def state(model):
    return dict(model.state_dict())


def test_training_learns_separable_classes():
    model = net()
    log = train(model, *clusters(), epochs=20)
    assert len(log.losses) == len(log.accuracies) == 20
    assert log.losses[-1] < 0.2 * log.losses[0]
    assert accuracy(model, *clusters()) > 0.95


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_full_batch_step_is_that_of_the_textbook(momentum, weight_decay):
    inputs, targets = clusters()
    model = net().double()
    inputs = inputs.double()
    params = [param.detach().clone() for param in model.parameters()]
    speeds = [torch.zeros_like(param) for param in params]
    losses: list[float] = []
    for _ in range(3):
        leaves = [param.clone().requires_grad_() for param in params]
        hidden = (inputs @ leaves[0].T + leaves[1]).relu()
        loss = cross_entropy(hidden @ leaves[2].T + leaves[3], targets)
        losses.append(loss.item())
        for i, grad in enumerate(torch.autograd.grad(loss, leaves)):
            speeds[i] = momentum * speeds[i] + grad + weight_decay * params[i]
            params[i] = params[i] - 0.1 * speeds[i]
    log = train(
        model,
        inputs,
        targets,
        batch_size=len(inputs),
        momentum=momentum,
        weight_decay=weight_decay,
    )
    # float64; samples are summed in another order
    torch.testing.assert_close(list(model.parameters()), params, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(list(log.losses), losses, rtol=1e-10, atol=0)


def test_a_ragged_last_batch_counts_by_its_samples():
    inputs, targets = clusters(50)
    model = net()
    expected = cross_entropy(model(inputs), targets).item()
    log = train(model, inputs, targets, epochs=1, batch_size=16, learning_rate=0.0)
    assert log.losses[0] == pytest.approx(expected, rel=1e-6)
    assert log.accuracies[0] == accuracy(model, inputs, targets)


def test_every_sample_is_visited_once_in_an_epoch_in_a_fresh_order():
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen: list[float] = []
            self.linear = nn.Linear(1, 2)

        def forward(self, x):
            self.seen += x[:, 0].tolist()
            return self.linear(x)

    model = Recorder()
    inputs = torch.arange(20.0)[:, None] / 20
    train(model, inputs, torch.zeros(20).long(), epochs=2, batch_size=6)
    first, second = model.seen[:20], model.seen[20:]
    assert sorted(first) == sorted(second) == inputs[:, 0].tolist()
    assert first != second
    assert first != inputs[:, 0].tolist()


def test_the_same_generator_gives_the_same_bits_even_with_dropout():
    def run(seed):
        model = net(dropout=0.5)
        generator = None
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        log = train(model, *clusters(), generator=generator)
        return log, state(model)

    (first, a), (same, b), (_, c) = run(5), run(5), run(6)
    assert first == same
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a["0.weight"], c["0.weight"])
    torch.testing.assert_close(run(None)[1], run(None)[1], rtol=0, atol=0)


def test_the_callers_random_state_stays():
    before = torch.get_rng_state()
    train(net(dropout=0.5), *clusters())
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_the_model_is_left_in_eval_mode_without_gradients():
    model = net()
    train(model, *clusters())
    assert not any(module.training for module in model.modules())
    assert all(param.grad is None for param in model.parameters())


def test_progress_is_told_after_each_epoch():
    told: list[TrainingLog] = []
    log = train(net(), *clusters(), progress=told.append)
    assert [len(entry.losses) for entry in told] == [1, 2, 3]
    assert told[-1] == log


def test_accuracy_is_taken_in_eval_mode_and_leaves_every_mode():
    inputs, targets = clusters()
    model = net(dropout=0.9)
    model.get_submodule("1").eval()
    modes = [module.training for module in model.modules()]
    expected = accuracy(model.eval(), inputs, targets)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    assert accuracy(model, inputs, targets, batch_size=7) == expected
    assert [module.training for module in model.modules()] == modes


def test_accuracy_does_not_depend_on_the_batch_size():
    inputs, targets = clusters(50)
    model = net()
    right = sum(
        int(model(x[None])[0].argmax() == y)
        for x, y in zip(inputs, targets, strict=True)
    )
    for batch_size in (1, 7, 50, 1000):
        assert accuracy(model, inputs, targets, batch_size=batch_size) == right / 50


@pytest.mark.vision
def test_lenet_learns_the_digits_and_not_random_ones():
    train_data = zoo.load_data("digits", split="train")
    test_data = zoo.load_data("digits")

    def test_accuracy(targets, epochs):
        model = zoo.build_model("lenet", sample_shape=(1, 32, 32), num_classes=10)
        train_classifier(
            model,
            train_data.inputs,
            targets,
            epochs=epochs,
            batch_size=32,
            learning_rate=0.02,
        )
        return accuracy(model, test_data.inputs, test_data.targets)

    generator = torch.Generator().manual_seed(0)
    random_targets = torch.randint(10, train_data.targets.shape, generator=generator)
    assert test_accuracy(train_data.targets, 15) > 0.93
    assert test_accuracy(random_targets, 3) < 0.3


@pytest.mark.message
@pytest.mark.parametrize("rate", [1e30, float("nan")])
def test_a_loss_that_is_not_finite_stops_the_run(rate):
    with pytest.raises(
        ValueError, match=r"loss must stay finite, got .*lower learning"
    ):
        train(net(), *clusters(), learning_rate=rate)


@pytest.mark.message
@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 0}])
def test_counts_are_positive(options):
    with pytest.raises(ValueError, match="must be at least 1, got epochs="):
        train(net(), *clusters(), **options)


@pytest.mark.message
@pytest.mark.parametrize("num_targets", [59, 0])
def test_each_input_has_one_target(num_targets):
    inputs, targets = clusters()
    with pytest.raises(ValueError, match=f"got 60 inputs and {num_targets} targets"):
        train(net(), inputs, targets[:num_targets])
    with pytest.raises(ValueError, match="at least one of them, got 0 inputs"):
        accuracy(net(), inputs[:0], targets[:0])
