"""Products that are kept in a run, in the order in which they were asked for."""

from collections.abc import Callable, Mapping
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.estimators.checkpoint import Checkpoint
from eigenscope.store import Run

Images = Float[Tensor, "vector dim"]
_ARRAY: Final = "products"


@final
class KeptImages:
    """A v for every vector v that an estimate asks for, one tile each.

    An estimate asks for the same vectors in the same order whenever it begins with the
    same seed. So after a kill it runs again from the start, and what it had is there.

    Args:
        run: A run that is open for writing.
        name: Name of the estimate within the run.
        identity: What must be the same on resume.
        shape: The most products, and D.
        dtype: Type of a product's entries.

    Raises:
        ValueError: If the run holds products of another estimate by that name.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        identity: Mapping[str, JsonValue],
        *,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        checkpoint = Checkpoint(run, name, identity)
        if checkpoint.load() is None:
            checkpoint.save({})
        self._ranks = run.ranks
        self._array = run.array(
            f"{name}.{_ARRAY}",
            shape=shape,
            dtype=str(dtype),
            tile_shape=(1, shape[1]),
        )

    def images(
        self, first: int, rows: Images, multiply: Callable[[Images], Images]
    ) -> Images:
        """Products number `first` and on, from the run where they are there.

        Args:
            first: How many were asked for before.
            rows: The vectors.
            multiply: What takes the products that are missing.

        Returns:
            Their images.
        """
        places = range(first, first + len(rows))
        missing = self._ranks.from_first(
            lambda: [p for p in places if not self._array.is_written((p, 0))]
        )
        if missing:
            needed = torch.tensor([place - first for place in missing])
            fresh = multiply(rows[needed.to(rows.device)]).cpu().numpy()
            with self._ranks.together():
                if self._ranks.is_first:
                    for place, image in zip(missing, fresh, strict=True):
                        self._array.write((place, 0), image[None])
        stored = torch.from_numpy(self._array[first : first + len(rows)])
        return stored.to(rows.device)
