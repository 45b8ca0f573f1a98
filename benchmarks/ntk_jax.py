"""neural-tangents on the networks of ntk.py, in an environment of its own.

    python -m venv nt
    nt/bin/pip install neural-tangents==0.6.5 jax==0.4.30 jaxlib==0.4.30
    nt/bin/python benchmarks/ntk_jax.py MODEL N REPETITIONS

Prints a JSON object: median seconds of each implementation, without compilation.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import neural_tangents as nt
from jax import config, lax, nn, random
from jax._src import source_info_util
from jax.interpreters import ad

# What neural-tangents 0.6.5 looks for where older versions of JAX had it.
ad.source_info_util, ad.config = source_info_util, config

Params = list[Any]
Apply = Callable[[Params, jax.Array], jax.Array]


def weights(*shapes: tuple[int, ...]) -> Params:
    keys = random.split(random.PRNGKey(0), len(shapes))
    return [
        random.normal(key, shape) * (shape[0] ** -0.5 if len(shape) > 1 else 0.1)
        for key, shape in zip(keys, shapes, strict=True)
    ]


def conv(x: jax.Array, w: jax.Array, stride: int = 1, padding: str = "SAME") -> Any:
    dims = ("NHWC", "HWIO", "NHWC")
    w = w / (w[..., 0].size / w.shape[0]) ** 0.5
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=dims
    )


def pooled(x: jax.Array) -> jax.Array:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def lenet(params: Params, x: jax.Array) -> jax.Array:
    for w, b in (params[:2], params[2:4]):
        x = pooled(nn.relu(conv(x, w, padding="VALID") + b))
    x = x.reshape(len(x), -1)
    for w, b in (params[4:6], params[6:8]):
        x = nn.relu(x @ w + b)
    return x @ params[8] + params[9]


def mlp(params: Params, x: jax.Array) -> jax.Array:
    x = x.reshape(len(x), -1)
    for w, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = nn.relu(x @ w + b)
    return x @ params[-2] + params[-1]


def resnet20(params: Params, x: jax.Array) -> jax.Array:
    """Batch norms in eval mode are scales and shifts."""
    left = iter(params)

    def normed(x: jax.Array, stride: int = 1) -> jax.Array:
        w, scale, shift = next(left), next(left), next(left)
        return conv(x, w, stride) * scale + shift

    x = nn.relu(normed(x))
    for stage in range(3):
        for unit in range(3):
            stride = 2 if stage and not unit else 1
            y = normed(nn.relu(normed(x, stride)))
            x = nn.relu(y + (normed(x, stride) if stride == 2 else x))
    return x.mean((1, 2)) @ next(left) + next(left)


def resnet20_shapes() -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(3, 3, 3, 16), (16,), (16,)]
    before = 16
    for width in (16, 32, 64):
        for unit in range(3):
            shapes += [(3, 3, before, width), (width,), (width,)]
            shapes += [(3, 3, width, width), (width,), (width,)]
            if before != width:
                shapes += [(1, 1, before, width), (width,), (width,)]
            before = width
            del unit
    return [*shapes, (64, 10), (10,)]


def encoder(params: Params, x: jax.Array) -> jax.Array:
    """Two layers, 4 heads, normalized after each sum."""

    def normed(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        centered = x - x.mean(-1, keepdims=True)
        variance = (centered**2).mean(-1, keepdims=True)
        return centered * lax.rsqrt(variance + 1e-5) * scale + shift

    def heads(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], 4, 16).transpose(0, 2, 1, 3)

    left = iter(params)
    for _ in range(2):
        q, k, v = (heads(x @ next(left) + next(left)) for _ in range(3))
        mixed = nn.softmax(q @ k.transpose(0, 1, 3, 2) / 4) @ v
        mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
        x = normed(x + mixed @ next(left) + next(left), next(left), next(left))
        hidden = nn.relu(x @ next(left) + next(left))
        x = normed(x + hidden @ next(left) + next(left), next(left), next(left))
    return x.mean(1) @ next(left) + next(left)


ENCODER = [*[(64, 64), (64,)] * 4, (64,), (64,), (64, 128), (128,), (128, 64)]
ENCODER += [(64,), (64,), (64,)]
MLP = [(3072, 512), (512,), (512, 512), (512,), (512, 512), (512,), (512, 10), (10,)]
LENET = [(5, 5, 1, 6), (6,), (5, 5, 6, 16), (16,), (400, 120), (120,), (120, 84)]
MODELS: dict[str, tuple[Apply, list[tuple[int, ...]], tuple[int, ...]]] = {
    "LeNet": (lenet, [*LENET, (84,), (84, 10), (10,)], (32, 32, 1)),
    "ResNet-20": (resnet20, resnet20_shapes(), (32, 32, 3)),
    "MLP 3 × 512 on 3,072 inputs": (mlp, MLP, (32, 32, 3)),
    "transformer encoder": (encoder, [*ENCODER, *ENCODER, (64, 10), (10,)], (16, 64)),
}


def main() -> None:
    name, n, repetitions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chosen = sys.argv[4:] or ["STRUCTURED_DERIVATIVES", "JACOBIAN_CONTRACTION"]
    apply, shapes, shape = MODELS[name]
    params = weights(*shapes)
    x = random.normal(random.PRNGKey(1), (n, *shape))
    found: dict[str, float | str] = {}
    for way in chosen:
        kernel = nt.empirical_ntk_fn(
            apply,
            trace_axes=(),
            vmap_axes=0,
            implementation=nt.NtkImplementation[way],
        )
        compiled = jax.jit(lambda p, x, kernel=kernel: kernel(x, None, p))
        try:
            compiled(params, x).block_until_ready()
        except Exception as error:  # whatever the library raises is the result
            found[way] = f"{type(error).__name__}: {str(error)[:60]}"
            continue
        seconds = []
        for _ in range(repetitions):
            start = time.perf_counter()
            compiled(params, x).block_until_ready()
            seconds.append(time.perf_counter() - start)
        found[way] = statistics.median(seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
