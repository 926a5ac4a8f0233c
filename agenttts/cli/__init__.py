"""The command line: one small function a command, no logic of its own."""

from agenttts.cli.app import main

__all__ = ["main"]
