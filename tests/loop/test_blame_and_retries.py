"""Broken nodes, preemptions, slow file systems and damaged files: what a run makes of them.

The real loop over the in-process scheduler; what goes wrong goes wrong in real jobs, whose commands
are exchanged.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from agenttts.dispatch.attempts import HANDED_OVER, Attempt, read_attempts, write_attempt
from agenttts.dispatch.base import JobRequest, JobStatus, QueueUnavailable
from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.errors import MissingRequirement, RunFailed, UserError
from agenttts.launch import launch
from agenttts.launch.plan import make_plan
from agenttts.loop import controller_job as process
from agenttts.loop import trial_ends
from agenttts.loop.controller import Controller
from agenttts.loop.trial_ends import _times_preempted
from agenttts.loop.verdicts import ends_its_job
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.space import Allocation
from agenttts.spec import load_spec
from agenttts.status import run_status as status_module
from agenttts.tables.schema import TrialState
from tests.support.runs import journal_events
from tests.support.scripted import one_trial_a_job
from tests.support.settings import change_settings
from tests.support.waiting import until

NO_LOOP = "echo 'FATAL:   container creation failed: mount hook function failure: no loop devices available' >&2; exit 255"  # fmt: skip


class Cluster(InProcessScheduler):
    """Two nodes, n1 and n2, one job at a time: jobs run on n1 unless they are to avoid it.

    ``command(request, node, number)`` is what a trial's ``number``-th job runs instead of the
    trial, if anything; ``word`` is the queue's on jobs of that trial that have ended.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.command: Callable[[JobRequest, str, int], str | None] = lambda request, node, number: (
            None
        )
        self.word: Callable[[str], str | None] = lambda trial: None
        self.starts: Counter[str] = Counter()
        self.nodes: list[str] = []
        self.trials: dict[str, str] = {}
        self.monkeypatch: pytest.MonkeyPatch

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        [request] = requests
        node = "n2" if "n1" in request.exclude else "n1"
        self.monkeypatch.setenv("SLURMD_NODENAME", node)
        self.nodes.append(node)
        self.starts[request.trial] += 1
        script = self.command(request, node, self.starts[request.trial])
        if script is not None:
            request = replace(request, command=("sh", "-c", script))
        jobs = super().submit(batch, [request])
        self.trials.update({job: trial for trial, job in jobs.items()})
        return jobs

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        found = super().poll(job_ids)
        for job, status in found.items():
            word = self.word(self.trials[job]) if status.ended else None
            if word is not None:
                found[job] = replace(status, state=word)
        return found


@pytest.fixture
def new_run(scripted_spec, tmp_path, monkeypatch):
    """Make a run; gives it, and a function that makes its controller and scheduler (as a new
    process would).
    """
    monkeypatch.setattr(launch, "start_controller", lambda run: None)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    made: list[Cluster] = []

    def trial_scheduler(run: RunDirectory, profile: object) -> Cluster:
        made.append(Cluster(profile, run.scheduler_logs / "trials"))
        made[-1].monkeypatch = monkeypatch
        return made[-1]

    monkeypatch.setattr(process, "trial_scheduler", trial_scheduler)

    def make(**changes: object) -> tuple[RunDirectory, Callable[..., tuple[Controller, Cluster]]]:
        settings = {"search__iterations": 1, "search__batch_size": 2, "cluster": one_trial_a_job(tmp_path)}  # fmt: skip
        spec = load_spec(scripted_spec(**settings | changes))
        run, _ = launch.launch(make_plan(spec, [tmp_path], tmp_path / "results"))

        def controller(**settings: object) -> tuple[Controller, Cluster]:
            loop = process.make_controller(run.read())
            change_settings(loop._evaluation, **{"retry_pauses": (0.0,)} | settings)
            return loop, made[-1]

        return run, controller

    return make


def rows(run: RunDirectory) -> list[dict[str, object]]:
    return [trial.row for trial in read_state(run.journal_file).trials.values()]


def states(run: RunDirectory, trial: str = "t0000") -> list[str | None]:
    return [attempt.state for attempt in read_attempts(run.trial(trial))]


def test_a_broken_node_costs_one_attempt_and_is_avoided(new_run):
    run, controller = new_run()
    loop, cluster = controller()
    cluster.command = lambda request, node, number: NO_LOOP if node == "n1" else None
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert cluster.nodes == ["n1"] + ["n2"] * (len(cluster.nodes) - 1)
    assert [row["attempts"] for row in rows(run)] == [2] + [1] * (len(rows(run)) - 1)
    [first, _] = read_attempts(run.trial("t0000"))
    assert "no loop devices available" in first.error


@pytest.mark.parametrize("refusal", [None, QueueUnavailable("scontrol said no", fix="wait")])
def test_jobs_that_wait_already_are_kept_off_a_node_that_has_failed(new_run, refusal, cli):
    run, controller = new_run()
    loop, cluster = controller()
    cluster.command = lambda request, node, number: NO_LOOP if node == "n1" else None
    asked: list[tuple[list[str], list[str]]] = []

    def avoid(job_ids: Iterable[str], nodes: Sequence[str]) -> list[str]:
        asked.append((list(job_ids), list(nodes)))
        if refusal is not None:
            raise refusal
        return asked[-1][0]

    cluster.avoid = avoid  # type: ignore[method-assign]
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}, "whatever comes of it"
    events = journal_events(run.path, "avoiding")
    assert events[0]["nodes"] == ["n1"]
    assert asked[0] == ([], ["n1"]), "one job at a time: none waits"
    warnings = " ".join(json.loads(cli("status", "small", "--json").stdout)["warnings"])
    assert "trials failed on the nodes n1; new jobs avoid these nodes" in warnings
    assert "; the last failure: " in warnings
    if refusal is None:
        assert len(asked) == len(events) == 1, "once"
    else:
        assert len(events) > 1, "tried again"
        assert all(event["failed"] == events[0]["failed"] for event in events)
        assert "pending jobs may still run there: scontrol said no" in warnings


def test_a_cluster_whose_every_node_is_avoided_still_runs_the_trials(new_run, caplog):
    run, controller = new_run(search__iterations=2)
    loop, cluster = controller()
    cluster.command = lambda request, node, number: NO_LOOP if number == 1 else None
    submit = cluster.submit
    refused = []

    def one_node(batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        if requests[0].exclude:
            refused.append(batch)
            raise MissingRequirement("sbatch refused the job: Requested node configuration is not available", fix="correct it")  # fmt: skip
        return submit(batch, requests)

    cluster.submit = one_node  # type: ignore[method-assign]
    asked: list[object] = []
    cluster.avoid = lambda jobs, nodes: asked.append(nodes) or []  # type: ignore[method-assign]
    loop.run()
    assert asked.count(("n1",)) == 1, "not again once it is known that the node is needed"
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert "jobs that exclude n1 were refused" in caplog.text
    assert len(refused) == 1, "what was refused is not asked for again"


def test_a_node_that_fails_two_trials_for_no_reason_is_avoided_too(new_run):
    run, controller = new_run()
    # While the first trial's pause lasts, the second is started on the same node.
    loop, cluster = controller(retry_pauses=(1.0,))
    cluster.command = lambda request, node, number: "exit 3" if node == "n1" else None
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert cluster.nodes == ["n1", "n1"] + ["n2"] * (len(cluster.nodes) - 2)


@pytest.mark.parametrize(
    ("state", "detail"), [("FAILED", "setup line failed: x on node n1 (exit status 1)"), ("FAILED", ""), ("NODE_FAIL", "")]
)  # fmt: skip
@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_node_on_which_jobs_end_before_any_attempt_is_avoided(
    new_run, state, detail, max_attempts
):
    run, controller = new_run()
    loop, cluster = controller(max_attempts=max_attempts)
    submit, poll = cluster.submit, cluster.poll
    dead: list[str] = []

    def no_attempt(batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        if "n1" in requests[0].exclude:
            return submit(batch, requests)
        dead.append(f"dead{len(dead)}")
        return {requests[0].trial: dead[-1]}

    def told(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        ids = list(job_ids)
        ended = JobStatus(state, True, TrialState.INFRA_FAILED, detail, never_started=bool(detail), node="n1")  # fmt: skip
        return {job: ended for job in ids if job in dead} | poll([j for j in ids if j not in dead])

    cluster.submit, cluster.poll = no_attempt, told  # type: ignore[method-assign]
    loop.run()
    assert dead == ["dead0"], "one job, and the others on another node"
    first, *others = rows(run)
    assert first["state"] == ("COMPLETED" if max_attempts > 1 else "INFRA_FAILED")
    assert {row["state"] for row in others} == {"COMPLETED"}
    [event] = [e for e in journal_events(run.path) if e.get("node")]
    assert (event["node"], event["node_fault"]) == ("n1", True)


@pytest.mark.parametrize("max_timeouts", [0, 1, 3])
def test_a_trial_at_its_time_limit_goes_on_in_another_job_where_none_was_requeued(
    new_run, max_timeouts
):
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller(max_timeouts=max_timeouts, max_attempts=1, retry_pauses=(3600.0,))
    submit, poll = cluster.submit, cluster.poll
    ended: list[str] = []

    def at_its_limit(batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        [request] = requests
        if request.trial != "t0000" or len(ended) == 2:
            return submit(batch, requests)
        ended.append(f"ended{len(ended)}")
        now = "2026-01-01T00:00:00+00:00"
        record = Attempt(len(ended), ended[-1], "n1", 0, "", now, now, "TIMEOUT", "time is up", False, stopped="time limit")  # fmt: skip
        write_attempt(request.directory, record)
        return {request.trial: ended[-1]}

    def told(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        ids = list(job_ids)
        failed = JobStatus("FAILED", True, TrialState.INFRA_FAILED, node="n1")
        return {j: failed for j in ids if j in ended} | poll([j for j in ids if j not in ended])

    cluster.submit, cluster.poll = at_its_limit, told  # type: ignore[method-assign]
    loop.run()
    assert len(ended) == min(2, max_timeouts + 1)
    assert rows(run)[0]["state"] == ("COMPLETED" if max_timeouts > 1 else "TIMEOUT")
    assert not read_state(run.journal_file).losses, "the node is not to blame"


def test_a_result_counts_while_its_job_s_epilog_hangs(new_run):
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller()
    poll = cluster.poll

    def completing(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {
            job: replace(status, state="COMPLETING", ended=False) if status.ended else status
            for job, status in poll(job_ids).items()
        }

    cluster.poll = completing  # type: ignore[method-assign]
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}


def test_a_failure_on_record_counts_while_its_job_s_epilog_hangs(new_run):
    """The node hangs after the trial has failed: what the job wrote down is its end."""
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller()
    cluster.command = lambda work, node, number: NO_LOOP if number == 1 else None
    poll = cluster.poll
    ended: set[str] = set()

    def completing(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        found = poll(job_ids)
        ended.update(job for job, status in found.items() if status.ended)
        return {j: replace(s, state="COMPLETING", ended=False) if j in ended else s for j, s in found.items()}  # fmt: skip

    cluster.poll = completing  # type: ignore[method-assign]
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert {row["attempts"] for row in rows(run)} == {2}
    assert [e["reason"] for e in journal_events(run.path, "lost")] == ["INFRA_FAILED"] * len(rows(run))  # fmt: skip


RECORDS = [
    # state, stopped, whether the record is the job's end whatever the queue does with it next
    ("FAILED", None, True),
    ("OOM", None, True),
    ("COMPLETED", None, True),
    ("INFRA_FAILED", None, True),
    ("INFRA_FAILED", "preflight", True),
    ("INFRA_FAILED", "start limit", True),
    ("TIMEOUT", "stall limit", True),
    ("TIMEOUT", "time limit", False),  # the job asked to be requeued
    ("PREEMPTED", "preemption", False),
    ("CANCELLED", "signal", False),  # as Slurm ends a job before it requeues it
    ("CANCELLED", None, False),
    ("PREEMPTED", None, False),
    (HANDED_OVER, None, False),  # the same job may be given the rest
    (None, None, False),
]


@pytest.mark.parametrize(("state", "stopped", "end"), RECORDS)
def test_a_record_that_a_requeue_may_follow_is_not_the_job_s_end(state, stopped, end):
    now = "2026-01-01T00:00:00+00:00"
    record = Attempt(1, "7", "n1", 0, "", now, now if state else None, state, "why", stopped=stopped)  # fmt: skip
    assert ends_its_job(record) is end
    assert not ends_its_job(None)


def test_a_requeued_job_that_passes_through_completing_is_not_submitted_again(new_run):
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller()
    poll, looks = cluster.poll, Counter()

    def requeued(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Of every job the record of a preemption, three looks at it COMPLETING, then it runs."""
        found = poll(job_ids)
        for job in found:
            looks[job] += 1
            directory = run.trial(cluster.trials[job])
            if looks[job] <= 3:
                now = "2026-01-01T00:00:00+00:00"
                write_attempt(directory, Attempt(9, job, "n1", 0, "", now, now, "PREEMPTED", "", stopped="preemption"))  # fmt: skip
                found[job] = JobStatus("COMPLETING", ended=False, node="n1")
        return found

    cluster.poll = requeued  # type: ignore[method-assign]
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert set(cluster.starts.values()) == {1}
    assert not journal_events(run.path, "lost")


@pytest.mark.parametrize(
    ("records", "losses", "times"),
    [
        ("", 0, 1),  # PreemptMode=CANCEL, without a record
        ("1P", 0, 1),
        ("1P 2P 3P", 2, 3),  # a job each
        ("1P 1P 1P", 0, 3),  # one job, requeued
        ("1P 1P 2P", 1, 3),
        ("1C 2C", 1, 2),  # the record says CANCELLED, the queue PREEMPTED
        ("1P 1I 2P", 0, 2),  # requeued, then failed: a failure is no preemption
    ],
)  # fmt: skip
def test_each_preemption_counts_once(records, losses, times):
    states = {"P": "PREEMPTED", "C": "CANCELLED", "I": "INFRA_FAILED"}
    attempts = [
        Attempt(n, word[0], "n1", 0, "", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00", states[word[1]])
        for n, word in enumerate(records.split())
    ]  # fmt: skip
    planned = PlannedTrial("t0", 0, Allocation(()), "initial", "", 1.0)
    assert _times_preempted(TrialProgress(planned, preemptions=losses), attempts) == times


def test_trials_that_were_submitted_are_unknown_and_not_waiting_while_the_queue_is_silent(
    new_run, monkeypatch
):
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller()
    cluster.command = lambda request, node, number: "sleep 30"
    looks = iter(range(1000))

    def check() -> None:
        if next(looks) > 3:
            raise KeyboardInterrupt

    loop._evaluation._check = check
    with pytest.raises(KeyboardInterrupt):
        loop.run()

    def down(*_: object) -> None:
        raise QueueUnavailable("squeue failed", fix="wait")

    monkeypatch.setattr(status_module, "trial_scheduler", down)
    status = status_module.run_status(run)
    cluster.cancel([job["job_id"] for job in status["jobs"]])
    submitted = len(status["jobs"])
    assert submitted
    assert status["trials"]["UNKNOWN"] == submitted
    assert status["trials"].get("WAITING", 0) == sum(status["trials"].values()) - submitted


def test_pauses_grow_and_a_trial_that_nothing_explains_blames_no_allocation(new_run):
    run, controller = new_run()
    # A pause counted too early or too late would be none, or would not end.
    loop, cluster = controller(retry_pauses=(0.0, 1.5, 3600.0))
    cluster.command = lambda request, node, number: "exit 3" if request.trial == "t0000" else None
    loop.run()
    assert read_state(run.journal_file).finished == "done"
    first, *others = rows(run)
    assert first["state"] == "INFRA_FAILED"
    assert "exit code 3" in first["error"]
    assert "max_attempts is 3" in first["error"]
    assert {row["state"] for row in others} == {"COMPLETED"}
    starts = [datetime.fromisoformat(a.started) for a in read_attempts(run.trial("t0000"))]
    _, second = [(b - a).total_seconds() for a, b in pairwise(starts)]
    assert second >= 1.5
    told = {result.allocation for result in loop._searcher.archive.evaluated}
    assert len(told) == len({json.dumps(row["allocation"]) for row in others})
    assert all(result.score is not None for result in loop._searcher.archive.results)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_costs_a_trial_one_attempt_however_long_it_lasts(
    new_run, monkeypatch, caplog, number
):
    run, controller = new_run()
    loop, cluster = controller()
    looks: list[Path] = []
    text = os.strerror(number)

    def check(place: Path) -> None:
        looks.append(place)
        if len(looks) <= 30:
            raise OSError(number, text, str(place))

    def command(request: JobRequest, node: str, number: int) -> str | None:
        full = request.trial == "t0000" and len(looks) < 30
        return f"echo 'OSError: {text}' >&2; exit 1" if full else None

    monkeypatch.setattr(trial_ends, "check_room", check)
    cluster.command = command
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert cluster.starts["t0000"] == 2
    assert len(journal_events(run.path, "lost")) == 1
    said = [r.getMessage() for r in caplog.records if "is paused by a file" in r.getMessage()]
    assert len(said) == 1
    assert f"{run.read().samples}: {text}" in said[0]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOENT, errno.EIO])
def test_a_store_that_only_nodes_can_write_is_not_waited_for(new_run, monkeypatch, number):
    run, controller = new_run()
    loop, cluster = controller()

    def check(place: Path) -> None:
        raise OSError(number, os.strerror(number), str(place))

    monkeypatch.setattr(trial_ends, "check_room", check)
    cluster.command = lambda request, node, number: "exit 3" if number == 1 else None
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}


def test_a_job_that_fails_where_there_is_room_leaves_nothing_behind(new_run):
    run, controller = new_run()
    loop, cluster = controller()
    cluster.command = lambda request, node, number: "exit 3" if number == 1 else None
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert not [path for path in run.path.rglob("tmp*") if path.is_file()]


def test_a_controller_that_is_started_again_keeps_the_pause(new_run):
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller(max_attempts=2)
    cluster.command = lambda request, node, number: "exit 3"
    journal = loop._journal
    stop = journal.append

    def append(event: str, **values: object) -> None:
        stop(event, **values)
        if event == "lost":
            raise KeyboardInterrupt  # the controller dies right behind it

    journal.append = append  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    second, _ = controller(retry_pauses=(2.0,))
    lost = datetime.fromisoformat(read_state(run.journal_file).trials["t0000"].lost_at)
    second.run()
    assert states(run) == ["INFRA_FAILED", "COMPLETED"]
    begun = datetime.fromisoformat(read_attempts(run.trial("t0000"))[1].started)
    assert (begun - lost).total_seconds() >= 2


def test_a_clock_that_was_ahead_holds_up_no_trial(new_run, monkeypatch):
    """The next controller may run on another host, whose clock says less."""
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller(max_attempts=2, retry_pauses=(2.0,))
    cluster.command = lambda request, node, number: "exit 3" if number == 1 else None
    append = loop._journal.append

    def ahead(event: str, **values: object) -> None:
        append(event, **values)
        progress = loop._journal.state.trials.get("t0000")
        if progress is not None and progress.lost_at is not None:
            later = datetime.fromisoformat(progress.lost_at) + timedelta(hours=5)
            progress.lost_at = later.isoformat()

    monkeypatch.setattr(loop._journal, "append", ahead)
    loop.run()
    assert states(run) == ["INFRA_FAILED", "COMPLETED"]


def test_the_queue_s_preempted_outranks_a_record_of_cancelled(new_run):
    """PreemptMode=CANCEL: SIGTERM first. Such losses do not count against max_attempts."""
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller(max_attempts=1)
    preempted = "kill -TERM $$"
    cluster.command = lambda request, node, number: preempted if request.trial == "t0000" and number < 4 else None  # fmt: skip
    cluster.word = lambda trial: "PREEMPTED" if cluster.starts[trial] < 4 else None
    loop.run()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert states(run) == ["CANCELLED", "CANCELLED", "CANCELLED", "COMPLETED"]


def test_preemptions_are_capped(new_run):
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller(max_preemptions=2)
    cluster.command = lambda request, node, number: (
        "kill -TERM $$" if request.trial == "t0000" else None
    )
    cluster.word = lambda trial: "PREEMPTED" if trial == "t0000" else None
    loop.run()
    first = rows(run)[0]
    assert first["state"] == "PREEMPTED"
    assert "max_preemptions allows 2" in first["error"]
    assert len(states(run)) == 3


def test_a_trial_that_the_user_cancels_stays_cancelled(new_run):
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller()
    cluster.command = lambda request, node, number: (
        "kill -TERM $$" if request.trial == "t0000" else None
    )
    cluster.word = lambda trial: "CANCELLED" if trial == "t0000" else None
    loop.run()
    assert rows(run)[0]["state"] == "CANCELLED"
    assert states(run) == ["CANCELLED"]


@pytest.fixture
def late_marker(new_run):
    """A run whose first trial's marker is not in sight when its job ends; ``appears(seconds)``
    puts it back.
    """
    run, controller = new_run(search__iterations=0)
    loop, cluster = controller(settle_seconds=20)
    marker = run.trial("t0000") / "COMPLETED.json"
    hidden = marker.with_name("hidden")
    poll = cluster.poll

    def hide(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        found = poll(job_ids)
        # Not before the job has looked for it itself.
        ended = all(status.ended for status in found.values())
        if ended and marker.exists() and not hidden.exists():
            hidden.write_bytes(marker.read_bytes())
            marker.unlink()
        return found

    cluster.poll = hide  # type: ignore[method-assign]
    return run, loop, marker, hidden


def test_a_marker_may_appear_late(late_marker):
    """As over NFS: the attempt's record says COMPLETED before the marker is in sight."""
    run, loop, marker, hidden = late_marker

    def reappear() -> None:
        until(lambda: states(run) == ["COMPLETED"] and hidden.exists())
        time.sleep(1)
        marker.write_bytes(hidden.read_bytes())

    thread = threading.Thread(target=reappear)
    thread.start()
    loop.run()
    thread.join()
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}
    assert states(run) == ["COMPLETED"], "it was not run again"


def test_a_marker_that_never_appears_costs_an_attempt(late_marker):
    run, loop, _, _ = late_marker
    change_settings(loop._evaluation, settle_seconds=0.5)
    loop.run()
    assert rows(run)[0]["state"] == "COMPLETED"
    assert states(run) == ["COMPLETED", "COMPLETED"]
    events = [json.loads(line) for line in run.journal_file.read_text().splitlines()]
    [lost] = [event for event in events if event["event"] == "lost"]
    assert "COMPLETED.json is missing" in lost["why"]


def damage_a_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3][:20] + "\n", *lines[4:]]))


def cut_at_a_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def empty(path: Path) -> None:
    path.write_text("")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_a_line, cut_at_a_line, empty, remove])
@pytest.mark.parametrize("after", [0, 2])
def test_damaged_examples_end_the_run_and_are_named(new_run, damage, after):
    """Before its first trial, and while it runs: not one FAILED trial after the other."""
    run, controller = new_run(search__iterations=2, search__batch_size=1)
    whole = run.examples_file.read_bytes()
    loop, cluster = controller()

    def spoil(request: JobRequest, node: str, number: int) -> None:
        if len(cluster.starts) == after + 1 and run.examples_file.exists():
            damage(run.examples_file)

    if after:
        cluster.command = spoil
    else:
        damage(run.examples_file)
    with pytest.raises(RunFailed, match="examples.jsonl"):
        loop.run()
    state = read_state(run.journal_file)
    assert "examples.jsonl" in state.finished
    assert f"'agenttts-hpc resume {run.path}'" in state.finished
    assert "FAILED" not in {row["state"] for row in rows(run) if row}
    run.examples_file.write_bytes(whole)
    again, _ = controller()
    again.run()
    assert read_state(run.journal_file).finished == "done"
    assert {row["state"] for row in rows(run)} == {"COMPLETED"}


def test_events_of_a_later_version_are_passed_over(new_run, caplog):
    run, controller = new_run(search__iterations=0)
    loop, _ = controller()
    loop.run()
    lines = run.journal_file.read_text().splitlines(keepends=True)
    row = {**json.loads(next(x for x in lines if '"finished"' in x))}
    row["row"] |= {"later": 1}
    later = [json.dumps({"event": "later", "time": "2030"}) + "\n", json.dumps(row) + "\n"]
    run.journal_file.write_text("".join(lines[:-1] + later + lines[-1:]))
    assert read_state(run.journal_file).finished == "done"
    assert "'later'" in caplog.text
    again, _ = controller()
    again._evaluation.write_table()


@pytest.mark.parametrize("line", ['{"event": "told"}', "[]", "3", '{"event": "finished", "trial": "t9999", "row": {}}'])  # fmt: skip
def test_an_event_that_no_version_writes_is_named(new_run, line):
    run, controller = new_run(search__iterations=0)
    with run.journal_file.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UserError, match=r"journal\.jsonl:1: not a valid event"):
        read_state(run.journal_file)
    with pytest.raises(UserError, match=r"journal\.jsonl:1"):
        controller()
