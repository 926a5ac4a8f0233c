"""What the logs of a run say: what matters first, then their ends.

Everything is read from files, so it also works without a queue and for a run whose journal is
damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from agenttts.dispatch.attempts import Attempt, read_attempts
from agenttts.dispatch.messages import MACHINE_MESSAGES, find_in_log, memory_ran_out
from agenttts.dispatch.node.trial_log import log_of
from agenttts.dispatch.tracebacks import exceptions_behind
from agenttts.errors import UserError, cli_command, counted, valid_names
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.progress import TrialProgress
from agenttts.run.rows import row_from_json
from agenttts.run.starts import read_handle
from agenttts.run.state import RunState
from agenttts.status.controller_logs import controller_logs
from agenttts.status.folded_log import folded, log_lines
from agenttts.tables.failures import failure_groups
from agenttts.tables.schema import TrialState, trial_order

_MOST_BYTES = 4 * 1024 * 1024
"""If a log is longer, only its end is read, unless all lines are asked for."""
_Part = tuple[int, int | None]
"""The first byte of a part of a log, and the byte after its last one; None: the log's end."""


def run_log(run: RunDirectory, lines: int | None) -> Iterator[str]:
    """Yield how a run ended, trials without a result, the controller's last lines.

    Args:
        run: The run.
        lines: How many lines of the log to show; None: all, without folding.
    """
    state, problem = _state(run)
    if problem is not None:
        yield f"the journal cannot be read: {problem}"
    if state.finished is not None:
        yield _end_of(run, state.finished)
    failed = [t for t in state.trials.values() if _failed(t)]
    if failed:
        yield f"trials without a result ('{cli_command('logs', run.path, 'TRIAL')}' shows one):"
    rows = [row_from_json(trial.row) for trial in failed if trial.row is not None]
    tried = {row.trial: f"{row.trial}  {row.state}  {row.allocation}" for row in rows}
    for group in failure_groups((row.trial, row.state, row.error) for row in rows):
        said = group.error or "no reason is recorded"
        if len(group.trials) == 1:
            yield f"{tried[group.trials[0]]}: {said}"
        else:
            yield f"{len(group.trials)} trials, each with this error: {said}"
            yield from (f"  {tried[trial]}" for trial in group.trials)
    if failed or state.finished is not None:
        yield ""
    logs = controller_logs(run)
    if not logs:
        yield f"no controller of {run.path} has written a log"
        return
    *older, latest = logs
    yield f"controller: {latest}"
    if older:
        yield f"  ({len(older)} of earlier starts beside it)"
    yield from _shown(latest, (0, None), lines)


def trial_log(run: RunDirectory, given: str, lines: int | None) -> Iterator[str]:
    """Yield a trial's attempts, the cause that its log names, and the log's end.

    Args:
        run: The run.
        given: The trial's name or number.
        lines: How many lines of the log to show; None: all, without folding.

    Raises:
        UserError: The run has no such trial.
    """
    state, problem = _state(run)
    name = _trial_name(run, state, given)
    if problem is not None:
        yield f"the journal cannot be read: {problem}"
    progress = state.trials.get(name)
    yield f"{name}: {_outcome(progress)}"
    directory = run.trial(name)
    attempts = read_attempts(directory)
    for attempt in attempts:
        yield _attempt_line(attempt)
    if not attempts:
        yield f"it has not begun; '{cli_command('status', run.path)}' shows its job"
        return
    last = attempts[-1]
    log = log_of(directory, last)
    part = (last.log_start, _log_end(run, log, last))
    yield from _causes(last, _end(log, part)[0])
    yield ""
    yield f"log: {log.resolve()}"
    if last.together > 1 and last.log:
        yield f"  (of its job, with {counted(last.together - 1, 'other trial')})"
    yield from _shown(log, part, lines, warnings=last.state == TrialState.COMPLETED)


def _end_of(run: RunDirectory, outcome: str) -> str:
    """Return the line for a run that has ended."""
    with suppress(UserError):  # a damaged file does not hide how the run ended
        handle = read_handle(run)
        if outcome == "cancelled" and handle is not None and not handle.cancelled:
            return (
                "the run was cancelled and started again; "
                f"'{cli_command('status', run.path)}' shows its controller"
            )
    return f"the run is over: {' '.join(outcome.split())}"


def _state(run: RunDirectory) -> tuple[RunState, str | None]:
    """Return the journal's state, and why it cannot be read."""
    try:
        return read_state(run.journal_file), None
    except UserError as error:
        return RunState(), str(error)


def _failed(trial: TrialProgress) -> bool:
    return trial.row is not None and trial.row.get("state") != TrialState.COMPLETED


def _trial_name(run: RunDirectory, state: RunState, given: str) -> str:
    """Return the name of a trial that is given by its name or number.

    Raises:
        UserError: There is no such trial.
    """
    found = {*state.trials, *(path.name for path in (run.path / "trials").glob("t*"))}
    names = sorted(found, key=trial_order)
    number = given.removeprefix("t")
    name = f"t{int(number):04}" if number.isascii() and number.isdigit() else given
    if name in names:
        return name
    shown = names if len(names) <= 12 else [*names[:5], "...", names[-1]]
    raise UserError(f"run {run.name} has no trial '{given}'; {valid_names(given, shown)}")


def _outcome(progress: TrialProgress | None) -> str:
    if progress is None:
        return "the journal does not name it"
    where = f"{progress.planned.allocation} (iteration {progress.planned.iteration})"
    if progress.row is None:
        return f"{where}, not finished"
    row = row_from_json(progress.row)
    score = f", score {row.score:.4f}" if row.score is not None else ""
    error = f": {' '.join(row.error.split())}" if row.error else ""
    return f"{where}, {row.state}{score}{error}"


def _attempt_line(attempt: Attempt) -> str:
    where = f"attempt {attempt.number}: job {attempt.job_id} on {attempt.node or '?'}"
    started = attempt.started[:19].replace("T", " ")
    if attempt.finished is None:
        return f"{where}, since {started}"
    said = f": {' '.join(attempt.error.split())}" if attempt.error else ""
    return f"{where}, {started}, {attempt.seconds:.0f} s, {attempt.state or '?'}{said}"


def _causes(attempt: Attempt, text: str) -> Iterator[str]:
    """Yield what the log of a failed attempt says of the cause."""
    if attempt.finished is None or attempt.state == TrialState.COMPLETED:
        return
    found = find_in_log(text, MACHINE_MESSAGES)
    if found is not None:
        yield f"the log says that {found.meaning}: {found.line}"
    if memory_ran_out(text):
        yield "the log says that memory ran out"
    for line in exceptions_behind(attempt.error or "", text).splitlines():
        yield f"raised: {line}"


def _shown(log: Path, part: _Part, lines: int | None, *, warnings: bool = False) -> Iterator[str]:
    """Yield the last lines; ``warnings``: an engine's warnings are folded too."""
    if lines is None:
        yield from _every_line(log, part)
        return
    text, left_out = _end(log, part)
    every = log_lines(text)
    while every and not every[-1]:
        every.pop()
    shown = list(folded(every, warnings=warnings))
    if left_out:
        yield f"[... {left_out:,} bytes before these lines are not read; --all shows them]"
    if len(shown) > lines:
        yield f"[... {len(shown) - lines} earlier lines; --lines N shows more]"
    yield from shown[-lines:]


def _log_end(run: RunDirectory, log: Path, attempt: Attempt) -> int | None:
    """Return the byte of the log where the job's next trials begin, if there are any.

    A worker writes the lines of all its trials to one log.
    """
    began = (attempt.log_start, attempt.started)  # trials that begin together have both in common
    later = [
        other.log_start
        for directory in (run.path / "trials").glob("t*")
        for other in read_attempts(directory)
        if (other.log_start, other.started) > began
        and log_of(directory, other).resolve() == log.resolve()
    ]
    return min(later, default=None)


def _every_line(log: Path, part: _Part) -> Iterator[str]:
    """Yield the lines of a part of a log, without empty ones at its end."""
    empty = 0
    try:
        with log.open("rb") as stream:
            at, end = _bounds(stream, part)
            stream.seek(at)
            while line := stream.readline(end - at):
                at += len(line)
                [text] = log_lines(line.removesuffix(b"\n").decode("utf-8", errors="replace"))
                if text:
                    yield from [""] * empty
                    yield text
                empty = 0 if text else empty + 1
    except OSError as error:
        yield _unreadable(error)


def _end(log: Path, part: _Part) -> tuple[str, int]:
    """Return the end of a part of a log, and how many bytes of the part are before it.

    The end has at most `_MOST_BYTES`, and begins with a whole line.
    """
    try:
        with log.open("rb") as stream:
            start, end = _bounds(stream, part)
            first = stream.seek(max(start, end - _MOST_BYTES))
            content = stream.read(end - first)
    except OSError as error:
        return _unreadable(error), 0
    if first > start and b"\n" in content:
        content = content.partition(b"\n")[2]
    return content.decode("utf-8", errors="replace"), end - start - len(content)


def _bounds(stream: BinaryIO, part: _Part) -> tuple[int, int]:
    """Return the first byte of a part of a log, and the byte after its last one."""
    start, end = part
    size = stream.seek(0, 2)
    end = size if end is None else min(end, size)
    return min(start, end), end


def _unreadable(error: OSError) -> str:
    return f"(the log cannot be read: {error.strerror or error})"
