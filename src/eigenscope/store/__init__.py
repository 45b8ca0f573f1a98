"""Run folders: a manifest and chunked arrays that survive being killed."""

from eigenscope.store.arrays import TiledArray
from eigenscope.store.files import write_atomically
from eigenscope.store.run import Run

__all__ = ["Run", "TiledArray", "write_atomically"]
