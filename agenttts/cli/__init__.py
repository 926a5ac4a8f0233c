"""The command line: one small function for each command, without logic of its own."""

from agenttts.cli.app import main

__all__ = ["main"]
