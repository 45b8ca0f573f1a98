"""Matrices with known eigenvalues, for tests of dense spectra and eigenpairs."""

import numpy as np
import scipy.linalg
import torch

EPS = np.finfo(np.float64).eps


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def symmetric(size: int, seed: int = 0) -> torch.Tensor:
    matrix = normal(size, size, seed=seed)
    return matrix + matrix.T


def second_difference(size: int) -> tuple[torch.Tensor, np.ndarray]:
    """The matrix with 2 on and -1 beside the diagonal, and its eigenvalues."""
    matrix = 2 * torch.eye(size, dtype=torch.float64)
    matrix -= torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)
    matrix -= torch.diag(torch.ones(size - 1, dtype=torch.float64), -1)
    angles = np.arange(1, size + 1) * np.pi / (size + 1)
    return matrix, 2 - 2 * np.cos(angles)


def hadamard(size: int) -> torch.Tensor:
    return torch.from_numpy(scipy.linalg.hadamard(size)).double()
