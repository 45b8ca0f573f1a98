"""What a training experiment is made of: one frozen record for each table of a TOML."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, final

from eigenscope._types import Layout, OutputName
from eigenscope.training import Optimization

SplitName = Literal["train", "test"]
LayerChoice = Literal["weights", "parameter", "module", "none"]
KernelCut = Literal["slices", "matrix"]
_TIMES: Mapping[str, int] = MappingProxyType({"every": 1, "first": 0})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """The network.

    Attributes:
        name: As for `es.build_model`: a name or package.module:factory.
        weights: A file to start from; None for initial weights from the seed.
    """

    name: str
    weights: str | None = None

    def faults(self) -> list[str]:
        """Return what is wrong, one line for each."""
        return []


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataSection:
    """The images.

    Attributes:
        name: A data set, or package.module:factory of (inputs, targets) tensors.
        root: The folder that holds it.
        num_train: The first so many of the training split; None for all.
        num_test: The first so many of the test split; None for all.
        label_noise: Share of the training labels that are drawn at random, uniformly
            over all classes; 1 for random labels. A larger share holds a smaller one.
        label_seed: Seed of those labels.
    """

    name: str
    root: str | None = None
    num_train: int | None = None
    num_test: int | None = None
    label_noise: float = 0.0
    label_seed: int = 0

    def faults(self) -> list[str]:
        """Return what is wrong, one line for each."""
        found = [
            f"{name} must be at least 1; got {value}"
            for name in ("num_train", "num_test")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        if not 0 <= self.label_noise <= 1:
            found.append(f"label_noise must be from 0 to 1; got {self.label_noise}")
        if not 0 <= self.label_seed < 2**32:
            found.append(f"label_seed must be from 0 to 2³²−1; got {self.label_seed}")
        return found


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HessianSection:
    """Hessian spectra on a few training images of each class, whole and by layer.

    Attributes:
        every: Epochs between recordings.
        first: The first epoch that is recorded; 0 is before training.
        per_class: Images of each class, without augmentation.
        layers: "weights" (every parameter of more than one axis), "parameter",
            "module" or "none".
        compatible: Repeat the published procedure: one probe, float32 Lanczos of 128
            steps without reorthogonalization, bounds from another probe's 64 steps.
        tolerance: As for `es.spectrum`, like the following.
        max_probes: The most probes.
        max_steps: The most products for each.
        num_outer: Dimension of the space that finds the outer eigenpairs.
    """

    every: int = 1
    first: int = 0
    per_class: int = 10
    layers: LayerChoice = "weights"
    compatible: bool = False
    tolerance: float = 0.02
    max_probes: int = 6
    max_steps: int = 24
    num_outer: int = 50

    def faults(self) -> list[str]:
        """Return what is wrong, one line for each."""
        least = {"per_class": 1, "max_probes": 2, "max_steps": 2, **_TIMES}
        found = _too_small(self, least | {"num_outer": 0, "tolerance": 0})
        if self.compatible and self.layers not in {"weights", "none"}:
            found.append(
                "layers must be 'weights' or 'none' with compatible = true; got "
                f"{self.layers!r}"
            )
        return found


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JacobianSection:
    """The spectrum of the input-output Jacobian's Gram matrix.

    Attributes:
        every: Epochs between recordings.
        first: The first epoch that is recorded; 0 is before training.
        num_samples: The first so many images; None for all.
        split: Of which part of the data.
        output: What is differentiated.
        layout: "samples" or "outputs".
        by_class: Also of the images of each class by themselves, with the share of them
            that is classified right.
    """

    every: int = 1
    first: int = 0
    num_samples: int | None = None
    split: SplitName = "test"
    output: OutputName = "logits"
    layout: Layout = "samples"
    by_class: bool = False

    def faults(self) -> list[str]:
        """Return what is wrong, one line for each."""
        least = {} if self.num_samples is None else {"num_samples": 2}
        return _too_small(self, {**_TIMES, **least})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSection:
    """Spectra of the weight matrices.

    Attributes:
        every: Epochs between recordings.
        first: The first epoch that is recorded; 0 is before training.
        kernels: As for `es.weight_spectra`.
    """

    every: int = 1
    first: int = 0
    kernels: KernelCut = "slices"

    def faults(self) -> list[str]:
        """Return what is wrong, one line for each."""
        return _too_small(self, _TIMES)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CurvatureSection:
    """The Hessian's largest eigenvalue and trace on training images and labels.

    Attributes:
        every: Epochs between recordings.
        first: The first epoch that is recorded; 0 is before training.
        num_samples: The first so many training images; None for all.
        num_matvecs: Products for the trace.
    """

    every: int = 1
    first: int = 0
    num_samples: int | None = None
    num_matvecs: int = 60

    def faults(self) -> list[str]:
        """Return what is wrong, one line for each."""
        least = {**_TIMES, "num_matvecs": 4}
        least |= {} if self.num_samples is None else {"num_samples": 1}
        return _too_small(self, least)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One training and what is measured at its epochs.

    Loss and accuracy on both splits are measured at every epoch; each section at every
    multiple of its `every` from its `first` on, and after the last epoch.

    Attributes:
        name: What it is called.
        description: What it is for, in a sentence.
        seed: Seed of weights, order, augmentation and probes.
        model: The network.
        data: The images.
        training: How it is trained.
        hessian: Hessian spectra, if wanted.
        jacobian: Jacobian spectra, if wanted.
        weights: Spectra of the weights, if wanted.
        curvature: Largest eigenvalue and trace of the Hessian, if wanted.
    """

    name: str
    model: ModelSection
    data: DataSection
    training: Optimization
    description: str = ""
    seed: int = 0
    hessian: HessianSection | None = None
    jacobian: JacobianSection | None = None
    weights: WeightsSection | None = None
    curvature: CurvatureSection | None = None

    def faults(self) -> list[str]:
        """Return what is wrong, one line for each."""
        return _too_small(self, {"seed": 0})


def _too_small(section: object, least: Mapping[str, int]) -> list[str]:
    return [
        f"{name} must be at least {bound}; got {getattr(section, name)}"
        for name, bound in least.items()
        if not getattr(section, name) >= bound
    ]
