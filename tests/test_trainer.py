"""The trainer: what a step is, and that a saved state goes on to the same bits."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eigenscope.training import Optimization, Trainer, evaluate
from eigenscope.training.augmentation import shift_and_flip

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(23, 1, 8, 8, generator=SOURCE)
Y = torch.randint(3, (23,), generator=SOURCE)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        parts = (nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU())
        return nn.Sequential(*parts, nn.Dropout(0.3), nn.Linear(8, 3))


def plan(**options: Any) -> Optimization:
    defaults: dict[str, Any] = {"epochs": 6, "batch_size": 5, "learning_rate": 0.05}
    return Optimization(**{**defaults, **options})


PLANS = {
    "sgd": plan(weight_decay=1e-3),
    "plain": plan(momentum=0.0),
    "adam": plan(optimizer="adam", schedule="cosine", augment=True),
    "steps": plan(schedule="multistep", milestones=(2, 4), augment=True),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("after", [1, 3])
def test_a_saved_state_goes_on_to_the_same_bits(tmp_path: Path, name: str, after: int):
    whole = Trainer(network(), X, Y, plan=PLANS[name], seed=2)
    expected = [whole.run_epoch() for _ in range(6)]
    first = Trainer(network(), X, Y, plan=PLANS[name], seed=2)
    found = [first.run_epoch() for _ in range(after)]
    first.save(tmp_path / "state.safetensors")
    torch.rand(5)  # what others draw plays no part
    model = network()
    second = Trainer(model, X, Y, plan=PLANS[name], seed=2)
    second.load(str(tmp_path / "state.safetensors"))
    assert second.epoch == after
    found += [second.run_epoch() for _ in range(6 - after)]
    assert found == expected
    whole.save(str(tmp_path / "a"))
    second.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_an_epoch_is_what_torch_does_by_hand():
    chosen = plan(weight_decay=0.1, momentum=0.5)
    model, oracle = nn.Linear(64, 3).double(), nn.Linear(64, 3).double()
    oracle.load_state_dict(model.state_dict())
    flat = X.flatten(1).double()
    trainer = Trainer(model, flat, Y, plan=chosen, seed=4)
    velocity = [torch.zeros_like(p) for p in oracle.parameters()]
    for epoch in range(2):
        trainer.run_epoch()
        generator = torch.Generator().manual_seed(4 * 1_000_003 + epoch)
        torch.randint(2**31, (), generator=generator)  # dropout's
        order = torch.randperm(23, generator=generator)
        for part in order.split(5):
            loss = nn.functional.cross_entropy(oracle(flat[part]), Y[part])
            gradients = torch.autograd.grad(loss, list(oracle.parameters()))
            with torch.no_grad():
                for p, v, g in zip(
                    oracle.parameters(), velocity, gradients, strict=True
                ):
                    v.mul_(0.5).add_(g + 0.1 * p)
                    p.sub_(0.05 * v)
    # rounding of two orders of the same sums
    for mine, true in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-14)


def test_step_sizes_follow_their_schedule():
    assert [plan().rate(epoch) for epoch in (0, 5)] == [0.05, 0.05]
    steps = plan(schedule="multistep", milestones=(2, 4), decay=0.5)
    assert [steps.rate(e) for e in range(6)] == [0.05] * 2 + [0.025] * 2 + [0.0125] * 2
    cosine = plan(schedule="cosine")
    for epoch in range(6):
        assert cosine.rate(epoch) == pytest.approx(
            0.025 * (1 + math.cos(math.pi * epoch / 6))
        )


@pytest.mark.parametrize(("batch_size", "step"), [(5, 1), (23, 1)])
def test_a_divergence_is_located_and_moves_nothing_on(batch_size: int, step: int):
    """In the second step; or after the only one, where the weights have overflown."""
    chosen = plan(learning_rate=1e38, momentum=0.0, batch_size=batch_size)
    model = nn.Linear(64, 3)
    nn.init.zeros_(model.weight)  # so that the first step leaves the range of float32
    trainer = Trainer(model, X.flatten(1) * 1e3, Y, plan=chosen)
    found = trainer.run_epoch()
    assert found.diverged_at == step
    assert not math.isfinite(found.loss)
    assert trainer.epoch == 0


def test_augmented_images_are_shifted_and_mirrored_each_by_itself():
    images = torch.arange(2 * 6 * 6, dtype=torch.float32).view(1, 2, 6, 6) + 1
    images = images.expand(400, -1, -1, -1)
    fill = torch.tensor([-1.0, -2.0])
    changed = shift_and_flip(images, fill=fill, generator=SOURCE)
    padded = torch.empty(2, 14, 14)
    padded[0], padded[1] = -1.0, -2.0
    padded[:, 4:10, 4:10] = images[0]
    possible = {
        tuple(crop.flatten().tolist())
        for row in range(9)
        for column in range(9)
        for shown in [padded[:, row : row + 6, column : column + 6]]
        for crop in (shown, shown.flip(2))
    }
    seen = {tuple(image.flatten().tolist()) for image in changed}
    assert seen <= possible
    assert len(seen) > 120  # of 162, in 400 draws


def test_a_loss_is_the_mean_over_all_samples_whatever_the_batches():
    model = network().eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(X), Y).item()
        right = float((model(X).argmax(1) == Y).double().mean())
    model.train()
    for size in (5, 23, 100):
        loss, accuracy = evaluate(model, X, Y, batch_size=size)
        assert loss == pytest.approx(expected, rel=1e-6)
        assert accuracy == right
    assert model.training


@pytest.mark.message
def test_the_state_of_another_network_is_refused(tmp_path: Path):
    Trainer(nn.Linear(64, 3), X, Y, plan=plan()).save(tmp_path / "state")
    with pytest.raises(ValueError, match="must be the state of a training of this"):
        Trainer(network(), X, Y, plan=plan()).load(tmp_path / "state")
