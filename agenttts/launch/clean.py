"""Remove what a run that has ended no longer needs: ``clean``.

What the report, ``status``, ``compare``, ``replay`` and a new journal read stays: the documents of
the run, its table, and of each trial and job the files in `_KEPT`. Removing is safe to repeat,
because no part depends on another one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.attempts import ATTEMPTS
from agenttts.dispatch.job_starts import JOB_STARTS
from agenttts.errors import UserError, cli_command
from agenttts.launch.controller import controller_works
from agenttts.launch.reached import check_reached
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.listing import run_paths, runs_being_made
from agenttts.run.schedulers import trial_scheduler
from agenttts.run.starts import one_command, only_controller
from agenttts.run.store_users import CLEANED, store_users, without_new_users
from agenttts.tables.stored_results import STORED_FILE
from agenttts.trial.part import PART_FILE
from agenttts.trial.phase import PHASE_FILE
from agenttts.trial.result import EXAMPLES_FILE, FAULT_FILE, MARKER_FILE, RESULT_FILE
from agenttts.trial.spec import SPEC_FILE
from agenttts.trial.usage import USAGE

_NAMED_JOBS = 5
# Of a trial or a job.
_KEPT = {
    SPEC_FILE,
    RESULT_FILE,
    MARKER_FILE,
    EXAMPLES_FILE,
    STORED_FILE,
    PART_FILE,
    PHASE_FILE,
    FAULT_FILE,
    ATTEMPTS,
    JOB_STARTS,
    USAGE,
}


@dataclass(frozen=True)
class Part:
    """A part of a run that may go.

    Attributes:
        name: What it is.
        without: What cannot be done any more without it.
        paths: Its files and directories.
        files: Number of its files.
        bytes: Their size.
    """

    name: str
    without: str
    paths: tuple[Path, ...]
    files: int
    bytes: int


@dataclass(frozen=True)
class Cleaning:
    """What may go of a run.

    Attributes:
        run: The run.
        parts: The parts that have files.
        kept: Parts that stay, and why, a sentence each.
    """

    run: RunDirectory
    parts: tuple[Part, ...]
    kept: tuple[str, ...]


def planned_cleaning(run: RunDirectory) -> Cleaning:
    """Return what may go of a run; nothing is removed.

    Raises:
        UserError: The run is not over, or its controller or jobs run.
        MissingRequirement: Only another host can tell whether its controller or jobs run.
    """
    check_reached(run)
    _check_over(run)
    kept: list[str] = []
    return Cleaning(run, (*_stores(run, kept), *_unread(run)), tuple(kept))


def clean(run: RunDirectory) -> Cleaning:
    """Remove what `planned_cleaning` returns, and return it.

    Raises:
        UserError: As in `planned_cleaning`.
        MissingRequirement: As in `planned_cleaning`.
        OSError: A file cannot be removed.
    """
    check_reached(run)
    with one_command(run, "clean"), only_controller(run):
        _check_over(run)
        # First, because the mark of the store below is a file too, and quotas limit their number.
        unread = _unread(run)
        _remove(unread)
        kept: list[str] = []
        store = run.path / run.record().samples
        with without_new_users(store) if _is_own(run, store) else nullcontext():
            stores = _stores(run, kept)
            _remove(stores)
    return Cleaning(run, (*stores, *unread), tuple(kept))


def _stores(run: RunDirectory, kept: list[str]) -> tuple[Part, ...]:
    """Return what other runs may use, and do not; ``kept`` takes what stays, and why."""
    record = run.record()
    cache = record.compile_cache
    return _parts(
        (
            "samples",
            "resume, extend and other runs draw these samples again",
            _store(run, run.path / record.samples, "samples", kept),
        ),
        (
            "compiled code",
            "engines compile again at their next start",
            _store(run, run.path / cache, "compiled code", kept) if cache is not None else [],
        ),
    )


def _unread(run: RunDirectory) -> tuple[Part, ...]:
    """Return what only `logs` and the run's jobs read."""
    return _parts(
        (
            "logs and batch files of jobs",
            "'logs RUN' shows only the reasons in the journal",
            [*_inside(run.scheduler_logs), *run.agent.glob("*.log")],
        ),
        (
            "parts of trials and jobs that no report reads",
            "'logs RUN TRIAL' shows no lines of the trial's log",
            list(_parts_of_trials(run)),
        ),
    )


def _parts(*parts: tuple[str, str, Sequence[Path]]) -> tuple[Part, ...]:
    """Return the parts that have paths, from names, what needs them, and paths."""
    return tuple(
        Part(name, without, tuple(paths), *_size(paths)) for name, without, paths in parts if paths
    )


def _check_over(run: RunDirectory) -> None:
    state = read_state(run.journal_file)
    if controller_works(run) and state.finished != "done":
        raise UserError(
            f"{run.path}: the run goes on; wait until it is over, or "
            f"'{cli_command('cancel', run.path)}' first"
        )
    if state.finished is None:
        raise UserError(
            f"{run.path}: the run is not over, and its jobs may run; "
            f"'{cli_command('resume', run.path)}' continues it, "
            f"'{cli_command('cancel', run.path)}' ends it"
        )
    if state.finished != "done" and (jobs := _live_jobs(run)):
        named = ", ".join(jobs[:_NAMED_JOBS]) + (" and others" if len(jobs) > _NAMED_JOBS else "")
        raise UserError(
            f"{run.path}: the run is over, but its jobs {named} still run and use its files; "
            f"'{cli_command('cancel', run.path)}' ends them"
        )


def _live_jobs(run: RunDirectory) -> list[str]:
    """Return the run's jobs that wait or run.

    A run that an error or a cancel ended has some if they could not be cancelled then, or end
    slowly.
    """
    scheduler = trial_scheduler(run, run.profile())
    tokens = run.record().tokens(run.name)
    return sorted({job for token in tokens for job in scheduler.strays(token, known=())})


def _store(run: RunDirectory, folder: Path, what: str, kept: list[str]) -> list[Path]:
    """Return the contents of a folder of the run's own; ``kept`` takes why it stays."""
    if not _is_own(run, folder):
        kept.append(f"{what} in {folder} stay: they are not in the run's directory")
        return []
    if users := _users(run, folder):
        kept.append(f"{what} in {folder} stay: {', '.join(users)} use them too")
        return []
    return [path for path in _inside(folder) if path.name != CLEANED]


def _is_own(run: RunDirectory, folder: Path) -> bool:
    """Return whether a folder is in the run's directory and not a link."""
    return not folder.is_symlink() and folder.resolve().is_relative_to(run.path.resolve())


def _users(run: RunDirectory, folder: Path) -> list[str]:
    """Return the other runs that use a folder of this one.

    They are in the results directory, or recorded in the run's sample store. A recorded run that
    cannot be read may have been moved, or is on a file system that is not mounted here.
    """
    # In this order: a launch records its run, makes it under another name, and renames it.
    recorded = store_users(run.path / run.record().samples)
    being_made = runs_being_made(run.path.parent)
    near = run_paths(run.path.parent)
    closed = [file for file, place in recorded.items() if place is None]
    far = {p: file for file, p in recorded.items() if p is not None and p.parent != run.path.parent}
    found = [
        f"perhaps the run that {file} names (which cannot be read; if it is of no run any more, "
        "remove it)"
        for file in closed
    ]
    found += [
        f"perhaps {path.name} (which is being launched; if its launch was killed, remove {file})"
        for file, path in recorded.items()
        if path in being_made and path not in near
    ]
    for other in map(RunDirectory, [*near, *far]):
        if other.path == run.path:
            continue
        file = far.get(other.path)
        name = other.name if file is None else str(other.path)
        try:
            record = other.record()
        except (UserError, OSError):
            gone = f"; if it is gone for good, remove {file}" if file is not None else ""
            found.append(f"perhaps {name} (which cannot be read{gone})")
            continue
        used = [record.samples, *([record.compile_cache] if record.compile_cache else [])]
        if any((other.path / place).resolve() == folder.resolve() for place in used):
            found.append(name)
    return found


def _inside(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(folder.iterdir())


def _parts_of_trials(run: RunDirectory) -> Iterator[Path]:
    """Return what trials and jobs have left that no report reads.

    What a new journal has set aside is among it.
    """
    state = read_state(run.journal_file)
    unfinished = {progress.planned.trial for progress in state.unfinished()}
    for place in (*_inside(run.path / "trials"), *_inside(run.workers)):
        if place.name.startswith("."):
            yield place
        elif place.name not in unfinished:
            yield from (path for path in _inside(place) if path.name not in _KEPT)


def _size(paths: Sequence[Path]) -> tuple[int, int]:
    """Return the number of files in paths, and their bytes; links are not followed."""
    files = [file for path in paths for file in _files(path)]
    sizes = 0
    for file in files:
        with suppress(OSError):  # removed in the meantime
            sizes += file.lstat().st_size
    return len(files), sizes


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _remove(parts: Iterable[Part]) -> None:
    for path in (path for part in parts for path in part.paths):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)
