"""Whether this user may read and write a run.

It is checked before a controller is started. A controller without this permission waits for hours:
with Kerberos or AFS, access comes back when a ticket is renewed. The user who starts it should be
told at once.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from agenttts.dispatch.attempts import ATTEMPTS
from agenttts.errors import MissingRequirement
from agenttts.files.access import read_problem
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.record import RunRecord


def check_access(run: RunDirectory, record: RunRecord) -> None:
    """Check that a run's controller can read and write what it needs.

    Files that do not exist, or are something else, are for others to report. ``record`` is the
    run's.

    Raises:
        MissingRequirement: A file or directory of the run is closed to this user.
    """
    examples = [run.path / name for name in record.examples]
    for path in (run.spec_file, run.profile_file, run.examples_file, *examples):
        _check(path, writable=False)
    for path in (run.path, run.journal_file, run.scheduler_logs, run.path / record.samples):
        _check(path, writable=True)
    state = read_state(run.journal_file)
    trials = run.path / "trials"
    _check(trials, writable=True)
    for name in state.trials:  # all attempts say which nodes to avoid
        _check(run.trial(name), writable=False)
        _check(run.trial(name) / ATTEMPTS, writable=False)
    for progress in state.unfinished():
        directory = run.trial(progress.planned.trial)
        _check(directory, writable=True)
        for path in directory.iterdir() if directory.is_dir() else ():
            _check(path, writable=path.is_dir())


def _check(path: Path, *, writable: bool) -> None:
    problem = read_problem(path)
    if isinstance(problem, PermissionError):
        raise _closed(path, "read")
    if problem is None and writable and not os.access(path, os.W_OK):
        raise _closed(path, "written")


def _closed(path: Path, verb: str) -> MissingRequirement:
    return MissingRequirement(
        f"{path}: cannot be {verb} by you, and the run's controller has to",
        fix=(
            f"change its permissions ('ls -ld {shlex.quote(str(path))}' shows them), then start "
            "the run again"
        ),
    )
