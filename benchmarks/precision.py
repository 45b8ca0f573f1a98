"""What bfloat16, float16 and float32 change in spectra, against float64.

    python benchmarks/precision.py [--per-class 6] [--out FILE]

Two networks of the model zoo on Fashion-MNIST, 6 images of each class, with the same
weights rounded to each type. Sums over samples are taken in float32 at least, whatever
the type of the network; LAPACK runs in float64.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from report import Report
from torch import Tensor, nn

import eigenscope as es
from eigenscope.zoo import build_model, load_data

_TYPES = (torch.bfloat16, torch.float16, torch.float32)
_MODELS = ("lenet", "mlp-512")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-class", type=int, default=6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data = load_data(
        "fashion-mnist", root=None, split="test", per_class=given.per_class
    )
    inputs, targets = data.inputs.double(), data.targets
    report = Report()
    report.table("network", "quantity", *(str(t).split(".")[1] for t in _TYPES))
    for name in _MODELS:
        model = build_model(
            name, sample_shape=tuple(inputs.shape[1:]), num_classes=10, seed=0
        )
        exact = copy.deepcopy(model).double().eval()
        expected = {key: made() for key, made in _quantities(exact, inputs, targets)}
        errors: dict[str, list[str]] = {key: [] for key in expected}
        for dtype in _TYPES:
            rounded = copy.deepcopy(exact).to(dtype)
            for key, made in _quantities(rounded, inputs.to(dtype), targets):
                try:
                    errors[key].append(f"{_error(made(), expected[key]):.1e}")
                except (RuntimeError, ValueError) as error:
                    errors[key].append(type(error).__name__)
                    print(key, dtype, error)
        for key, row in errors.items():
            report.row(name, key, *row)
    if given.out is not None:
        given.out.write_text("\n".join(report.lines) + "\n")


def _quantities(
    model: nn.Module, inputs: Tensor, targets: Tensor
) -> list[tuple[str, Callable[[], Tensor]]]:
    problem = es.Problem(model, (inputs, targets), loss=nn.CrossEntropyLoss())
    jacobian = es.InputJacobian(problem)
    gram = es.gram(jacobian, accumulate=_wide(inputs.dtype))
    hessian = es.Hessian(problem)
    source = torch.Generator().manual_seed(0)
    vector = torch.randn(hessian.shape[0], generator=source).sign().to(inputs.dtype)
    return [
        ("input Jacobian", jacobian.dense),
        ("its Gram matrix", gram.dense),
        ("its eigenvalues", lambda: torch.tensor(es.spectrum(gram).values)),
        ("tangent kernel (trace)", es.NTK(problem, outputs="trace").dense),
        ("Gauss-Newton product", lambda: es.GaussNewton(problem) @ vector),
        ("Hessian product", lambda: hessian @ vector),
        ("largest Hessian eigenvalue", lambda: _largest(hessian)),
    ]


def _largest(hessian: es.Hessian) -> Tensor:
    pairs = es.top_eigenpairs(hessian, 1, method="lanczos", max_matvecs=40)
    return pairs.values


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    norm = torch.linalg.vector_norm
    return float(norm(found - expected) / norm(expected))


if __name__ == "__main__":
    main()
