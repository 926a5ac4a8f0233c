"""All runs under a results directory, a line each.

What is done or cancelled is read from files. The queue is asked once for the controllers of all
other runs that one scheduler has started, and nothing in it is changed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.service import ELSEWHERE
from agenttts.errors import AgentTTSError, cli_command
from agenttts.files.access import check_readable
from agenttts.launch.controller import StartedController, started_controller
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.listing import is_being_made
from agenttts.run.rows import row_from_json
from agenttts.run.state import RunState
from agenttts.spec.model import RUN_NAME
from agenttts.status.document import ListDocument
from agenttts.status.run_status import best_of, last_iteration
from agenttts.tables.documents import printed
from agenttts.tables.schema import TrialState

# Files that only a run's directory has; one of them is enough to be listed.
_MARKS = ("spec.yaml", "journal.jsonl", "run.json", "origin.json")


def list_runs(results: Path) -> dict[str, Any]:
    """Return the runs of a results directory as `ListDocument`, the latest first.

    Raises:
        OSError: The results directory cannot be read.
    """
    places: list[Path] = []
    if results.is_dir():
        check_readable(results)
        places = sorted(results.iterdir())
    found = [_read(path) for path in places if _is_run(path)]
    _ask_queues([run for run in found if run.started is not None and run.state is not None])
    found.sort(key=lambda run: (run.active, run.path.name), reverse=True)
    documents = [run.document() for run in found]
    return printed(ListDocument, {"results": str(results.absolute()), "runs": documents})


@dataclass
class _Listed:
    """A run as it is found.

    Attributes:
        path: Its directory.
        active: Seconds since the epoch of the last change of its journal.
        state: Its journal; None if it cannot be read.
        iterations: Iterations of its search.
        started: Its controller. None if it has none, or the run is done, or was cancelled after its
            start.
        queue: What the queue says of the controller.
        problem: What cannot be read, and why.
    """

    path: Path
    active: float
    state: RunState | None = None
    iterations: int | None = None
    started: StartedController | None = None
    queue: JobStatus | None = None
    problem: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the run as `ListedRun`."""
        state = self.state or RunState()
        rows = [row_from_json(t.row) for t in state.trials.values() if t.row]
        name, detail = self._state()
        return {
            "run": self.path.name,
            "path": str(self.path),
            "state": name,
            "detail": " ".join(detail.split()),
            "iteration": last_iteration(state),
            "iterations": self.iterations,
            "trials": len(state.trials),
            "scored": sum(row.state is TrialState.COMPLETED for row in rows),
            "best": best_of(rows, state.earlier_closing),
            "gpu_hours": sum(row.gpu_seconds or 0.0 for row in rows) / 3600,
            "active": datetime.fromtimestamp(self.active, UTC).isoformat(timespec="seconds"),
        }

    @property
    def _goes_on(self) -> bool:
        """Whether a controller waits or runs, also after the run's end.

        It may not have recorded yet that the run goes on.
        """
        queue = self.queue
        return queue is not None and not queue.ended and queue.state != ELSEWHERE

    def _state(self) -> tuple[str, str]:
        """Return the state in a word, and what to know or do about it."""
        if self.state is None:
            return "damaged", self.problem or ""
        outcome = self.state.finished
        if outcome is not None and not self._goes_on:
            over = outcome if outcome in ("done", "cancelled") else "failed"
            return over, "" if over == outcome else outcome
        if self.problem is not None:
            return "unknown", self.problem
        goes_on = f"'{cli_command('resume', self.path.resolve())}' continues it"
        if self.started is None or self.queue is None:
            return "stopped", f"no controller was started; {goes_on}"
        if self.queue.state == ELSEWHERE:
            return "unknown", self.queue.detail
        if self.queue.ended:
            return "stopped", f"its controller has ended; {goes_on}"
        if self.queue.state == "PENDING":
            return "pending", self.queue.detail
        return "running", ""


def _is_run(path: Path) -> bool:
    """Return whether a path is a run's directory, or is closed and may be one."""
    if is_being_made(path):
        return False
    try:
        return any((path / mark).exists() for mark in _MARKS)
    except OSError:
        return RUN_NAME.fullmatch(path.name) is not None


def _read(path: Path) -> _Listed:
    """Read a run's files; what is wrong with them is its ``problem``."""
    run = RunDirectory(path.resolve())
    found = _Listed(path, _changed(run))
    try:
        found.state = read_state(run.journal_file)
        found.iterations = run.spec().search.iterations
        if found.state.finished != "done":
            found.started = _started(run, found.state)
    except (AgentTTSError, OSError) as error:
        found.state, found.problem = None, str(error)
    return found


def _started(run: RunDirectory, state: RunState) -> StartedController | None:
    """Return the controller to ask about.

    It is None for a run that was cancelled and not started again. A run that has ended is listed
    even if its controller cannot be read.
    """
    try:
        started = started_controller(run)
    except (AgentTTSError, OSError):
        if state.finished is None:
            raise
        return None
    if started is not None and state.finished is not None and started.handle.cancelled:
        return None
    return started


def _changed(run: RunDirectory) -> float:
    """Return when the run last did something, in seconds since the epoch."""
    for file in (run.journal_file, run.spec_file, run.path):
        try:
            return file.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _ask_queues(runs: list[_Listed]) -> None:
    """Ask each queue once for the controllers in it, and each host for its processes."""
    by_queue: dict[str, list[_Listed]] = defaultdict(list)
    for run in runs:
        assert run.started is not None
        scheduler = run.started.scheduler
        # Processes of a host are found by their run's own folder.
        by_queue[scheduler.name if scheduler.has_nodes else str(run.path)].append(run)
    for group in by_queue.values():
        going = [run for run in group if run.state is not None and run.state.finished is None]
        ended = [run for run in group if run.state is not None and run.state.finished is not None]
        [started, *_] = [run.started for run in group if run.started is not None]
        with started.scheduler.one_look():
            # They are asked about separately: old jobs, which only accounting knows, must not hide
            # what the queue says of the others.
            _ask_queue(going)
            _ask_queue(ended)


def _ask_queue(runs: list[_Listed]) -> None:
    started = [run.started for run in runs if run.started is not None]
    if not started:
        return
    try:
        statuses = started[0].scheduler.service_statuses([one.service for one in started])
    except (AgentTTSError, OSError) as error:  # this machine lacks the cluster's commands
        for run in runs:
            run.problem = str(error)
        return
    for run, status in zip(runs, statuses, strict=True):
        run.queue = status
