"""Runs that are over, made once a session, by whichever worker is first, and copied for each test
that reads or changes one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from tests.support import command_line
from tests.support.scripted import small_spec


class FinishedRuns:
    """Runs of `small_spec`, by its name and changes.

    A run takes a CPU second or more, its copy some milliseconds. Equal specs give equal runs, so a
    test sees the same whether it is the first to ask for one or not.

    Args:
        place: A directory for the runs that are copied; other processes may have it, too.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def copy(self, folder: Path, name: str = "small", **changes: object) -> Path:
        """Write the spec into a folder and its run into ``folder/results``; return the run."""
        key = json.dumps([name, changes], sort_keys=True)
        made = self._place / hashlib.sha256(key.encode()).hexdigest()[:16]
        with made.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                self._make(name, changes).rename(made)
        small_spec(folder, name, **changes)
        run = folder / "results" / name
        shutil.copytree(made / "results" / name, run, symlinks=True)
        return run

    def _make(self, name: str, changes: dict[str, object]) -> Path:
        """Make a run, with its spec; return their directory."""
        made = Path(tempfile.mkdtemp(dir=self._place))
        done = command_line.call("launch", small_spec(made, name, **changes), "--wait", cwd=made)
        assert done.returncode == 0, done.stderr
        return made
