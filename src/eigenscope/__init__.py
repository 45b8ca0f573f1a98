"""Spectra of PyTorch networks."""
