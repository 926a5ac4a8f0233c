"""What a shell completes: the names of runs and of profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agenttts.run.listing import run_paths

_RESULTS = "results"


def complete_runs(ctx: Any, incomplete: str) -> list[str]:
    """Return the runs in the results directory of a command line.

    Args:
        ctx: Click's context.
        incomplete: What is typed of the name.
    """
    given = ctx.params.get(_RESULTS) if ctx is not None else None
    names = [path.name for path in run_paths(Path(given or _RESULTS))]
    return [name for name in names if name.startswith(incomplete)]


def complete_profiles(incomplete: str) -> list[str]:
    """Return the profiles in ``slurm/`` of this directory, and the built-in ones."""
    found = {path.stem for path in Path("slurm").glob("*.yaml")} | {"local", "in_process"}
    return sorted(name for name in found if name.startswith(incomplete))
