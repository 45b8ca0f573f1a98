"""`eigenscope weights`: spectra of a network's weight matrices and their tails."""

import json

from torch import nn

from eigenscope.cli.options import ProblemOptions, WeightsOptions
from eigenscope.cli.problems import problem_of
from eigenscope.cli.tables import terminal_table
from eigenscope.estimators import weight_spectra
from eigenscope.plots import comparison_figure, save_figure
from eigenscope.report.csv_files import write_csv
from eigenscope.report.matching import make_output_folder, require_no_run
from eigenscope.report.training_numbers import WEIGHT_KEYS, tail_fits, weight_row


def run_weights(options: WeightsOptions) -> None:
    """Compute, fit, draw and print."""
    require_no_run(options.out)
    spectra = weight_spectra(
        network_of(options),
        params=options.params,
        kernels=options.kernels,
        memory=options.memory,
    )
    fits = tail_fits(spectra, options.xmin)
    rows = [
        weight_row(name, found, fits[name].get(options.xmin))
        for name, found in spectra.items()
    ]
    make_output_folder(options.out)
    for number, found in enumerate(spectra.values()):
        found.save(options.out / f"spectrum_{number:03d}.npz")
    write_csv(options.out / "weights.csv", WEIGHT_KEYS, rows)
    title = f"Weights of {options.model}"
    figure = comparison_figure(
        spectra, fits, title=title, quantity="eigenvalue σ² of W Wᵀ"
    )
    save_figure(figure, options.out / "weights.png")
    if options.json:
        entries = [dict(zip(WEIGHT_KEYS, row, strict=True)) for row in rows]
        print(json.dumps({"out": str(options.out), "weights": entries}, indent=2))
        return
    print(terminal_table(WEIGHT_KEYS, rows))
    print(f"figure: {options.out / 'weights.png'}")
    print(f"table:  {options.out / 'weights.csv'}")


def network_of(options: WeightsOptions) -> nn.Module:
    """Return the network, built for the data set.

    Args:
        options: Of the command line.

    Returns:
        The network with its weights.
    """
    named = problem_of(
        ProblemOptions(
            model=options.model,
            weights=options.weights,
            data=options.data,
            data_root=options.data_root,
            num_samples=None,
            seed=options.seed,
        )
    )
    return named.problem.model
