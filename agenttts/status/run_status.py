"""The state of a run, which may still go on, read from its files and its queue."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from agenttts.dispatch.base import OUTLIVED, JobStatus
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.service import ELSEWHERE, Service
from agenttts.errors import MissingRequirement, RunFailed, cli_command, counted
from agenttts.files.access import ROOM_BYTES
from agenttts.files.locks import is_locked
from agenttts.launch.controller import (
    StartedController,
    controller_state,
    scheduler_of_controller,
    started_controller,
)
from agenttts.run.costs import CostReader
from agenttts.run.directory import RunDirectory
from agenttts.run.examples import count_examples
from agenttts.run.journal import read_state
from agenttts.run.profile_fix import (
    names_a_command,
    profile_fix,
    with_profile_fix,
)
from agenttts.run.progress import TrialProgress
from agenttts.run.rows import row_from_json
from agenttts.run.schedulers import served_scheduler, trial_scheduler
from agenttts.run.state import RunState
from agenttts.search.llm.transcript import summarise
from agenttts.serving.job import service_name
from agenttts.serving.lifecycle import served_job
from agenttts.status.controller_logs import controller_logs
from agenttts.status.document import StatusDocument
from agenttts.status.live_work import live_directories, live_work
from agenttts.status.to_come import iterations_left, to_come
from agenttts.tables.aggregate import Interval, bootstrap_interval
from agenttts.tables.cuts import cut_by_model, cut_document, cut_warnings
from agenttts.tables.documents import printed
from agenttts.tables.schema import (
    AFTER_SEARCH,
    CLOSING_SOURCES,
    FINALIST_SOURCE,
    TEST_SOURCE,
    TrialRow,
    read_examples,
)
from agenttts.trial.result import EXAMPLES_FILE


def run_status(run: RunDirectory, costs: CostReader | None = None) -> dict[str, Any]:
    """Return the state of a run as `StatusDocument`, the output of ``status --json``.

    Args:
        run: The run.
        costs: The cost reader of an earlier call, which does not read ended jobs again.
    """
    return printed(StatusDocument, _status(run, costs or CostReader(run)))


def _status(run: RunDirectory, costs: CostReader) -> dict[str, Any]:
    state = read_state(run.journal_file)
    spec = run.spec()
    rows = [row_from_json(t.row) for t in state.trials.values() if t.row]
    live = [t for t in state.unfinished() if t.job_id]
    started = started_controller(run)
    directories = {} if state.finished is not None else live_directories(run, state)
    queue = _ask_queue(run, {*directories, *(t.job_id for t in live if t.job_id)}, started)
    # A controller that was started again may not have recorded yet that the run goes on.
    outcome = None if queue.alive and state.finished != "done" else state.finished
    workers, stages = live_work(directories, queue.trials, live)
    iteration = last_iteration(state)
    best = best_of(rows, state.earlier_closing)
    cuts = cut_by_model(rows)
    limits = {name: stage.decode_tokens for name, stage in spec.stages.items()}
    agent = summarise(run.transcript_file)
    cost = costs.cost(state)
    return {
        "run": run.name,
        "path": str(run.path),
        "outcome": outcome,
        "controller": _controller(run, started, queue),
        "iteration": iteration,
        "iterations": spec.search.iterations,
        "finishing": state.finishing or run.finish_file.exists(),
        "ended_early": state.finished == "done"
        and iteration is not None
        and iterations_left(spec.search, state, iteration) > 0,
        "trials": _trials_by_state(state, rows, queue),
        **_results(state, rows, best),
        "best_interval": _interval(run, best),
        "guideline": state.guidelines[-1] if spec.agent != "none" and state.guidelines else None,
        "started": state.started_at,
        "cost": None if cost is None else cost.document(),
        "to_come": None
        if outcome is not None
        else to_come(
            spec.search,
            state,
            rows,
            cost,
            costs.forecast(),
            iteration,
            cache(partial(_frozen_examples, run)),
        ),
        "cut_share": cut_document(cuts),
        "warnings": [
            *cut_warnings(cuts, limits),
            *(_room_warnings(run) if outcome is None else ()),
            *_node_warnings(state),
            *_profile_warnings(run, live, queue),
            *_stray_warnings(state.strays),
            *_transcript_warnings(run, agent),
        ],
        "strays": state.strays,
        "avoided_nodes": state.avoided,
        "agent": agent,
        "served": queue.served,
        "workers": workers,
        "jobs": [
            {
                "trial": t.planned.trial,
                "job_id": t.job_id,
                "state": queue.of(t).state,
                "reason": queue.of(t).detail,
                "allocation": str(t.planned.allocation),
                "progress": asdict(stages[t.planned.trial]) if t.planned.trial in stages else None,
            }
            for t in live
        ],
    }


@dataclass(frozen=True)
class _Queue:
    """What the queue says of a run's jobs.

    Attributes:
        trials: The states of the jobs of trials, by job id.
        controller: The state of the run's controller; None if no controller was started.
        served: The job of the served model, if this job waits or runs; else None.
        problem: Why the queue could not be asked; None if it was asked.
    """

    trials: Mapping[str, JobStatus] = field(default_factory=dict)
    controller: JobStatus | None = None
    served: dict[str, Any] | None = None
    problem: str | None = None

    @property
    def alive(self) -> bool | None:
        """Whether the controller runs or waits; None if that cannot be seen from here."""
        elsewhere = self.controller is not None and self.controller.state == ELSEWHERE
        if self.problem is not None or elsewhere:
            return None
        return self.controller is not None and not self.controller.ended

    def of(self, trial: TrialProgress) -> JobStatus:
        """Return the state of an unfinished trial's job; ``WAITING`` without a job."""
        if not trial.job_id:
            return JobStatus("WAITING", ended=False)
        return self.trials.get(trial.job_id, JobStatus("UNKNOWN", ended=False))


def _ask_queue(run: RunDirectory, jobs: Iterable[str], started: StartedController | None) -> _Queue:
    """Ask the queue once for the jobs, the controller and the served model."""
    profile = run.profile()
    try:
        scheduler = trial_scheduler(run, profile)
        with scheduler.one_look():
            found = scheduler.poll(sorted(jobs))
            controller = controller_state(started) if started else None
            if started and controller is not None and not controller.ended:
                service = started.service
                unseen = [job for job in found if scheduler.is_seen_through(service, job)]
                found |= dict.fromkeys(unseen, controller)
            return _Queue(found, controller, _served_state(run, profile))
    except MissingRequirement as error:  # this machine lacks the cluster's commands
        return _Queue(problem=str(error))


def _controller(
    run: RunDirectory, started: StartedController | None, queue: _Queue
) -> dict[str, Any]:
    """Return the document of the controller (`ControllerDocument`)."""
    scheduler = started.scheduler if started else scheduler_of_controller(run)
    state = queue.controller
    logs = controller_logs(run)
    return {
        "kind": scheduler.name,
        "job_id": started.handle.job_id if started else None,
        "host": scheduler.host_of(started.service) if started else None,
        "described": scheduler.describe(started.service) if started else "",
        "alive": queue.alive,
        "running": queue.alive and state is not None and state.state == "RUNNING",
        "state": state.state if state else None,
        "reason": _reason(run, state),
        "stuck": state is not None and state.stuck,
        "cancelled": bool(started and started.handle.cancelled),
        "queue": queue.problem,
        "log": str(logs[-1]) if logs else None,
        "when": scheduler.when_it_starts(started.service)
        if started and state is not None and state.pending
        else "",
    }


def _reason(run: RunDirectory, state: JobStatus | None) -> str:
    """Return why a controller waits or has ended, and the fix."""
    if state is None:
        return ""
    return with_profile_fix(state.detail, run) if state.ended else state.detail


def _trials_by_state(state: RunState, rows: Sequence[TrialRow], queue: _Queue) -> dict[str, int]:
    counts = Counter(row.state.value for row in rows)
    counts.update(queue.of(trial).state for trial in state.unfinished())
    return dict(counts)


def _frozen_examples(run: RunDirectory, source: str) -> int:
    """Return how many examples were frozen for trials of a source.

    The result is 1 if the file of examples is missing or empty; the run itself reports this.
    """
    try:
        return max(1, count_examples(run.examples_of(source)))
    except OSError:
        return 1


def last_iteration(state: RunState) -> int | None:
    """Return the number of the last iteration of the search; None before the first."""
    planned = (t.planned for t in state.trials.values())
    # The iterations are counted, because closing trials before an extension of the search have
    # iteration numbers too.
    searched = {p.iteration for p in planned if p.source not in CLOSING_SOURCES}
    return len(searched) - 1 if searched else None


def iterations_to_come(run: RunDirectory) -> int:
    """Return how many iterations the search may still begin."""
    state = read_state(run.journal_file)
    search = run.spec().search
    iteration = last_iteration(state)
    return search.iterations if iteration is None else iterations_left(search, state, iteration)


def best_of(rows: Sequence[TrialRow], earlier: Container[str]) -> dict[str, Any] | None:
    """Return the best trial as `BestTrial`; None before a trial has scored.

    If a finalist has a score, the best trial is a finalist, because scores on more examples are
    more reliable.

    Args:
        rows: The rows of the run's trials.
        earlier: The closing trials before an extension (`RunState.earlier_closing`). They do not
            count.
    """
    scored = [row for row in rows if row.score is not None and row.source not in AFTER_SEARCH]
    finalists = [
        row
        for row in rows
        if row.source == FINALIST_SOURCE and row.trial not in earlier and row.score is not None
    ]
    best = max(
        finalists or scored,
        key=lambda row: (row.examples or 0, row.score, -row.budget),
        default=None,
    )
    if best is None:
        return None
    return {
        "trial": best.trial,
        "score": best.score,
        "budget": best.budget,
        "allocation": best.allocation.to_records(),
    }


def _interval(run: RunDirectory, best: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return the interval of the best score as `IntervalDocument`.

    The interval is None if the trial's examples were not kept.
    """
    if best is None:
        return None
    examples = run.trial(best["trial"]) / EXAMPLES_FILE
    metric = run.record().main_metric
    if not metric:  # a run of an older version
        return None
    try:
        found = _interval_of(examples, examples.stat().st_mtime_ns, metric)
    except (OSError, pl.exceptions.PolarsError):  # removed, or damaged later
        return None
    return {"low": found.low, "high": found.high} if found else None


@lru_cache(maxsize=16)
def _interval_of(examples: Path, changed: int, metric: str) -> Interval | None:
    """Return the interval of a metric over a trial's examples.

    ``changed`` is the file's time of change, which makes the cache read a changed file again.
    """
    return bootstrap_interval(read_examples(examples, ("example", "stage", "metrics")), metric)


def _results(
    state: RunState, rows: Sequence[TrialRow], best: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the best trial, the recommended allocation and the final test."""
    scored = [row for row in rows if row.score is not None and row.source not in AFTER_SEARCH]
    finalists = {row.trial for row in rows if row.source == FINALIST_SOURCE}
    recommended, sure = state.recommended, state.confidence
    if best is not None and best["trial"] in finalists:
        sure = sure if recommended == best["allocation"] else None
        recommended = best["allocation"]
    return {
        "best": best,
        "recommended": recommended,
        "scored_since": state.scored_since(),
        "confidence": sure and asdict(sure),
        "recommended_tried": any(row.allocation.to_records() == recommended for row in scored),
        "recommended_failed": next(
            (
                f"{row.trial} {row.state.value}"
                for row in reversed(rows)
                if row.score is None
                and row.source not in AFTER_SEARCH
                and row.allocation.to_records() == recommended
            ),
            None,
        ),
        "test": [
            {
                "trial": row.trial,
                "state": row.state.value,
                "score": row.score,
                "allocation": row.allocation.to_records(),
            }
            for row in rows
            if row.source == TEST_SOURCE and row.trial not in state.earlier_closing
        ],
    }


def _served_state(run: RunDirectory, profile: Profile) -> dict[str, Any] | None:
    """Return the job of the served model; None if this job neither waits nor runs."""
    scheduler = served_scheduler(run, profile)
    job = served_job(run.agent)
    # Without a queue, the model's job never waits, and the model's address shows that it runs.
    if job is None or not scheduler.has_nodes:
        return None
    state = scheduler.service_status(
        Service(service_name(run.record().tokens(run.name)[0]), job_id=job)
    )
    if state.ended:
        return None
    return {"job_id": job, "state": state.state, "reason": state.detail, "stuck": state.stuck}


def _room_warnings(run: RunDirectory) -> list[str]:
    """Return a warning for each place of the run without room."""
    found = []
    for place in dict.fromkeys((run.path, run.path / run.record().samples)):
        try:
            usage = shutil.disk_usage(place)
        except OSError:  # no sample is stored yet
            continue
        # Some file systems (FUSE) tell no sizes, which are then zero.
        if usage.total and usage.free < ROOM_BYTES:
            found.append(
                f"{place}: no space is left of {usage.total / 1e9:,.1f} GB; the controller "
                "and the jobs wait for it and try again"
            )
    return found


def _node_warnings(state: RunState) -> list[str]:
    if not state.avoided:
        return []
    waiting = (
        f"; pending jobs may still run there: {state.avoid_failed}" if state.avoid_failed else ""
    )
    causes = [loss.why for loss in state.losses if loss.why and loss.node in state.avoided]
    last = f"; the last failure: {causes[-1]}" if causes else ""
    return [
        f"trials failed on the nodes {', '.join(state.avoided)}; "
        f"new jobs avoid these nodes{waiting}{last}"
    ]


def _profile_warnings(run: RunDirectory, live: Sequence[TrialProgress], queue: _Queue) -> list[str]:
    """Return a warning if jobs cannot start before the profile is corrected."""
    waiting = [queue.of(trial) for trial in live]
    if queue.controller is not None:
        waiting.append(queue.controller)
    asking = [s for s in waiting if s.stuck and "profile" in s.detail]
    if not asking:
        return []
    return [
        f"jobs wait for a correction of the profile: '{cli_command('cancel', run.path)}', "
        f"{profile_fix(run)}"
    ]


def _stray_warnings(strays: Mapping[str, str]) -> list[str]:
    jobs = ", ".join(job for job, what in strays.items() if what != OUTLIVED)
    if not jobs:
        return []
    return [
        "jobs of this run that belong to no trial were cancelled: "
        f"{jobs} (usually from a submission that got no answer)"
    ]


def _transcript_warnings(run: RunDirectory, agent: Mapping[str, Any] | None) -> list[str]:
    damaged = agent["damaged_lines"] if agent else []
    if not damaged:
        return []
    return [
        f"{run.transcript_file}: line {', '.join(map(str, damaged))} is damaged and is ignored; "
        "the other lines are read"
    ]


def follow(
    run: RunDirectory, seen: Callable[[dict[str, Any]], None], interval: float | None = None
) -> dict[str, Any]:
    """Call ``seen`` with the status until the run is over.

    Args:
        run: The run.
        seen: Called with each status.
        interval: Seconds between two calls; None: the profile's ``poll_seconds``, but at least one
            and at most ten.

    Returns:
        The last status.

    Raises:
        RunFailed: The controller ended before the end of the run. Or the controller's job has
            waited longer than the profile's ``never_patience_minutes`` for something that does not
            happen by itself. This job stays in the queue, because the cause may still be removed.
    """
    profile = run.profile()
    patience = profile.never_patience_minutes * 60
    pause = min(10.0, max(1.0, profile.poll_seconds)) if interval is None else interval
    stuck_since: float | None = None
    costs = CostReader(run)
    while True:
        status = run_status(run, costs)
        seen(status)
        # If a cancelled or failed run has been resumed, it is not over, even if its controller has
        # not recorded this yet.
        if status["outcome"] == "done" or (status["outcome"] and not status["controller"]["alive"]):
            return status
        if status["controller"]["alive"] is False:
            # The run may have ended normally after ``status`` was read.
            if run_status(run)["outcome"] is not None:
                continue
            if is_locked(run.command_lock_file):  # e.g. `extend` starts another controller
                time.sleep(pause)
                continue
            reason, log = status["controller"]["reason"], status["controller"]["log"]
            steps = [
                f"ended before the end of the run{': ' if reason else ''}{reason}",
                f"its log is {log}" if log else "it has not written a log",
            ]
            if not names_a_command(reason):
                steps.append(f"'{cli_command('resume', run.path)}' continues the run")
            raise RunFailed(
                f"the controller of {run.path} (job {status['controller']['job_id']}) "
                + "; ".join(steps)
            )
        if status["controller"]["stuck"]:
            stuck_since = stuck_since if stuck_since is not None else time.monotonic()
            if time.monotonic() - stuck_since >= patience:
                raise RunFailed(
                    f"the controller of {run.path} (job {status['controller']['job_id']}) "
                    + with_profile_fix(
                        f"cannot start: {status['controller']['reason']}. It is still pending; "
                        f"'{cli_command('cancel', run.path)}' removes it",
                        run,
                    )
                )
        else:
            stuck_since = None
        time.sleep(pause)


def check_outcome(run: RunDirectory) -> None:
    """Check that the run is over and that all of its trials completed.

    Raises:
        RunFailed: The run is not over, did not end normally, or has a trial without a score.
    """
    state = read_state(run.journal_file)
    if state.finished is None:
        raise RunFailed(f"run {run.path} has not ended")
    if state.finished != "done":
        raise RunFailed(f"run {run.path} ended: {state.finished}")
    rows = [row_from_json(t.row) for t in state.trials.values() if t.row]
    failed = [row for row in rows if row.score is None]
    if failed:
        first = f"{failed[0].trial} {failed[0].state}: {failed[0].error}"
        raise RunFailed(
            f"{len(failed)} of {counted(len(rows), 'trial')} of {run.path} failed; the first: "
            + with_profile_fix(first, run, retry=True)
        )
