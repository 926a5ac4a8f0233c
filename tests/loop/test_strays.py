"""Jobs that no trial knows of are ended during the run, at its end and at a cancel, and told of."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

import pytest

from agenttts.dispatch.base import OUTLIVED, JobRequest, JobStatus, QueueUnavailable
from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.launch import launch
from agenttts.launch.plan import make_plan
from agenttts.loop import controller_job as process
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.spec import load_spec
from tests.support.runs import journal_events


class Late(InProcessScheduler):
    """Takes its first submission without an answer; its jobs are in the queue from the
    ``appears``-th poll on.
    """

    appears = 2
    deaf = False

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.polls = 0
        self.late: dict[str, str] = {}
        self.withdrawn: list[str] = []
        self.ended: list[str] = []

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        if not self.late:
            self.late = {f"late{n}": request.comment for n, request in enumerate(requests)}
            raise QueueUnavailable("sbatch got no answer: Socket timed out", fix="wait")
        return super().submit(batch, requests)

    def withdraw(self, batch: str, requests: Sequence[JobRequest], trials: Collection[str]) -> None:
        self.withdrawn += trials

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        self.polls += 1
        return super().poll(job_ids)

    def strays(self, token: str, known: Collection[str]) -> dict[str, str]:
        if self.deaf:
            raise QueueUnavailable("squeue did not answer", fix="wait")
        late = self.late if self.polls >= self.appears else {}
        return super().strays(token, known) | {
            job: what for job, what in late.items() if job not in self.ended
        }

    def cancel(self, job_ids: Iterable[str]) -> None:
        ids = list(job_ids)
        self.ended += [job for job in ids if job in self.late]
        super().cancel(ids)


@pytest.fixture
def run(scripted_spec, tmp_path, monkeypatch) -> RunDirectory:
    """A run whose controller was never started."""
    monkeypatch.setattr(launch, "start_controller", lambda run: None)
    spec = load_spec(scripted_spec(search__iterations=0))
    made, _ = launch.launch(make_plan(spec, [tmp_path], tmp_path / "results"))
    return made


@pytest.fixture
def late(run, monkeypatch) -> Late:
    """The one scheduler of all the run's controllers and commands."""
    scheduler = Late(run.profile(), run.scheduler_logs / "trials")
    for module in (process, launch):
        monkeypatch.setattr(module, "trial_scheduler", lambda run, profile: scheduler)
    return scheduler


def test_jobs_that_appear_late_are_ended_while_the_run_goes_on(run, late, cli):
    process.make_controller(run.read()).run()
    assert late.withdrawn == ["t0000"]
    assert late.ended == list(late.late)
    [event] = journal_events(run.path, "strays")
    assert event["jobs"] == late.late
    events = [e["event"] for e in journal_events(run.path)]
    assert events.index("strays") < events.index("finished"), "not only at the end"
    state = read_state(run.journal_file)
    assert state.finished == "done"
    assert {t.row["state"] for t in state.trials.values()} == {"COMPLETED"}
    document = json.loads(cli("status", "small", "--json").stdout)
    assert document["strays"] == late.late
    assert "belong to no trial were cancelled: late0" in " ".join(
        cli("status", "small").stdout.split()
    )


def test_jobs_that_appear_after_the_run_s_end_are_ended_by_cancel(run, late):
    late.appears = 10**9
    process.make_controller(run.read()).run()
    assert not journal_events(run.path, "strays")
    late.appears = 0
    launch.cancel(run)
    assert late.ended == list(late.late)
    assert read_state(run.journal_file).finished == "done", "it stays what it was"
    assert read_state(run.journal_file).strays == late.late
    launch.cancel(run)
    assert len(journal_events(run.path, "strays")) == 1


def test_a_cancel_ends_them_too(run, late):
    with pytest.raises(QueueUnavailable):
        late.submit("r-0", [JobRequest("t0000", run.path, (), {}, 0, "n", "lost")])
    late.appears = 0
    launch.cancel(run)
    assert late.ended == ["late0"]
    assert read_state(run.journal_file).finished == "cancelled"


def test_a_run_is_done_whether_or_not_the_queue_says_what_is_left(run, late, caplog):
    late.late = {"late0": "x"}  # no submission is late
    late.deaf = True
    process.make_controller(run.read()).run()
    assert read_state(run.journal_file).finished == "done"
    assert f"'agenttts-hpc cancel {run.path}' tries again" in caplog.text


def test_programs_that_outlive_their_jobs_are_ended_without_a_word(run, late, caplog, cli):
    """An engine that frees its GPU ends seconds after its job."""
    late.appears, late.late = 0, {"outlived0": OUTLIVED, "late0": "a job"}
    launch.cancel(run)
    assert late.ended == ["outlived0", "late0"]
    assert "outlived0" not in caplog.text
    said = cli("status", "small").stdout
    assert "outlived0" not in said
    assert "late0" in said
