"""Train LeNet-5 with and without a penalty on its middle layers' Hessian trace.

python examples/regularize_trace.py --out trace.json

The penalty is γ times a random estimate of the trace, added to every fifth loss. The
same network, order of batches and number of steps for every γ; several seeds. Written
are test accuracy and the trace of the whole Hessian and of its middle layers on 500
training images, before and after.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import eigenscope as es
from eigenscope import zoo
from eigenscope.training import accuracy

NUM_TRACED = 500


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The effect of a trace penalty.")
    parser.add_argument("--data", default="fashion-mnist", help="name of the data set")
    parser.add_argument("--data-root", type=Path, help="folder that holds it")
    parser.add_argument("--num-samples", type=int, default=1000, help="to train on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--weights", type=float, nargs="+", default=[0.0, 3e-3, 1e-2], metavar="γ"
    )
    parser.add_argument("--every", type=int, default=5, help="steps between penalties")
    parser.add_argument("--num-probes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("trace.json"))
    return parser.parse_args()


def train(
    arguments: argparse.Namespace, data: Any, weight: float, seed: int
) -> nn.Module:
    """SGD with momentum; a penalized step costs about five times a plain one."""
    model = zoo.build_model(
        "lenet", sample_shape=data.sample_shape, num_classes=10, seed=seed
    )
    penalty = es.TracePenalty(
        model,
        weight=weight,
        num_probes=arguments.num_probes,
        every=arguments.every,
        seed=seed,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    source = torch.Generator().manual_seed(seed)
    step = 0
    for _ in range(arguments.epochs):
        order = torch.randperm(len(data.inputs), generator=source)
        for chosen in order.split(32):
            outputs = model(data.inputs[chosen])
            loss = nn.functional.cross_entropy(outputs, data.targets[chosen])
            optimizer.zero_grad()
            penalty(loss, step=step).backward()
            optimizer.step()
            step += 1
    return model


def measured(model: nn.Module, train: Any, test: Any) -> dict[str, float]:
    some = train.inputs[:NUM_TRACED], train.targets[:NUM_TRACED]
    middle = es.TracePenalty(model, weight=0.0).params
    traces: Mapping[str, es.Estimate] = es.CurvatureTrace(
        some, nn.CrossEntropyLoss(), layers={"middle": middle}, num_matvecs=30
    )(model)
    return {
        "test accuracy": accuracy(model, test.inputs, test.targets),
        "train accuracy": accuracy(model, train.inputs, train.targets),
        "trace": float(traces["full"]),
        "middle trace": float(traces["middle"]),
    }


def main() -> None:
    arguments = parse_arguments()
    training = zoo.load_data(
        arguments.data,
        root=arguments.data_root,
        split="train",
        num_samples=arguments.num_samples,
    )
    test = zoo.load_data(arguments.data, root=arguments.data_root, split="test")
    rows: list[dict[str, float]] = []
    for seed in range(arguments.seeds):
        for weight in arguments.weights:
            start = time.perf_counter()
            model = train(arguments, training, weight, seed)
            seconds = time.perf_counter() - start
            row = {"weight": weight, "seed": seed, "seconds": seconds}
            rows.append(row | measured(model, training, test))
            print(json.dumps(rows[-1]), flush=True)
            arguments.out.write_text(json.dumps(rows, indent=1))
    for weight in arguments.weights:
        print(f"γ = {weight:g}, mean ± standard deviation of {arguments.seeds} seeds:")
        for name in ("test accuracy", "train accuracy", "trace", "middle trace"):
            found = [row[name] for row in rows if row["weight"] == weight]
            values = torch.tensor(found, dtype=torch.float64)
            spread = float(values.std()) if len(values) > 1 else float("nan")
            print(f"  {name}: {float(values.mean()):.4g} ± {spread:.2g}")


if __name__ == "__main__":
    main()
