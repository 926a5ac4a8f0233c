"""A queue that does not answer for a while costs time, not the run: the real loop over a real
scheduler with faults.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest

from agenttts.dispatch.base import JobRequest, JobStatus, QueueUnavailable, SubmitLimitReached
from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.errors import MissingRequirement
from agenttts.launch import launch
from agenttts.launch.plan import make_plan
from agenttts.loop import controller_job as process
from agenttts.loop.workers import Workers
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.starts import ControllerHandle, write_handle
from agenttts.spec import load_spec
from tests.support.runs import journal_events
from tests.support.scripted import one_trial_a_job
from tests.support.settings import change_settings
from tests.support.waiting import until_ended


class Unsteady(InProcessScheduler):
    """Fails the calls of its plan: {call number: when}; a submission may have gone through all
    the same.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.calls: Counter[str] = Counter()
        self.down: dict[tuple[str, int], str] = {}

    def _next(self, call: str) -> str | None:
        self.calls[call] += 1
        return self.down.get((call, self.calls[call]))

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        when = self._next("submit")
        if when == "before":
            raise QueueUnavailable("sbatch got no answer: Socket timed out", fix="wait")
        jobs = super().submit(batch, requests)
        if when == "after":
            raise QueueUnavailable("sbatch got no answer: Socket timed out", fix="wait")
        return jobs

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        when = self._next("poll")
        if when == "files":
            raise OSError(errno.EIO, "Input/output error")
        if when:
            raise QueueUnavailable("squeue did not answer", fix="wait")
        return super().poll(job_ids)


@pytest.fixture
def controller(scripted_spec, tmp_path, monkeypatch):
    """A controller of a new run, and its scheduler."""
    monkeypatch.setattr(launch, "start_controller", lambda run: None)
    slow = {"seconds_per_sample": 0.005}  # so that a trial is seen running
    changes = {
        "models__weak__options": slow,
        "models__strong__options": slow,
        "cluster": one_trial_a_job(tmp_path),
    }
    spec = load_spec(scripted_spec(search__iterations=0, **changes))
    run, created = launch.launch(make_plan(spec, [tmp_path], tmp_path / "results"))
    assert created
    made: list[Unsteady] = []

    def make(run: RunDirectory, profile: object) -> Unsteady:
        made.append(Unsteady(profile, run.scheduler_logs / "trials"))
        return made[-1]

    monkeypatch.setattr(process, "trial_scheduler", make)
    controller = process.make_controller(run.read())
    return run, controller, made[0]


def test_a_queue_that_comes_back_costs_no_trial(controller, monkeypatch):
    run, loop, scheduler = controller
    signs: list[bool] = []
    monkeypatch.setattr(Workers, "give_signs", lambda _, unseen=False: signs.append(unseen))
    scheduler.down = {
        ("submit", 1): "before", ("submit", 2): "before", ("submit", 3): "before", ("submit", 4): "before",
        ("submit", 6): "after", ("poll", 3): "yes", ("poll", 4): "yes", ("poll", 9): "yes", ("poll", 7): "files",
    }  # fmt: skip
    loop.run()
    assert signs.count(True) >= len(scheduler.down), "workers may end their trials meanwhile"
    told = journal_events(run.path)
    finished = [e["row"] for e in told if e["event"] == "finished"]
    assert finished
    assert {row["state"] for row in finished} == {"COMPLETED"}
    assert [row["attempts"] for row in finished] == [1] * len(finished), "none ran twice"
    assert told[-1]["outcome"] == "done"
    # Four refusals are more than max_attempts, but nothing had begun.
    lost = [e for e in told if e["event"] == "lost"]
    assert len(lost) == 4
    assert all(t.submissions == 1 for t in loop._journal.state.trials.values())


def test_patience_ends(controller):
    run, loop, scheduler = controller
    scheduler.down = {("submit", n): "before" for n in range(1, 1000)}
    change_settings(loop._evaluation, patience_seconds=0.5)
    with pytest.raises(MissingRequirement, match="Socket timed out"):
        loop.run()
    assert not journal_events(run.path, "ended"), "resume goes on from here"


def test_a_queue_full_of_the_run_s_own_trials_is_no_trouble(controller, monkeypatch):
    """However long they run: patience is for a queue that does not work."""
    run, loop, scheduler = controller
    # By job, how often another one was refused beside it. It is seen running until the third time.
    refused: Counter[str] = Counter()
    take, look = scheduler.submit, scheduler.poll

    def submit(batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        if live := [job for job, times in refused.items() if times < 3]:
            refused.update(live)
            raise SubmitLimitReached("sbatch refuses more jobs", fix="wait")
        jobs = take(batch, requests)
        refused.update(dict.fromkeys(jobs.values(), 0))
        return jobs

    def poll(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        waits = any(t.job_id is None for t in loop._journal.state.unfinished())
        held = [job for job, times in refused.items() if times < 3 and waits]
        found = look(job_ids)
        return found | {j: JobStatus("RUNNING", ended=False) for j in found if j in held}

    monkeypatch.setattr(scheduler, "capacity", lambda live: 1)
    monkeypatch.setattr(scheduler, "submit", submit)
    monkeypatch.setattr(scheduler, "poll", poll)
    change_settings(loop._evaluation, patience_seconds=0.0, poll_seconds=0.005)
    loop.run()
    assert sorted(set(refused.values())) == [0, 3], "again and again, but for the last"
    finished = [e["row"] for e in journal_events(run.path, "finished")]
    assert {row["state"] for row in finished} == {"COMPLETED"}
    assert [row["attempts"] for row in finished] == [1] * len(finished)


def test_patience_ends_at_a_limit_that_none_of_the_run_s_trials_can_lift(controller, monkeypatch):
    run, loop, scheduler = controller

    def submit(batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        raise SubmitLimitReached("sbatch refuses more jobs", fix="wait")

    monkeypatch.setattr(scheduler, "submit", submit)
    change_settings(loop._evaluation, patience_seconds=0.2)
    with pytest.raises(SubmitLimitReached):
        loop.run()
    assert not journal_events(run.path, "ended")


def test_a_slurm_command_that_hangs_or_fails_is_unavailable(tmp_path, monkeypatch):
    from agenttts.dispatch.slurm import commands
    from agenttts.dispatch.slurm import queue as slurm_queue

    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\n[ -e $0.hang ] && exec sleep 60\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1\n")  # fmt: skip
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(QueueUnavailable, match="Unable to contact"):
        slurm_queue.job_states(["7"])
    (tmp_path / "squeue.hang").touch()
    monkeypatch.setattr(commands, "_TIMEOUT_S", 0.5)
    with pytest.raises(QueueUnavailable, match=r"did not end within 0\.5 s"):
        slurm_queue.job_states(["7"])


@pytest.mark.parametrize(
    ("message", "passing"),
    [
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", True),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: invalid partition specified: nosuch", False),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", False),
    ],
)  # fmt: skip
def test_refusals_are_told_from_a_busy_slurmctld(message, passing):
    import submitit

    from agenttts.dispatch.slurm.scheduler import submission_errors

    with pytest.raises(MissingRequirement) as caught, submission_errors():
        raise submitit.core.utils.FailedJobError(message)
    assert isinstance(caught.value, QueueUnavailable) == passing


SLOW = {"seconds_per_sample": 0.03}


class Refusing(InProcessScheduler):
    """Takes one trial, then refuses as sbatch does for good; ``deaf``: cancelling gets no
    answer either.
    """

    deaf = False

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.taken: dict[str, str] = {}

    def capacity(self, live: int) -> int:
        return 1

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        if self.taken:
            raise MissingRequirement("sbatch refused the job: invalid partition", fix="correct it")
        self.taken = super().submit(batch, requests)
        return self.taken

    def cancel(self, job_ids: Iterable[str]) -> None:
        if self.deaf:
            raise QueueUnavailable("scancel did not answer", fix="wait")
        super().cancel(job_ids)


@pytest.fixture
def refused(scripted_spec, tmp_path, monkeypatch):
    """A run whose second array is refused while the first runs; ``end(deaf)`` runs it to its
    end.
    """
    monkeypatch.setattr(launch, "start_controller", lambda run: None)
    spec = load_spec(
        scripted_spec(
            search__iterations=0,
            models__weak__options=SLOW,
            models__strong__options=SLOW,
            cluster=one_trial_a_job(tmp_path),
        )
    )
    run, _ = launch.launch(make_plan(spec, [tmp_path], tmp_path / "results"))

    def end(deaf: bool) -> tuple[RunDirectory, Refusing]:
        made: list[Refusing] = []

        def make(run: RunDirectory, profile: object) -> Refusing:
            made.append(Refusing(profile, run.scheduler_logs / "trials"))
            made[-1].deaf = deaf
            return made[-1]

        with monkeypatch.context() as patched:
            patched.setattr(process, "trial_scheduler", make)
            loop = process.make_controller(run.read())
        with pytest.raises(MissingRequirement, match="invalid partition"):
            loop.run()
        return run, made[0]

    return end


def test_a_run_that_an_error_ends_leaves_no_job_and_resume_goes_on(refused):
    run, scheduler = refused(deaf=False)
    assert scheduler.taken
    until_ended(scheduler, scheduler.taken.values(), seconds=30)
    state = read_state(run.journal_file)
    assert "invalid partition" in state.finished
    assert "may still run" not in state.finished
    assert not state.unfinished()
    process.make_controller(run.read()).run()
    state = read_state(run.journal_file)
    assert state.finished == "done"
    assert {t.row["state"] for t in state.trials.values()} == {"COMPLETED"}


def test_cancel_stops_the_jobs_that_an_ended_run_left_behind(refused):
    run, scheduler = refused(deaf=True)
    state = read_state(run.journal_file)
    assert "may still run" in state.finished
    assert f"'agenttts-hpc cancel {run.path}' stops them" in state.finished
    assert not any(status.ended for status in scheduler.poll(scheduler.taken.values()).values())
    launch.cancel(run)
    until_ended(scheduler, scheduler.taken.values(), seconds=30)
    state = read_state(run.journal_file)
    assert state.finished == "cancelled"
    assert not state.unfinished()


def test_a_run_started_again_is_not_over(refused, monkeypatch):
    from agenttts.status import run_status as status

    run, _ = refused(deaf=False)
    assert "invalid partition" in status.run_status(run)["outcome"]
    write_handle(run, ControllerHandle("local"))
    running = JobStatus("RUNNING", ended=False)
    monkeypatch.setattr(status, "controller_state", lambda run: running)
    assert status.run_status(run)["outcome"] is None


POLICY = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"  # fmt: skip
OTHERS = "7|RUNNING|None|agenttts run=r controller\n8_3|PENDING|Priority|other\n"


@pytest.mark.parametrize(
    ("message", "queue", "passing"),
    [
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit {POLICY}", OTHERS, True),
        (f"sbatch: error: AssocMaxSubmitJobLimit {POLICY}", OTHERS, True),
        (POLICY, OTHERS, True),
        (f"sbatch: error: QOSMaxGRESPerJob {POLICY}", OTHERS, False),
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit {POLICY}", "", False),
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit {POLICY}", OTHERS.splitlines()[0] + "\n", False),
        (POLICY, "8_3|COMPLETED|None|other\n", False),
    ],
)  # fmt: skip
def test_a_submit_limit_is_waited_for_while_jobs_can_lift_it(
    tmp_path, monkeypatch, message, queue, passing
):
    import submitit

    from agenttts.dispatch.slurm.scheduler import submission_errors

    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\ncat <<'END'\n{queue}END\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # as in the controller's own job, which ends last
    with pytest.raises(MissingRequirement, match="policy") as caught, submission_errors():
        raise submitit.core.utils.FailedJobError(message)
    assert isinstance(caught.value, QueueUnavailable) == passing
    assert not passing or "until some of yours have ended" in str(caught.value)
