"""What several processes compute together, and one alone, to be compared."""

import os
import signal
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import eigenscope as es
from eigenscope.operators import SymmetricOperator

NUM_SAMPLES = 11


def network() -> nn.Sequential:
    torch_state = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 3)
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            drawn = torch.randn(parameter.shape, generator=torch_state)
            parameter.copy_(drawn.double() / parameter[0].numel() ** 0.5)
    return net


def samples(count: int = NUM_SAMPLES) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 1, 6, 6, generator=source, dtype=torch.float64)
    targets = torch.randint(0, 3, (count,), generator=source)
    targets[0] = -100
    return inputs, targets


def problem(count: int = NUM_SAMPLES, *, batch_size: int = 4) -> es.Problem:
    """Ragged batches, an ignored target and class weights: a real denominator."""
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]).double())
    return es.Problem(network(), samples(count), loss=loss, batch_size=batch_size)


def recorded_training(made: es.Run, *, killed_at: int | None = None) -> None:
    """Train for four steps and measure before each of them."""
    model, (inputs, targets) = network(), samples()
    loss = nn.CrossEntropyLoss()
    measures = {
        "trace": es.CurvatureTrace((inputs, targets), loss, num_matvecs=8),
        "jacobian": es.JacobianSpectrum(inputs),
        "top": es.CurvatureEigenvalues((inputs, targets), loss),
    }
    recorder = es.Recorder(made, measures)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        recorder.record(model, step)
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
    made.complete()


def vectors(size: int, count: int = 2) -> Tensor:
    source = torch.Generator().manual_seed(size)
    return torch.randn(size, count, generator=source, dtype=torch.float64)


def of_jacobian(jacobian: es.InputJacobian | es.ParameterJacobian) -> dict[str, Tensor]:
    rows, columns = jacobian.shape
    found = {
        "dense": jacobian.dense(),
        "product": jacobian @ vectors(columns),
        "transposed": jacobian.T @ vectors(rows),
        "row norms": jacobian.squared_row_norms(),
        "column norms": jacobian.squared_column_norms(),
    }
    for side in ("rows", "columns"):
        gram = es.gram(jacobian, side=side)
        found |= {f"gram {side} {k}": v for k, v in of_symmetric(gram).items()}
    return found


def of_symmetric(operator: SymmetricOperator) -> dict[str, Tensor]:
    return {
        "dense": operator.dense(),
        "product": operator @ vectors(operator.shape[0]),
        "diagonal": operator.diagonal(),
    }


def input_jacobians() -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layout in ("samples", "outputs"):
        jacobian = es.InputJacobian(problem(), layout=layout)
        found |= {f"{layout} {k}": v for k, v in of_jacobian(jacobian).items()}
    found["raw"] = jacobian.raw_outputs()
    source = torch.Generator().manual_seed(3)
    found["sketch"] = jacobian.sketch(5, generator=source)
    found["after the sketch"] = torch.rand(2, generator=source)
    small = es.gram(jacobian, side="rows", memory=80_000)
    found["little memory"] = small.dense()
    return found


def parameter_jacobians() -> dict[str, Tensor]:
    jacobian = es.ParameterJacobian(problem())
    found = of_jacobian(jacobian)
    found["wide"] = jacobian.T @ vectors(jacobian.shape[0], 5)
    return found


def curvatures() -> dict[str, Tensor]:
    whole = problem()
    operators = {
        "hessian": es.Hessian(whole),
        "gauss-newton": es.GaussNewton(whole),
        "true": es.Fisher(whole),
        "empirical": es.Fisher(whole, kind="empirical"),
        "sampled": es.Fisher(whole, kind="sampled", num_draws=2),
    }
    found = {"risk": torch.tensor(operators["hessian"].risk.value)}
    for name, operator in operators.items():
        found |= {f"{name} {k}": v for k, v in of_symmetric(operator).items()}
    for name, block in es.layer_blocks(operators["hessian"]).items():
        found |= {f"{name} {k}": v for k, v in of_symmetric(block).items()}
    mixed = operators["hessian"] - operators["gauss-newton"]
    found["difference"] = mixed @ vectors(mixed.shape[0])
    return found


def kernels() -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for outputs in ("full", "trace"):
        kernel = es.NTK(problem(batch_size=2), outputs=outputs)
        found |= {f"{outputs} {k}": v for k, v in of_symmetric(kernel).items()}
    return found


def estimates() -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hessian = es.Hessian(problem())
    for method in ("exact", "slq", "kpm"):
        spectrum = es.spectrum(hessian, method=method, tolerance=0.05)
        found[f"values {method}"] = torch.tensor(spectrum.values)
        found[f"weights {method}"] = torch.tensor(spectrum.weights)
    for method in ("exact", "lanczos"):
        pairs = es.top_eigenpairs(hessian, 3, which="magnitude", method=method)
        found[f"top {method}"] = pairs.values
        found[f"vectors {method}"] = pairs.vectors.abs()
    for method in ("xtrace", "hutch++", "hutchinson"):
        estimate = es.trace(hessian, method=method, num_matvecs=20)
        found[f"trace {method}"] = torch.tensor([estimate.value, estimate.stderr])
    estimate = es.diagonal(hessian, num_matvecs=20)
    found["diagonal"] = torch.as_tensor(estimate.value)
    small = es.spectrum(es.GaussNewton(problem()))
    found["small side"] = torch.tensor(small.values)
    raised = es.top_eigenpairs(es.GaussNewton(problem()), 2)
    found["raised values"] = raised.values
    found["raised vectors"] = raised.vectors.abs()
    gram = es.gram(es.InputJacobian(problem()))
    found["gram"] = torch.tensor(es.spectrum(gram).values)
    return found


def functions() -> dict[str, Tensor]:
    """Sums over eigenvalues, functions of matrices, means of classes, checks."""
    gauss = es.GaussNewton(problem())
    gram = es.gram(es.InputJacobian(problem()))
    kernel = es.NTK(problem(batch_size=2), outputs="trace")
    found: dict[str, Tensor] = {}
    for kind in ("frobenius", "nuclear", "spectral"):
        found[f"norm {kind}"] = torch.tensor(es.norm(gauss, kind).value)
    total = es.spectral_sum(gram, np.sqrt, method="slq", tolerance=0.05)
    found["sum"] = torch.tensor(total.value)
    found["determinant"] = torch.tensor(es.log_determinant(kernel).value)
    block = vectors(gram.shape[0])
    found["function"] = es.apply_function(gram, np.exp, block / gram.dense().norm())
    found["scaled"] = (2.0 * gauss - es.Hessian(problem())) @ vectors(gauss.shape[0])
    parts = es.decompose_by_class(es.GaussNewton(problem()))
    found |= {"means": parts.means, "weights": parts.weights}
    found |= {f"within {k}": v for k, v in of_symmetric(parts.within).items()}
    blocks = es.layer_blocks(gauss, by="module")
    found |= {
        f"exact {k}": torch.tensor(es.spectrum(b).values) for k, b in blocks.items()
    }
    verdict = es.verify(es.Hessian(problem()))
    found["verified"] = torch.tensor(float(verdict.has_passed))
    return found


def few_samples() -> dict[str, Tensor]:
    """Two samples: with three processes one has none."""
    small = problem(2)
    found = of_jacobian(es.InputJacobian(small))
    found |= of_jacobian(es.ParameterJacobian(small))
    found |= of_symmetric(es.Hessian(small))
    found |= {f"NTK {k}": v for k, v in of_symmetric(es.NTK(small)).items()}
    return found


CASES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "input Jacobians": input_jacobians,
    "parameter Jacobians": parameter_jacobians,
    "curvature": curvatures,
    "kernels": kernels,
    "estimates": estimates,
    "functions": functions,
    "fewer samples than ranks": few_samples,
}
