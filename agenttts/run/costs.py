"""Read what the jobs of a run used, from the records in their directories."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from agenttts.dispatch.attempts import Attempt, read_attempts
from agenttts.dispatch.job_starts import JOB_STARTS, JobStart, read_job_starts
from agenttts.run.directory import RunDirectory
from agenttts.run.rows import row_from_json
from agenttts.run.state import RunState
from agenttts.tables.cost import (
    MeasuredStart,
    RunCost,
    ServedCost,
    TrialTokens,
    cost_alone,
    job_costs,
)
from agenttts.tables.forecast import Forecast
from agenttts.tables.schema import LOST_STATES, TrialRow, TrialSeconds, trial_order
from agenttts.trial.phase import read_phase
from agenttts.trial.result import EXAMPLES_FILE, TrialOutput
from agenttts.trial.usage import JobUsage, read_usages


class CostReader:
    """Reads the costs of one run, again and again while it goes on.

    Jobs that have ended are read once.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._ended: dict[Path, tuple[int, list[MeasuredStart]]] = {}

    def cost(self, state: RunState, *, alone: bool = False) -> RunCost | None:
        """Return what the run has used; None if its jobs left no records.

        Versions before these records wrote none.

        Args:
            state: The run's state.
            alone: Whether to estimate what one trial a job would have taken. It reads a table of
                each trial.
        """
        starts = self._starts(live_jobs(state))
        served = read_job_starts(self._run.agent)
        rows = [row_from_json(t.row) for t in state.trials.values() if t.row]
        if not starts and (not served or any(row.attempts for row in rows)):
            return None
        reused = (row.reused_tokens or 0 for row in rows)
        return RunCost(
            job_costs(starts),
            sum(reused),
            cost_alone(starts, self._trial_tokens(rows)) if alone else None,
            self.forecast(),
            served_cost(served),
            [
                *(start.span for start in starts if start.span is not None),
                *map(_served_span, served),
            ],
        )

    def forecast(self) -> Forecast | None:
        """Return what the run was expected to cost; None in a run of an older version."""
        record = self._run.known_record()
        return None if record is None else record.forecast

    def _starts(self, live: Collection[str]) -> list[MeasuredStart]:
        directories = [
            *sorted((self._run.path / "workers").glob("*")),
            *sorted((self._run.path / "trials").glob("t*"), key=lambda p: trial_order(p.name)),
        ]
        return [start for place in directories for start in self._starts_in(place, live)]

    def _starts_in(self, directory: Path, live: Collection[str]) -> list[MeasuredStart]:
        try:
            changed = (directory / JOB_STARTS).stat().st_mtime_ns
        except OSError:
            return []  # a trial in a job of several
        known = self._ended.get(directory)
        if known is not None and known[0] == changed:
            return known[1]
        records = read_job_starts(directory)
        found = measured_starts(directory, records, live, datetime.now(UTC))
        if all(record.finished for record in records):
            self._ended[directory] = (changed, found)
        return found

    def _trial_tokens(self, rows: Iterable[TrialRow]) -> list[TrialTokens]:
        record = self._run.known_record()
        known = {} if record is None else record.models
        needs = {name: model.gpus for name, model in known.items()}
        found = []
        for row in rows:
            directory = self._run.trial(row.trial)
            attempts = read_attempts(directory) if row.score is not None else []
            if not attempts:
                continue
            try:
                examples = pl.read_parquet(
                    directory / EXAMPLES_FILE, columns=["model", "decode_tokens"], glob=False
                )
            except (OSError, pl.exceptions.PolarsError):  # removed, or damaged later
                continue
            totals = examples.group_by("model").agg(pl.col("decode_tokens").sum())
            models = [choice.model for choice in row.allocation.choices]
            # Its job may have had more GPUs than it needs, for other trials.
            own = [needs[model] for model in models if model in needs]
            gpus = max(own, default=max(attempt.gpus for attempt in attempts))
            found.append(TrialTokens(gpus, models, dict(totals.iter_rows())))
        return found


def live_jobs(state: RunState) -> set[str]:
    """Return the ids of the jobs that may still run, by the journal."""
    if state.finished is not None:
        return set()
    jobs = {worker.job_id for worker in state.workers.values() if worker.job_id}
    return jobs | {trial.job_id for trial in state.unfinished() if trial.job_id}


def served_cost(records: Sequence[JobStart]) -> ServedCost:
    """Return what the jobs of the model used that a run serves itself.

    A job without an end counts until it last wrote its record.
    """
    seconds = gpu_seconds = queue = 0.0
    for record in records:
        queue += _waited(record, records, ()) or 0.0
        since, until = _served_span(record)
        used = (until - since).total_seconds()
        seconds += used
        gpu_seconds += used * record.gpus
    return ServedCost(seconds, gpu_seconds, queue)


def _served_span(record: JobStart) -> tuple[datetime, datetime]:
    started = _time(record.started)
    return started, max(started, _time(record.finished or record.written))


def worker_of(attempts: Sequence[Attempt]) -> str | None:
    """Return the worker of a trial's last attempt; None if it had a job of its own."""
    log = attempts[-1].log if attempts else ""
    return Path(log).parent.name if log else None


def trial_seconds(
    directory: Path,
    attempts: Sequence[Attempt],
    output: TrialOutput | None,
    lost_until: datetime | None = None,
) -> TrialSeconds | None:
    """Return what a trial took; None without attempts.

    Args:
        directory: The trial's directory.
        attempts: Its attempts, oldest first.
        output: Its result, if it has one.
        lost_until: Until when its last attempt counts as lost if its end is not recorded; None: it
            is not lost.
    """
    if not attempts:
        return None
    queue: float | None = None
    start: float | None = None
    lost = 0.0
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=True):
        end = lost_until if following is None else cut_off_at(directory, attempt, following)
        is_lost = attempt.state in LOST_STATES or (attempt.state is None and end is not None)
        if is_lost:
            lost += _job_seconds(attempt, end)
        waited, until_program = _before_program(directory, attempt)
        if waited is not None:
            queue = (queue or 0.0) + waited
        if until_program is not None:
            start = (start or 0.0) + (0.0 if is_lost else until_program)
    measured = output.seconds if output is not None else {}
    return TrialSeconds(
        queue=_rounded(queue),
        start=_rounded(start),
        load=_rounded(measured.get("load")),
        generate=_rounded(measured.get("generate")),
        lost=_rounded(lost),
    )


def cut_off_at(directory: Path, attempt: Attempt, following: Attempt) -> datetime:
    """Return until when an attempt without a recorded end counts.

    That is the last sign of life of its job, which was killed after it. The next attempt may have
    begun days later. It is the beginning of that one if the job left no records.

    Args:
        directory: The trial's directory.
        attempt: The attempt.
        following: The trial's next attempt.
    """
    latest, place = _time(following.started), _place_of_job(directory, attempt)
    records = read_job_starts(place)
    record = _start_of(attempt, records)
    if record is None:
        return latest
    sign = _last_sign(record, _usage_of(record, records, read_usages(place)))
    return min(latest, max(sign, _time(attempt.started)))


def _place_of_job(directory: Path, attempt: Attempt) -> Path:
    return directory / Path(attempt.log).parent if attempt.log else directory


def _start_of(attempt: Attempt, records: Sequence[JobStart]) -> JobStart | None:
    """Return the job start that an attempt began in; None if none is recorded."""
    began = _time(attempt.started)
    earlier = [r for r in records if r.job_id == attempt.job_id and _time(r.started) <= began]
    return earlier[-1] if earlier else None


def _job_seconds(attempt: Attempt, end: datetime | None) -> float:
    """Return an attempt's part of its job's wall seconds, at most.

    An attempt without a recorded end counts until ``end``.
    """
    if attempt.job_seconds is not None:
        return attempt.job_seconds
    seconds = attempt.seconds
    if attempt.finished is None and end is not None:
        seconds = (end - _time(attempt.started)).total_seconds()
    return max(0.0, seconds) / max(1, attempt.together)


def _before_program(directory: Path, attempt: Attempt) -> tuple[float | None, float | None]:
    """Return how long an attempt waited for its job, and its part of the job's start.

    Both are 0 for a trial that was given to a job that ran already, and None if the job left no
    records.
    """
    place = _place_of_job(directory, attempt)
    began = _time(attempt.started)
    records = read_job_starts(place)
    record = _start_of(attempt, records)
    if record is None:
        return None, None
    usages = read_usages(place)
    usage = _usage_of(record, records, usages)
    if usage is not None and _time(usage.started) < began:
        return 0.0, 0.0
    waited = _waited(record, records, usages)
    if usage is None:
        return waited, None
    seconds = (_time(usage.started) - _time(record.started)).total_seconds()
    return waited, seconds / max(1, attempt.together)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def measured_starts(
    directory: Path, records: Sequence[JobStart], live: Collection[str], now: datetime
) -> list[MeasuredStart]:
    """Return what was measured of the starts of a job's directory.

    A start without an end that is the last one of a live job goes on until ``now``. Any other one
    was killed some time after its last record; what it did since its attempts began is lost.

    Args:
        directory: The job's directory.
        records: Its starts (`read_job_starts`).
        live: The ids of jobs that may still run.
        now: The time.
    """
    usages = read_usages(directory)
    found = []
    for record in records:
        usage = _usage_of(record, records, usages)
        runs = record is records[-1] and record.finished is None and record.job_id in live
        waited = _waited(record, records, usages)
        found.append(_measured(directory, record, usage, waited, now if runs else None))
    return found


def _usage_of(
    record: JobStart, records: Sequence[JobStart], usages: Iterable[JobUsage]
) -> JobUsage | None:
    """Return the usage of the program that one start of a job began.

    ``record`` is that start, one of ``records``.
    """
    following = next((r for r in records if r.number > record.number), None)
    end = None if following is None else _time(following.started)
    within = [
        usage
        for usage in usages
        if _time(usage.started) >= _time(record.started)
        and (end is None or _time(usage.started) < end)
    ]
    return within[-1] if within else None


def _waited(
    record: JobStart, records: Sequence[JobStart], usages: Sequence[JobUsage]
) -> float | None:
    """Return how long a start of a job, one of ``records``, waited for a node.

    A job that was killed and requeued waited since the last sign of life of the start before.
    """
    if record.waited_since is None:
        return None
    since = _time(record.waited_since)
    before = [r for r in records if r.number < record.number and r.job_id == record.job_id]
    if before and before[-1].finished is None:
        since = _last_sign(before[-1], _usage_of(before[-1], records, usages))
    # The clocks of two machines differ.
    return max(0.0, (_time(record.started) - since).total_seconds())


def _last_sign(record: JobStart, usage: JobUsage | None) -> datetime:
    """Return when a start of a job without an end last wrote something."""
    written = _time(record.written)
    return written if usage is None else max(written, _time(usage.written))


def _measured(
    directory: Path,
    record: JobStart,
    usage: JobUsage | None,
    waited: float | None,
    now: datetime | None,
) -> MeasuredStart:
    """Return what was measured of a start; ``now`` is the time if it goes on."""
    started, written = _time(record.started), _time(record.written)
    end = _time(record.finished) if record.finished else now
    if end is None:  # killed
        end = _last_sign(record, usage)
    since = max(0.0, (end - written).total_seconds())  # what the record does not have yet
    busy = record.busy_seconds + (since if record.open else 0.0)
    idle = record.idle_seconds + (since if record.attempts and not record.open else 0.0)
    lost = record.lost_seconds
    if record.finished is None and now is None and record.open:
        lost += record.open_seconds + since
    measured = MeasuredStart(
        job=directory.name,
        job_id=record.job_id,
        node=record.node,
        gpus=record.gpus,
        attempts=record.attempts,
        queue=waited,
        seconds=max(0.0, (end - started).total_seconds()),
        busy=busy,
        idle=idle,
        lost=lost,
        span=(started, max(started, end)),
    )
    if usage is None:
        # A program that has not begun yet: all of the time belongs to its start.
        return replace(measured, program_after=None if now is None else measured.seconds)
    load, generate = usage.seconds.load, usage.seconds.generate
    if now is not None and record.open:
        phase = read_phase(directory)  # what the program does since it wrote its usage
        passed = max(0.0, (now - _time(usage.written)).total_seconds())
        load += passed if phase is not None and phase.name == "load" else 0.0
        generate += passed if phase is not None and phase.name == "generate" else 0.0
    return replace(
        measured,
        program_after=(_time(usage.started) - started).total_seconds(),
        load=load,
        generate=generate,
        engines=tuple((engine.model, engine.seconds) for engine in usage.starts),
        tokens={draw.model: draw.prompt_tokens + draw.decode_tokens for draw in usage.draws},
        decode={draw.model: draw.decode_tokens for draw in usage.draws},
        model_seconds={draw.model: draw.seconds for draw in usage.draws},
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
