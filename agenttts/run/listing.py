"""Which directories of a results directory are runs.

A run is made under another name, which begins with a dot. A launch that was killed leaves it.
"""

from __future__ import annotations

from pathlib import Path


def run_paths(results: Path) -> list[Path]:
    """Return the directories of the runs in a results directory, by name."""
    return sorted(path.parent for path in results.glob("[!.]*/spec.yaml"))


def path_while_made(run: Path, token: str) -> Path:
    """Return where a run is made; the token tells launches of one name apart."""
    return run.with_name(f".{run.name}.{token}")


def runs_being_made(results: Path) -> set[Path]:
    """Return the directories that runs will have whose launch goes on, or was killed."""
    staged = results.glob(".*.*")
    return {path.with_name(path.name[1:].rpartition(".")[0]) for path in staged}


def is_being_made(path: Path) -> bool:
    """Return whether the name of a directory is one of `path_while_made`."""
    return path.name.startswith(".")
