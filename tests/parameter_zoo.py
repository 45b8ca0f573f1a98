"""Networks that use their parameters in every way we know of, and their inputs."""

from collections.abc import Callable
from typing import Any

import torch
from moving_rows import Dispatched, Experts, Packed, ragged, signed
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

SAMPLES = 5


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x), inplace=True)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 2 * channels)
        self.narrow = nn.Linear(2 * channels, channels)
        self.layer_scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        h = self.narrow(functional.gelu(self.wide(h))).permute(0, 3, 1, 2)
        return x + self.layer_scale * h


class VisionTransformer(nn.Module):
    def __init__(self, *, repeat: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, stride=2)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 12, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.repeat = repeat

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        cls = self.cls_token
        cls = cls.repeat(len(x), 1, 1) if self.repeat else cls.expand(len(x), -1, -1)
        tokens = torch.cat([cls, tokens], 1)
        tokens = tokens + self.positions[:, : tokens.shape[1]]
        return self.head(self.encoder(tokens)[:, 0])


class LanguageModel(nn.Module):
    """Token and position tables, one tied to the decoder; positions on axis 0."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 6, padding_idx=0)
        self.positions = nn.Embedding(9, 6)
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=False)
        self.decoder = nn.Linear(6, 7, bias=False)
        self.decoder.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        h = self.tokens(ids) + self.positions(places)
        h = self.layer(h.transpose(0, 1)).transpose(0, 1)
        return self.decoder(h).transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self, kind: Any, *, width: int = 4, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.cell = kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cell(self.embedding(ids))[0][:, -1])


class CrossAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.query(x), x, x)[0].sum(1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.layer(x)))
        return self.norm(self.layer(h))[:, :3]


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight @ self.weight).T


class RawUse(nn.Module):
    """A layer whose weight is used once more, outside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.layer(h) + torch.einsum("nd,ed->ne", h, self.layer.weight.exp())


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]


class Custom(nn.Module):
    """A function without batching rule, acting on a raw parameter and on data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(self.layer(x)) @ Cube.apply(self.weight)  # type: ignore[operator]


class Looped(nn.Module):
    """Calls its layer for each sample alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.tanh(self.layer(sample)) for sample in x])


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.LayerNorm(6))
        self.last = nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = checkpoint(self.body, h, use_reentrant=self.reentrant)
        return self.last(h)  # type: ignore[arg-type]


class PairOfInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(3, 4, 2)
        self.other = nn.Linear(4, 2)

    def forward(self, left: Tensor, right: Tensor, scale: float = 2.0) -> Tensor:
        return self.bilinear(left, right) + scale * self.other(right)


class Elementwise(nn.Module):
    """Raw parameters that scale, shift, divide and are divided."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4) + 1)
        self.shift = nn.Parameter(torch.rand(()))
        self.divisor = nn.Parameter(torch.rand(3, 1) + 1)
        self.dividend = nn.Parameter(torch.rand(3, 4))
        self.minuend = nn.Parameter(torch.rand(1, 3, 1))
        self.subtrahend = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.scale * x + self.shift
        h = self.minuend - h / self.divisor
        return torch.tanh(self.dividend / (h.square() + 1) - self.subtrahend).sum(1)


class Stashed(nn.Module):
    """Leaves part of its work on itself, to be used later."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))
        self.aside = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.aside = x * self.weight
        return self.aside.square()


class UsesStash(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.stashed = Stashed()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stashed(self.first(x))
        return y + self.stashed.aside


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.used(x))


def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((1, 4), (4, 6)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 5), nn.Linear(5, 3))


def _resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        Residual(3),
        Residual(3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    )


def _convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 2, stride=2),
        ConvNeXtBlock(4),
        Lambda(lambda x: x.mean((2, 3))),
        nn.Linear(4, 3),
    )


def _windows() -> nn.Module:
    """Linear layers on (sample · window) and on (position · sample) rows."""
    return nn.Sequential(
        Lambda(lambda x: x.reshape(-1, 2, 4)),
        nn.Linear(4, 4),
        nn.LayerNorm(4),
        Lambda(lambda x: x.reshape(-1, 12, 4).transpose(0, 1).reshape(-1, 4)),
        nn.Linear(4, 3),
        nn.PReLU(),
        Lambda(lambda x: x.reshape(12, -1, 3).sum(0)),
    )


def _parametrized() -> nn.Module:
    return nn.Sequential(orthogonal(nn.Linear(4, 4)), spectral_norm(nn.Linear(4, 3)))


def _deep_lstm() -> nn.Module:
    return Recurrent(nn.LSTM, width=8, num_layers=2, bidirectional=True)


def _images(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(SAMPLES, *shape, dtype=torch.float64)


def _tokens(length: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 7, (SAMPLES, length))


def _pair() -> dict[str, Any]:
    doubles = torch.float64
    left = torch.randn(SAMPLES, 3, dtype=doubles)
    return {"left": left, "right": torch.randn(SAMPLES, 4, dtype=doubles), "scale": 3.0}


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "vgg": (_vgg, _images(1, 8, 8)),
    "resnet": (_resnet, _images(1, 6, 6)),
    "convnext": (_convnext, _images(1, 6, 6)),
    "vision transformer": (VisionTransformer, _images(1, 6, 6)),
    "class token by repeat": (lambda: VisionTransformer(repeat=True), _images(1, 6, 6)),
    "language model": (LanguageModel, _tokens(5)),
    "as many positions as samples": (LanguageModel, _tokens(SAMPLES)),
    "lstm": (lambda: Recurrent(nn.LSTM), _tokens(4)),
    "gru": (lambda: Recurrent(nn.GRU), _tokens(4)),
    "rnn": (lambda: Recurrent(nn.RNN), _tokens(4)),
    "deep bidirectional lstm": (_deep_lstm, _tokens(3)),
    "cross attention": (CrossAttention, _images(3, 4)),
    "attention with extras": (
        lambda: CrossAttention(add_bias_kv=True, add_zero_attn=True),
        _images(3, 4),
    ),
    "twice": (Twice, _images(4)),
    "squared": (Squared, _images(4)),
    "raw use": (RawUse, _images(4)),
    "custom": (Custom, _images(4)),
    "looped": (Looped, _images(4)),
    "checkpointed": (Checkpointed, _images(4)),
    "experts": (Experts, _images(3, 4)),
    "experts by products": (Dispatched, signed),
    "packed": (Packed, ragged),
    "dictionary": (PairOfInputs, _pair),
    "elementwise": (Elementwise, _images(3, 4)),
    "windows": (_windows, _images(12, 4)),
    "stash": (UsesStash, _images(4)),
    "unused": (Unused, _images(4)),
    "weight norm": (
        lambda: nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 2)),
        _images(4),
    ),
    "orthogonal and spectral norm": (_parametrized, _images(4)),
    "embedding bag": (
        lambda: nn.Sequential(nn.EmbeddingBag(7, 3, mode="mean"), nn.Linear(3, 2)),
        _tokens(4),
    ),
}


def build(name: str) -> tuple[nn.Module, Any]:
    """Return a network in float64 and eval mode, and its inputs."""
    make_model, make_inputs = CASES[name]
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(3)
        model = make_model().double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        return model, make_inputs()


def count(inputs: Any) -> int:
    """Return the number of samples."""
    if isinstance(inputs, dict):
        return next(len(v) for v in inputs.values() if isinstance(v, Tensor))
    return len(inputs)


def sample(inputs: Any, index: int) -> Any:
    """Return one sample as a batch."""
    if isinstance(inputs, dict):
        return {k: sample(v, index) for k, v in inputs.items()}
    return inputs[index : index + 1] if isinstance(inputs, Tensor) else inputs
