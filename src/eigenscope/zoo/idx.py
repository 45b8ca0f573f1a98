"""The idx format of MNIST and its relatives, plain or gzipped."""

import gzip
import zlib
from math import prod
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

_UNSIGNED_BYTE = 8


def read_idx(path: Path, *, num_dims: int) -> UInt8[Tensor, "..."]:
    """Read an idx file of unsigned bytes: magic 00 00 08 ndim, sizes, then the bytes.

    Args:
        path: The file; gzipped if its name ends in `.gz`.
        num_dims: The number of dimensions that it must have.

    Returns:
        The array, of the shape that the file's head gives.

    Raises:
        ValueError: If the file is not gzip where its name says so, has another magic
            number, or has more or fewer bytes than its head says.

    References:
        LeCun, Cortes, Burges, The MNIST database, "File formats".

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
        10
        >>> read_idx(path, num_dims=1)
        tensor([7, 3], dtype=torch.uint8)
    """
    content = _content(path)
    head = 4 * (1 + num_dims)
    magic = bytes([0, 0, _UNSIGNED_BYTE, num_dims])
    if content[:4] != magic:
        raise ValueError(
            f"{path} must start with the idx magic number {magic.hex(' ')} (bytes in "
            f"{num_dims} dimensions), found {content[:4].hex(' ') or 'nothing'}."
        )
    sizes = [
        int.from_bytes(content[at : at + 4], byteorder="big")
        for at in range(4, head, 4)
    ]
    expected = head + prod(sizes)
    if len(content) != expected:
        what = "truncated" if len(content) < expected else "too long"
        shape = " × ".join(str(size) for size in sizes)
        raise ValueError(
            f"{path} is {what}: its head says {shape}, which is {expected} bytes, "
            f"found {len(content)}; copy it again."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[head:].view(sizes)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not gzip "
            f"({error}); copy it again."
        ) from error
