"""What each verb takes; one frozen dataclass is type, default and help in one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

OutputName = Literal["logits", "probabilities", "log_probabilities"]
Layout = Literal["samples", "outputs"]
Dtype = Literal["float32", "float64"]
Side = Literal["auto", "rows", "columns"]
Split = Literal["train", "test"]
Kernel = Literal["full", "trace", "conjugate"]
Parts = Literal["none", "parameter", "module"]
Method = Literal["auto", "jacobian", "structured", "products"]
Curvature = Literal["hessian", "gauss-newton", "fisher"]
Scaling = Literal["none", "range", "max", "trace"]
Kernels = Literal["slices", "matrix"]
XminRule = Literal["scan", "peak"]
SpectrumMethod = Literal["auto", "exact", "slq", "kpm"]
SeriesMeasure = Literal["hessian", "top", "trace", "jacobian", "weights", "alignment"]
Foreign = Literal["skip", "refuse"]
SeriesLayers = Literal["none", "parameter", "module", "weights"]


def _named(metavar: str, *, hint: str | None = None) -> Any:
    """How the help names a value, and what it says in place of "(default: None)"."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


_Name = Annotated[str, _named("NAME|MODULE:FACTORY")]
_File = Annotated[Path | None, _named("FILE", hint="")]
_Folder = Annotated[Path, _named("DIR")]
_Count = Annotated[int, _named("N")]
_CountOrAll = Annotated[int | None, _named("N", hint="(default: all)")]
_CountOrAny = Annotated[int | None, _named("N", hint="(default: chosen)")]
_Outputs = Annotated[tuple[OutputName, ...], _named("OUTPUT [OUTPUT ...]")]
_Layouts = Annotated[tuple[Layout, ...], _named("LAYOUT [LAYOUT ...]")]
_Kernels = Annotated[tuple[Kernel, ...], _named("KERNEL [KERNEL ...]")]
_Curvatures = Annotated[tuple[Curvature, ...], _named("MATRIX [MATRIX ...]")]
_Measures = Annotated[tuple[SeriesMeasure, ...], _named("MEASURE [MEASURE ...]")]
_Globs = Annotated[tuple[str, ...], _named("GLOB [GLOB ...]")]
_Runs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, _named("RUN [RUN ...]", hint="")
]
_Memory = Annotated[str | None, _named("SIZE", hint="(default: half of what is free)")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemOptions:
    """A network, its data, and what every verb on them takes."""

    model: _Name = "lenet"
    """The network: a name (see `eigenscope info`) or your factory, as my_nets:wide."""
    weights: _File = None
    """Weights: .safetensors, or a state_dict that torch.save wrote."""
    data: _Name = "digits"
    """The data set, likewise."""
    data_root: Annotated[Path | None, _named("DIR", hint="")] = None
    """Folder that holds the data set's files; nothing is downloaded."""
    split: Split = "test"
    """Which part of the data set."""
    num_samples: _CountOrAll = None
    """Take the first N samples."""
    per_class: _CountOrAll = None
    """Take the first N samples of each class."""
    batch_size: _CountOrAny = None
    """Samples that go through the network together."""
    device: Annotated[str, _named("DEVICE")] = "cpu"
    """Where the network runs, such as cpu, cuda or mps."""
    dtype: Dtype = "float32"
    """Precision of the network and of what is computed with it."""
    seed: _Count = 0
    """Seed of weights that are not loaded, and of the bootstrap."""
    resume: bool = False
    """Go on with the run in the folder; options that are not given are the run's."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    store: Annotated[str | None, _named("URL", hint="(default: in the folder)")] = None
    """Object store for the run's arrays, such as s3://bucket/run."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JacobianOptions(ProblemOptions):
    """Spectra of the input-output Jacobian of a network over a data set."""

    output: _Outputs = ("logits",)
    """Any of logits, probabilities, log_probabilities; all come from one pass."""
    layout: _Layouts = ("samples",)
    """samples: n × k·d, one row per sample; outputs: n·k × d, one row per output."""
    side: Side = "auto"
    """The Gram matrix of its rows or its columns; auto is the smaller one."""
    vectors: _Count = 0
    """Top eigenvectors of every spectrum to keep and draw."""
    replicas: _Count = 0
    """Bootstrap replicas for the p-value of each tail fit."""
    out: _Folder = Path("runs/jacobian")
    """The run's folder: new or empty, unless --resume is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NTKOptions(ProblemOptions):
    """Tangent and conjugate kernels of a network over a data set, and their spectra."""

    kernel: _Kernels = ("trace",)
    """Any of full (n·k × n·k), trace (n × n, summed over outputs) and conjugate."""
    output: OutputName = "logits"
    """What the tangent kernels differentiate."""
    components: Parts = "none"
    """Write the trace kernel of every parameter or module, too."""
    layer: Annotated[str | None, _named("MODULE", hint="(default: the last)")] = None
    """Module whose output is the features of the conjugate kernel; else what enters
    the last linear layer."""
    method: Method = "auto"
    """How tangent kernels are computed; auto chooses parameter by parameter."""
    replicas: _Count = 0
    """Bootstrap replicas for the p-value of each tail fit."""
    out: _Folder = Path("runs/ntk")
    """The run's folder: new or empty, unless --resume is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HessianOptions(ProblemOptions):
    """Spectra of the Hessian, Gauss-Newton or Fisher matrix of a loss."""

    operator: _Curvatures = ("hessian",)
    """Any of hessian, gauss-newton and fisher (the empirical one)."""
    loss: _Name = "cross-entropy"
    """cross-entropy, squared-error, logistic, or your factory of a loss."""
    layers: Parts = "none"
    """Spectra of the diagonal blocks of every parameter or module, too."""
    params: _Globs = ("*",)
    """Parameters by name or glob."""
    method: SpectrumMethod = "auto"
    """exact, slq (Lanczos), kpm (Chebyshev polynomials); auto is exact if small."""
    tolerance: Annotated[float, _named("X")] = 0.02
    """W1 error of estimates, relative to the mean of |λ|."""
    top: _Count = 0
    """Eigenpairs of largest |λ| of the whole matrix to keep."""
    classes: bool = False
    """Decompose the Gauss-Newton matrix of a cross-entropy by classes, which explains
    outliers."""
    verify: bool = False
    """Check the operators' own laws first, and print the verdict with the results."""
    out: _Folder = Path("runs/hessian")
    """The run's folder: new or empty, unless --resume is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesOptions(ProblemOptions):
    """Measure a network at every checkpoint of a training, in order."""

    checkpoints: _Folder = Path("checkpoints")
    """Folder of step_9.safetensors, epoch_10.pt, checkpoint-500/ and the like."""
    counter: Annotated[str | None, _named("WORD", hint="(default: chosen)")] = None
    """The word before the number that counts, such as epoch, where names have two."""
    foreign: Foreign = "skip"
    """What to do where there is more than checkpoints, or numbers are missing."""
    every: _Count = 1
    """Take the checkpoints whose number is a multiple of N."""
    measure: _Measures = ("jacobian", "weights")
    """Any of hessian (spectra and distances of layers), top (its largest eigenvalue),
    trace, jacobian and weights (spectra and exponents), alignment (of the NTK)."""
    loss: _Name = "cross-entropy"
    """cross-entropy, squared-error, logistic, or your factory of a loss."""
    layers: SeriesLayers = "weights"
    """Layers of the Hessian: its diagonal blocks by parameter, module or weight."""
    processes: _Count = 1
    """Checkpoints that are measured at once."""
    out: _Folder = Path("runs/series")
    """The run's folder: new or empty, unless --resume is given."""


RunOptions = JacobianOptions | NTKOptions | HessianOptions | SeriesOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Train a network as an experiment says, and measure it epoch by epoch."""

    config: Annotated[
        str | None, tyro.conf.Positional, _named("EXPERIMENT|FILE.toml", hint="")
    ] = None
    """An experiment by name (see --list) or a file; with --resume the run's own."""
    list: bool = False
    """List the experiments that come with the package."""
    set: Annotated[tuple[str, ...], _named("KEY=VALUE [KEY=VALUE ...]", hint="")] = ()
    """Replace entries of the experiment, such as training.epochs=3."""
    data_root: Annotated[Path | None, _named("DIR", hint="")] = None
    """Folder that holds the data set's files; nothing is downloaded."""
    device: Annotated[str, _named("DEVICE")] = "cpu"
    """Where the network runs, such as cpu, cuda or mps."""
    out: Annotated[Path | None, _named("DIR", hint="(default: runs/EXPERIMENT)")] = None
    """The run's folder, or that of all runs of a study: new or empty."""
    resume: bool = False
    """Go on with what is in the folder."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Train LeNet on real digits with true and random labels; compare the spectra."""

    out: _Folder = Path("eigenscope-demo")
    """Folder of runs, figures and page; what an earlier demo left is used again."""
    epochs: _Count = 30
    """Epochs of training with true labels; random ones take four times as many."""
    seed: _Count = 0
    """Seed of the weights, the order of samples and the random labels."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """Fit a power law to the tail of eigenvalues in a file."""

    file: Annotated[Path, tyro.conf.Positional, _named("FILE")]
    """A saved spectrum (.npz), a NumPy array (.npy), or numbers as text or .csv."""
    xmin: Annotated[str, _named("scan|peak|X")] = "scan"
    """Where the tail starts: the best place, the mode of log10 λ, or a number."""
    xmax: Annotated[float | None, _named("X", hint="(default: nowhere)")] = None
    """Where the tail ends."""
    replicas: _Count = 0
    """Bootstrap replicas for the p-value."""
    figure: _File = None
    """Draw density and tail into this file (.png, .pdf, .svg)."""
    seed: _Count = 0
    """Seed of the bootstrap."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Overlay Jacobian spectra of several runs and tabulate what they say."""

    runs: _Runs
    """Folders of runs."""
    output: OutputName = "logits"
    """The output to compare."""
    layout: Layout = "samples"
    """The layout to compare."""
    out: _Folder = Path("comparison")
    """Folder for the figure, the table and the page."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """Show runs of any kind on one interactive page, which needs no other file."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, _named("RUN [RUN ...]", hint="")
    ]
    """Folders of runs, complete or not."""
    out: Annotated[Path, _named("FILE")] = Path("report.html")
    """The page; one of that name is replaced."""
    title: Annotated[str | None, _named("TEXT", hint="(default: the runs)")] = None
    """Stands above the page."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchOptions:
    """Compare each layer's Hessian spectrum with the full one, through training."""

    runs: _Runs
    """Folders of trainings with Hessian spectra, or of studies."""
    scale: Scaling = "max"
    """What the figures' W1 divides by: none, range, max or trace; tables hold all."""
    animate: bool = False
    """Draw a film of each run's spectra, too."""
    out: _Folder = Path("match")
    """Folder for figures and tables."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOptions:
    """Spectra of a network's weight matrices, and their power-law tails."""

    model: _Name = "lenet"
    """The network: a name (see `eigenscope info`) or your factory, as my_nets:wide."""
    weights: _File = None
    """Weights: .safetensors, or a state_dict that torch.save wrote."""
    data: _Name = "digits"
    """The data set whose samples and classes fix the network's shape."""
    data_root: Annotated[Path | None, _named("DIR", hint="")] = None
    """Folder that holds the data set's files; nothing is downloaded."""
    params: _Globs = ("*",)
    """Parameters by name or glob."""
    kernels: Kernels = "slices"
    """How a convolution is cut: slices (one matrix per place) or matrix."""
    xmin: XminRule = "scan"
    """Where the tails start: the best place, or the mode of log10 λ."""
    seed: _Count = 0
    """Seed of weights that are not loaded."""
    out: _Folder = Path("weights")
    """Folder for figure, table and spectra."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoOptions:
    """Versions, devices, models and data sets; or what a run holds."""

    run: Annotated[Path | None, tyro.conf.Positional, _named("RUN", hint="")] = None
    """A run's folder."""
    memory: _Memory = None
    """Memory to use, such as 4GiB."""
    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a verb with these options would take: time, memory, disk; nothing is run.

    It is rehearsed on the first samples, or on one of the runs, for about ten seconds.
    """

    verb: (
        Annotated[JacobianOptions, tyro.conf.subcommand("jacobian")]
        | Annotated[NTKOptions, tyro.conf.subcommand("ntk")]
        | Annotated[HessianOptions, tyro.conf.subcommand("hessian")]
        | Annotated[SeriesOptions, tyro.conf.subcommand("series")]
        | Annotated[TrainOptions, tyro.conf.subcommand("train")]
        | Annotated[DemoOptions, tyro.conf.subcommand("demo")]
        | Annotated[FitOptions, tyro.conf.subcommand("fit")]
        | Annotated[CompareOptions, tyro.conf.subcommand("compare")]
        | Annotated[MatchOptions, tyro.conf.subcommand("match")]
        | Annotated[ReportOptions, tyro.conf.subcommand("report")]
        | Annotated[WeightsOptions, tyro.conf.subcommand("weights")]
        | Annotated[InfoOptions, tyro.conf.subcommand("info")]
    )
    """The verb, with its own options."""
    ranks: _Count = 1
    """Processes that share the work, each on a machine like this one; before the
    verb."""
