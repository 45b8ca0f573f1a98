"""What each verb takes; one frozen dataclass is type, default and help in one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

OutputName = Literal["logits", "probabilities", "log_probabilities"]
Layout = Literal["samples", "outputs"]
Dtype = Literal["float32", "float64"]
Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JacobianOptions:
    """Spectra of the input-output Jacobian of a network over a data set."""

    model: str = "lenet"
    """A model by name (`eigenscope info` lists them) or package.module:factory."""
    weights: Path | None = None
    """Weights: .safetensors, or a state_dict saved by torch.save."""
    data: str = "digits"
    """A data set by name (`eigenscope info` lists them) or package.module:factory."""
    data_root: Path | None = None
    """Folder that holds the data set's files."""
    split: Split = "test"
    """Which part of the data set."""
    num_samples: int | None = None
    """Take the first so many samples; all if not given."""
    per_class: int | None = None
    """Take the first so many samples of each class."""
    batch_size: int | None = None
    """Samples that go through the network together; chosen if not given."""
    output: tuple[OutputName, ...] = ("logits",)
    """Outputs to differentiate; several cost one set of backward passes."""
    layout: tuple[Layout, ...] = ("samples",)
    """samples: n × k·d, one row a sample; outputs: n·k × d, one row an output."""
    vectors: int = 0
    """Top eigenvectors to keep and draw of every Gram matrix."""
    replicas: int = 0
    """Bootstrap replicas for the p-value of each tail fit."""
    device: str = "cpu"
    """Where the network runs, such as cuda or mps."""
    dtype: Dtype = "float32"
    """Precision of network and Jacobian."""
    seed: int = 0
    """Seed of weights that are not loaded, and of the bootstrap."""
    out: Path = Path("runs/jacobian")
    """The run's folder."""
    resume: bool = False
    """Go on with the run in the folder; options that are not given are the run's."""
    memory: str | None = None
    """Memory to use, such as 4GiB; half of what is available if not given."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Train LeNet on real digits with true and random labels; compare the spectra."""

    out: Path = Path("eigenscope-demo")
    """Folder for the runs, the figures and the page."""
    epochs: int = 30
    """Epochs of training with true labels; random ones take four times as many."""
    seed: int = 0
    """Seed of the weights, the order of samples and the random labels."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """Fit a power law to the tail of eigenvalues in a file."""

    file: Annotated[Path, tyro.conf.Positional]
    """A saved spectrum (.npz), a NumPy array (.npy), or numbers as text."""
    xmin: str = "scan"
    """Where the tail starts: scan, peak, or a number."""
    xmax: float | None = None
    """Where it ends; nowhere if not given."""
    replicas: int = 0
    """Bootstrap replicas for the p-value."""
    figure: Path | None = None
    """Draw density and tail into this file (.png, .pdf, .svg)."""
    seed: int = 0
    """Seed of the bootstrap."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Overlay the spectra of several runs and tabulate what they say."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    output: OutputName = "logits"
    """The output to compare."""
    layout: Layout = "samples"
    """The layout to compare."""
    out: Path = Path("comparison")
    """Folder for the figure, the table and the page."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoOptions:
    """Versions, devices, models and data sets; or what a run holds."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """A run's folder."""
    json: bool = False
    """Print one JSON document instead of text."""


Options = (
    Annotated[DemoOptions, tyro.conf.subcommand("demo")]
    | Annotated[JacobianOptions, tyro.conf.subcommand("jacobian")]
    | Annotated[FitOptions, tyro.conf.subcommand("fit")]
    | Annotated[CompareOptions, tyro.conf.subcommand("compare")]
    | Annotated[InfoOptions, tyro.conf.subcommand("info")]
)


def parse(words: list[str], *, defaults: JacobianOptions | None = None) -> Options:
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
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except SystemExit as end:
        if not words:
            raise SystemExit(2) from end
        raise
