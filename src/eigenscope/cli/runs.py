"""The life of a run that a verb writes: begun anew, or taken up again."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from eigenscope._types import JsonValue
from eigenscope.cli.arguments import arguments_of
from eigenscope.cli.options import JacobianOptions, NTKOptions, RunOptions
from eigenscope.store import Run
from eigenscope.store.folder import ARRAYS, require_vacant, require_vacant_store
from eigenscope.store.manifest import Manifest
from eigenscope.store.objects import place_at, require_local
from eigenscope.training.threads import repeat_threads

Prepared = TypeVar("Prepared")


def carry_out(
    options: RunOptions,
    *,
    verb: str,
    prepare: Callable[[Run | None], Prepared],
    compute: Callable[[Run, Prepared], Path],
) -> tuple[Prepared, Path]:
    """Prepare, compute into the folder of the options, and write the page.

    A new run's folder is made once nothing is left that could be wrong with the
    options, so that a corrected command can take the same folder.

    Args:
        options: Of the command line.
        verb: The run's verb.
        prepare: Checks everything; given the run that goes on, None for a new one.
        compute: Given the run and what `prepare` returned, writes results and page.

    Returns:
        What `prepare` returned, and the page's path.
    """
    arguments = arguments_of(options)
    if options.resume:
        before = _of_fewer_samples(options, arguments)
        with Run.resume(options.out, verb=verb, arguments=before) as run:
            repeat_threads(run)
            prepared = prepare(run)
            if before != arguments:
                run.grow(num_samples=cast("int", arguments["num_samples"]))
            return prepared, compute(run, prepared)
    require_local(options.out)
    require_vacant(
        options.out, Manifest.new(verb=verb, arguments=arguments, settings={})
    )
    require_vacant_store(place_at(options.store, options.out / ARRAYS))
    prepared = prepare(None)
    with Run.create(
        options.out, verb=verb, arguments=arguments, store=options.store
    ) as run:
        repeat_threads(run)
        return prepared, compute(run, prepared)


def _of_fewer_samples(
    options: RunOptions, arguments: dict[str, JsonValue]
) -> dict[str, JsonValue]:
    """Return the arguments that a run had before samples are added to it."""
    if not isinstance(options, JacobianOptions | NTKOptions):
        return arguments  # nothing of a sum over all samples could be used again
    try:
        old = Run.open(options.out).arguments.get("num_samples")
    except FileNotFoundError:
        return arguments
    new = options.num_samples
    grows = isinstance(old, int) and new is not None and new > old
    return {**arguments, "num_samples": old} if grows else arguments
