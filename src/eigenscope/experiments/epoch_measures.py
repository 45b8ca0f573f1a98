"""What is measured of a network after an epoch of an experiment."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final, final

from torch import Tensor, nn

from eigenscope.experiments.configuration import (
    CurvatureSection,
    HessianSection,
    JacobianSection,
    WeightsSection,
)
from eigenscope.experiments.preparation import Prepared
from eigenscope.experiments.published import published_spectra
from eigenscope.operators import Hessian, SymmetricOperator, layer_blocks
from eigenscope.problem import Problem
from eigenscope.training import (
    CurvatureEigenvalues,
    CurvatureSpectra,
    CurvatureTrace,
    JacobianSpectrum,
    Measure,
    WeightSpectra,
    evaluate,
)

CLASS_SPECTRA: Final = "jacobian_class/"
CLASS_ACCURACIES: Final = "jacobian_class_accuracy"
_FULL = "full"
Times = HessianSection | JacobianSection | WeightsSection | CurvatureSection


@final
class PublishedSpectra:
    """Hessian spectra by the published procedure, whole and of every weight.

    Args:
        data: Images and labels.
        layers: Whether the layers are measured, too.
        seed: Of the probes, the same at every recording.
    """

    def __init__(self, data: tuple[Tensor, Tensor], *, layers: bool, seed: int) -> None:
        self._data, self._layers, self._seed = data, layers, seed

    def __call__(self, model: nn.Module) -> Mapping[str, Any]:
        """Return "full" and the layers' names to spectra."""
        return published_spectra(self.parts(model), seed=self._seed)

    def parts(self, model: nn.Module) -> dict[str, SymmetricOperator]:
        """Return "full" and the layers' names to what has these spectra."""
        problem = Problem(model, self._data, loss=nn.CrossEntropyLoss())
        matrix = Hessian(problem)
        parts: dict[str, SymmetricOperator] = {_FULL: matrix}
        if self._layers:
            names = [n for n, p in problem.params.items() if p.ndim > 1]
            parts |= layer_blocks(matrix, by={name: name for name in names})
        return parts


@final
class EpochMeasures:
    """The measures of an experiment, each due at the epochs of its section.

    Args:
        prepared: The experiment, its network and data.
        memory: Budget such as "4GiB"; None for half of what is available.

    Attributes:
        sections: Measures by name, with the section that says when they are due.
    """

    def __init__(self, prepared: Prepared, *, memory: str | int | None) -> None:
        self._prepared, self._memory = prepared, memory
        self.sections = self._of_sections()

    def at(self, epoch: int) -> dict[str, Measure]:
        """Return all measures; those that are not due give nothing.

        Args:
            epoch: Epochs that are behind the network; 0 before the first.

        Returns:
            The measures by name.
        """
        scores = cache(self._scores)
        measures: dict[str, Measure] = {
            "loss": lambda model: {k: loss for k, (loss, _) in scores(model).items()},
            "accuracy": lambda model: {
                k: right for k, (_, right) in scores(model).items()
            },
        }
        for name, (times, measure) in self.sections.items():
            measures[name] = measure if self._is_due(epoch, times) else _nothing
        return measures

    def num_recordings(self, name: str) -> int:
        """Return how often a section's measure is due in the whole training."""
        times, _ = self.sections[name]
        epochs = range(self._prepared.experiment.training.epochs + 1)
        return sum(self._is_due(epoch, times) for epoch in epochs)

    def _is_due(self, epoch: int, times: Times) -> bool:
        last = self._prepared.experiment.training.epochs
        return epoch == last or (epoch >= times.first and epoch % times.every == 0)

    def _scores(self, model: nn.Module) -> dict[str, tuple[float, float]]:
        train, test = self._prepared.train, self._prepared.test
        return {
            "train": evaluate(model, train.inputs, train.targets),
            "test": evaluate(model, test.inputs, test.targets),
        }

    def _of_sections(self) -> dict[str, tuple[Times, Measure]]:
        """Return every section's measures, each with the section."""
        experiment = self._prepared.experiment
        found: dict[str, tuple[Times, Measure]] = {}
        if experiment.hessian is not None:
            found["hessian"] = experiment.hessian, self._hessian(experiment.hessian)
        if (curvature := experiment.curvature) is not None:
            data = self._prepared.train.first(curvature.num_samples)
            options: dict[str, Any] = {"seed": experiment.seed, "memory": self._memory}
            loss = nn.CrossEntropyLoss()
            found["hessian_top"] = (
                curvature,
                CurvatureEigenvalues(data, loss, warm=False, **options),
            )
            found["hessian_trace"] = (
                curvature,
                CurvatureTrace(
                    data, loss, num_matvecs=curvature.num_matvecs, **options
                ),
            )
        if experiment.jacobian is not None:
            found |= self._jacobian()
        if experiment.weights is not None:
            kernels = experiment.weights.kernels
            measure = WeightSpectra(kernels=kernels, memory=self._memory)
            found["weights"] = experiment.weights, measure
        return found

    def _hessian(self, section: HessianSection) -> Measure:
        data, seed = self._prepared.hessian_data, self._prepared.experiment.seed
        if data is None:
            raise ValueError("an experiment with a Hessian section needs its data.")
        if section.compatible:
            return PublishedSpectra(data, layers=section.layers != "none", seed=seed)
        return CurvatureSpectra(
            data,
            nn.CrossEntropyLoss(),
            layers=None if section.layers == "none" else section.layers,
            tolerance=section.tolerance,
            max_probes=section.max_probes,
            max_steps=section.max_steps,
            num_outer=section.num_outer,
            seed=seed,
            memory=self._memory,
        )

    def _jacobian(self) -> dict[str, tuple[Times, Measure]]:
        section = self._prepared.experiment.jacobian
        if section is None:
            return {}
        images = (
            self._prepared.train if section.split == "train" else self._prepared.test
        )
        inputs, targets = images.first(section.num_samples)

        def measure(part: Tensor) -> Callable[[nn.Module], Any]:
            return JacobianSpectrum(
                part,
                output=section.output,
                layout=section.layout,
                memory=self._memory,
            )

        found: dict[str, tuple[Times, Measure]] = {
            "jacobian": (section, measure(inputs))
        }
        if section.by_class:
            for number in targets.unique().tolist():
                chosen = measure(inputs[targets == number])
                found[f"{CLASS_SPECTRA}{number}"] = section, chosen
            shares = partial(_accuracies, inputs=inputs, targets=targets)
            found[CLASS_ACCURACIES] = section, shares
        return found


def _accuracies(
    model: nn.Module, *, inputs: Tensor, targets: Tensor
) -> dict[str, float]:
    """Return the share of right answers of each class."""
    found: dict[str, float] = {}
    for number in targets.unique().tolist():
        chosen = targets == number
        _, found[str(number)] = evaluate(model, inputs[chosen], targets[chosen])
    return found


def _nothing(model: nn.Module) -> dict[str, Any]:
    """Return nothing: the measure is not due."""
    del model
    return {}
