"""Train LeNet-5 on the real Fashion-MNIST training set and save its weights.

python examples/train_lenet.py --out lenet_fashion.safetensors
python examples/train_lenet.py --random-labels --epochs 100 --out random.safetensors
"""

import argparse
import time
from pathlib import Path

import torch

from eigenscope import zoo
from eigenscope.training import TrainingLog, accuracy, train_classifier


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train LeNet-5 and save it.")
    parser.add_argument("--data", default="fashion-mnist", help="name of the data set")
    parser.add_argument("--data-root", type=Path, help="folder that holds it")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--random-labels", action="store_true", help="replace every training label"
    )
    parser.add_argument("--out", type=Path, default=Path("lenet.safetensors"))
    return parser.parse_args()


def report(log: TrainingLog) -> None:
    print(
        f"epoch {len(log.losses)}: loss {log.losses[-1]:.4f}, "
        f"accuracy while training {log.accuracies[-1]:.4f}",
        flush=True,
    )


def main() -> None:
    arguments = parse_arguments()
    generator = torch.Generator().manual_seed(arguments.seed)
    train, test = (
        zoo.load_data(arguments.data, root=arguments.data_root, split=split)
        for split in ("train", "test")
    )
    targets = train.targets
    if arguments.random_labels:
        targets = torch.randint(train.num_classes, targets.shape, generator=generator)
    model = zoo.build_model(
        "lenet",
        sample_shape=train.sample_shape,
        num_classes=train.num_classes,
        seed=arguments.seed,
    )
    start = time.perf_counter()
    train_classifier(
        model,
        train.inputs,
        targets,
        epochs=arguments.epochs,
        batch_size=256,
        learning_rate=1e-2,
        momentum=0.9,
        generator=generator,
        progress=report,
    )
    seconds = time.perf_counter() - start
    zoo.save_weights(model, arguments.out)
    print(
        f"train accuracy {accuracy(model, train.inputs, targets):.4f}, "
        f"test accuracy {accuracy(model, test.inputs, test.targets):.4f}, "
        f"{seconds:.0f} s; weights in {arguments.out}"
    )


if __name__ == "__main__":
    main()
