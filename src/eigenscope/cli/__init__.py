"""The command line: parse, call, print."""

from eigenscope.cli.main import main

__all__ = ["main"]
