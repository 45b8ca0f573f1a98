"""Fixtures that all tests share; nothing of the package is imported here."""

import pytest
import torch


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)
