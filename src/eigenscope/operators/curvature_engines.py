"""How products of curvature matrices are computed, and which way is right here."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor

from eigenscope.autodiff import (
    SavedBytes,
    ShortcutMode,
    Shortcuts,
    differentiable_tables,
    exactly_requiring_grad,
    recordable_batch,
    recording,
    twice_differentiable,
    twice_differentiable_bags,
)
from eigenscope.losses import Risk
from eigenscope.operators.curvature_graphs import Recorder
from eigenscope.problem import left_as_found

Engine = Literal["reverse", "forward"]
EngineChoice = Literal["auto", "reverse", "forward"]

_PROOF_SAMPLES: Final = 2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the chunks of a problem are recorded.

    Attributes:
        engine: "reverse" passes through the kept graph of the gradient; "forward" over
            reverse keeps nothing.
        shortcuts: Layers that are recorded in other ways than torch's.
        sample_bytes: What a sample's recording takes.
        largest_bytes: The largest single tensor of it.
    """

    engine: Engine
    shortcuts: Shortcuts
    sample_bytes: int
    largest_bytes: int


@contextmanager
def recording_of(
    risk: Risk, names: Sequence[str], engine: Engine, shortcuts: Shortcuts
) -> Generator[None]:
    """Record what some parameters need; leave the model as it was found."""
    problem = risk.problem
    leaves = [problem.params[name] for name in names]
    chosen = {id(leaf) for leaf in leaves}
    others = [p for p in problem.model.parameters() if id(p) not in chosen]
    with ExitStack() as stack:
        stack.enter_context(left_as_found(problem.model))
        stack.enter_context(differentiable_tables(problem.model))
        stack.enter_context(twice_differentiable_bags(problem.model))
        stack.enter_context(exactly_requiring_grad(leaves, others))
        stack.enter_context(recording())
        stack.enter_context(
            twice_differentiable(problem.model, forward_mode=engine != "reverse")
        )
        stack.enter_context(shortcuts.active())
        yield


@final
class Proof:
    """Products for the first samples, by which ways are compared.

    What is quicker was measured for classes of models, not for this one, so the choice
    depends on nothing but the model: reverse mode with every shortcut that agrees with
    torch's own layers. Forward over reverse takes up to three times as long; it is for
    models whose graphs do not fit.

    Args:
        risk: The risk.
        recorders: From a chunk and leaves to its recording, for every engine.
        names: The parameters.
    """

    def __init__(
        self,
        risk: Risk,
        recorders: Mapping[Engine, Recorder],
        names: Sequence[str],
    ) -> None:
        self._risk, self._recorders, self._names = risk, recorders, list(names)
        self._batch = recordable_batch(risk.problem.batches.first(_PROOF_SAMPLES))
        source = torch.Generator().manual_seed(13)
        leaves = [risk.problem.params[name] for name in names]
        self._vectors = [
            torch.randn(leaf.shape, generator=source).to(leaf) for leaf in leaves
        ]

    def choose(self, engine: EngineChoice) -> Way:
        """Return the way to take.

        Args:
            engine: What is asked for; "auto" is the widest engine, "reverse".

        Returns:
            The way.

        Raises:
            ValueError: If another engine is asked for and does not give the products
                of reverse mode.
        """
        taken: Engine = "reverse" if engine == "auto" else engine
        plain = Shortcuts()
        mode = ShortcutMode(plain)
        with mode:
            expected, saved = self._product("reverse", plain)
        if taken != "reverse":
            self._require_right(taken, expected)
        for shortcuts in _candidates(mode, self._vectors[0], taken):
            try:
                found, own = self._product(taken, shortcuts)
            except RuntimeError:  # a view of what is in another order, say
                continue
            if _agree(found, expected):
                return self._way(taken, shortcuts, own)
        return self._way(taken, plain, saved)

    def _require_right(self, engine: Engine, expected: Tensor) -> None:
        """Raise unless an engine gives what reverse mode does, twice."""
        advice = (
            f"engine={engine!r} needs a derivative in forward mode of every operation "
            "of the model; {}. Use engine='auto', which takes reverse mode."
        )
        try:
            found, _ = self._product(engine, Shortcuts())
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(advice.format(f"here it fails ({reason})")) from error
        if not _agree(found, expected):
            gap = float((found - expected).norm() / expected.norm())
            reason = f"here products are off by {gap:.1e}"
            raise ValueError(advice.format(reason))

    def _product(
        self, engine: Engine, shortcuts: Shortcuts
    ) -> tuple[Tensor, SavedBytes]:
        """Return the product of the first samples' matrix and what recording kept."""
        params = self._risk.problem.params
        saved = SavedBytes(list(params.values()))
        counting = saved.counting() if engine == "reverse" else nullcontext()
        with recording_of(self._risk, self._names, engine, shortcuts):
            leaves = {name: params[name] for name in self._names}
            with counting:
                chunk = self._recorders[engine](self._batch, leaves)
            chunk.product(self._names, self._vectors)
            # The second time: what is kept must not have changed.
            parts = chunk.product(self._names, self._vectors)
        return torch.cat([part.flatten() for part in parts]), saved

    def _way(self, engine: Engine, shortcuts: Shortcuts, saved: SavedBytes) -> Way:
        size = self._batch.size
        return Way(
            engine=engine,
            shortcuts=shortcuts,
            sample_bytes=-(-saved.total // size),
            largest_bytes=-(-saved.largest // size),
        )


def _candidates(
    mode: ShortcutMode, like: Tensor, engine: Engine
) -> Iterator[Shortcuts]:
    """Yield the shortcuts that a model offers, the quickest first."""
    if not mode.num_convolutions and not mode.num_normalizations:
        return
    quick = engine == "reverse" and mode.num_convolutions > 0
    folded = mode.num_normalizations > 0
    is_apt = like.device.type == "cpu" and like.dtype == torch.float32
    if is_apt and mode.num_convolutions and not mode.takes_maxima:
        yield Shortcuts(convolutions=quick, normalization=folded, channels_last=True)
    if quick or folded:
        yield Shortcuts(convolutions=quick, normalization=folded)


def _agree(found: Tensor, expected: Tensor) -> bool:
    gap = torch.linalg.vector_norm(found - expected)
    tolerance = torch.finfo(gap.dtype).eps ** 0.5
    return bool(gap <= tolerance * torch.linalg.vector_norm(expected))
