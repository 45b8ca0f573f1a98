"""Batches cut and joined to pieces of one size, as far as their shapes agree."""

from collections.abc import Iterable, Iterator

from eigenscope.problem import Batch
from eigenscope.problem.batch import join, sample_shapes


def pieces(
    batches: Iterable[Batch], size: int, *, boundary: int | None = None
) -> Iterator[Batch]:
    """Yield the samples in order, at most `size` at a time.

    Fewer come together where samples of another shape follow, at the end, and before
    a boundary.

    Args:
        batches: Consecutive batches.
        size: Most samples of a piece, at least 1.
        boundary: No piece crosses a multiple of this.

    Yields:
        Consecutive samples of one shape.
    """
    waiting: list[Batch] = []
    for batch in batches:
        if waiting and sample_shapes(waiting[0].inputs) != sample_shapes(batch.inputs):
            yield join(waiting)
            waiting = []
        first = 0
        while first < batch.size:
            start = batch.start + first
            room = size - sum(piece.size for piece in waiting)
            if boundary is not None:
                room = min(room, boundary - start % boundary)
            stop = min(first + room, batch.size)
            waiting.append(batch.part(first, stop))
            first = stop
            at_boundary = boundary is not None and (batch.start + stop) % boundary == 0
            if at_boundary or sum(piece.size for piece in waiting) == size:
                yield join(waiting)
                waiting = []
        if waiting:  # the data may use the memory of this batch for the next one
            waiting[-1] = waiting[-1].owned()
    if waiting:
        yield join(waiting)
