"""From the words of a command line to the options of its verb."""

from typing import Annotated

import tyro

from eigenscope.cli.options import (
    CompareOptions,
    DemoOptions,
    FitOptions,
    HessianOptions,
    InfoOptions,
    JacobianOptions,
    MatchOptions,
    NTKOptions,
    PlanOptions,
    ReportOptions,
    RunOptions,
    SeriesOptions,
    TrainOptions,
    WeightsOptions,
)

Options = (
    Annotated[DemoOptions, tyro.conf.subcommand("demo")]
    | Annotated[JacobianOptions, tyro.conf.subcommand("jacobian")]
    | Annotated[NTKOptions, tyro.conf.subcommand("ntk")]
    | Annotated[HessianOptions, tyro.conf.subcommand("hessian")]
    | Annotated[TrainOptions, tyro.conf.subcommand("train")]
    | Annotated[SeriesOptions, tyro.conf.subcommand("series")]
    | Annotated[FitOptions, tyro.conf.subcommand("fit")]
    | Annotated[CompareOptions, tyro.conf.subcommand("compare")]
    | Annotated[ReportOptions, tyro.conf.subcommand("report")]
    | Annotated[PlanOptions, tyro.conf.subcommand("plan")]
    | Annotated[MatchOptions, tyro.conf.subcommand("match")]
    | Annotated[WeightsOptions, tyro.conf.subcommand("weights")]
    | Annotated[InfoOptions, tyro.conf.subcommand("info")]
)


def parse(words: list[str], *, defaults: RunOptions | None = None) -> Options:
    """Return the options of the verb on the command line.

    Args:
        words: What stands after the program's name; nothing shows the help.
        defaults: What options are that are not among the words; None for the usual
            defaults.

    Returns:
        The options; wrong ones end the process with a message and code 2.

    Raises:
        SystemExit: With 0 after help that was asked for, 2 after a message.
    """
    try:
        return tyro.cli(
            Options,  # pyright: ignore[reportArgumentType] - a union of dataclasses
            prog="eigenscope",
            description="Spectra of PyTorch networks.",
            args=words or ["--help"],
            default=tyro.MISSING if defaults is None else defaults,
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.FlagCreatePairsOff,
            ),
        )
    except SystemExit as end:
        if not words:
            raise SystemExit(2) from end
        raise
