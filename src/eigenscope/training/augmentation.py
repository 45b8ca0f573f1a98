"""The usual augmentation of small images, drawn from a generator alone."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

_PADDING = 4


def shift_and_flip(
    images: Float[Tensor, "sample channel height width"],
    *,
    fill: Float[Tensor, " channel"],
    generator: torch.Generator,
) -> Float[Tensor, "sample channel height width"]:
    """Shift every image by up to four pixels each way, and mirror half of them.

    The same as padding by four and cropping at random, for each image by itself.

    Args:
        images: A batch.
        fill: What comes in from outside, by channel: the value of a black pixel.
        generator: Source of all randomness, on the CPU.

    Returns:
        The changed images.

    Example:
        >>> source = torch.Generator().manual_seed(0)
        >>> images = torch.ones(5, 1, 8, 8)
        >>> shift_and_flip(images, fill=torch.ones(1), generator=source).min().item()
        1.0
    """
    count, _, height, width = images.shape
    corners = torch.randint(2 * _PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator).bool()
    rows = corners[0] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = corners[1] + torch.where(mirrored, columns.flip(1), columns)
    shift = fill.view(-1, 1, 1).to(images)
    padded = pad(images - shift, (_PADDING,) * 4) + shift
    places = torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]
    sample, row, column = (place.to(images.device) for place in places)
    return padded.permute(0, 2, 3, 1)[sample, row, column].permute(0, 3, 1, 2)
