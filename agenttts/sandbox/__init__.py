"""Runs programs that a model wrote, isolated from the machine and its users.

A program gets its own root file system (the interpreter, read-only, a scratch directory and a
/dev/shm), its own process tree, no network, an empty environment and hard limits. All processes
that it started have ended when `run_program` returns. The sandbox needs Linux with user namespaces,
and no privilege. It works as an ordinary user, as root, and inside an Apptainer container.
"""

from agenttts.sandbox.base import Limits, Outcome
from agenttts.sandbox.run import check_sandbox, run_program

__all__ = ["Limits", "Outcome", "check_sandbox", "run_program"]
