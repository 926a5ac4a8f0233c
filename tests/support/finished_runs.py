"""Runs that are over, made once a session and copied for each test that reads or changes one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support import command_line
from tests.support.scripted import small_spec


class FinishedRuns:
    """Runs of `small_spec`, by its name and changes.

    A run takes a CPU second or more, its copy some milliseconds. Equal specs give equal runs, so a
    test sees the same whether it is the first to ask for one or not.

    Args:
        place: A directory for the runs that are copied.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._made: dict[str, Path] = {}

    def copy(self, folder: Path, name: str = "small", **changes: object) -> Path:
        """Write the spec into a folder and its run into ``folder/results``; return the run."""
        key = json.dumps([name, changes], sort_keys=True)
        if key not in self._made:
            made = self._place / str(len(self._made))
            made.mkdir()
            done = command_line.call(
                "launch", small_spec(made, name, **changes), "--wait", cwd=made
            )
            assert done.returncode == 0, done.stderr
            self._made[key] = made / "results" / name
        small_spec(folder, name, **changes)
        run = folder / "results" / name
        shutil.copytree(self._made[key], run, symlinks=True)
        return run
