"""What every scheduler owes the controller (see `agenttts.dispatch.base.Scheduler`).

A new scheduler is a line in ``SCHEDULERS`` and its `Place`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import JobRequest, Scheduler
from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.dispatch.local import LocalScheduler
from agenttts.dispatch.node.trial_log import LOG_FILE
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.tables.schema import TrialState
from tests.support.waiting import until, until_ended

pytestmark = pytest.mark.processes


SCHEDULERS = ["local", "in_process", pytest.param("slurm", marks=pytest.mark.cluster)]


@dataclass(frozen=True)
class Place:
    """Where requests run: ``scheduler()`` makes a new scheduler, as a new controller would."""

    folder: Path
    scheduler: Callable[..., Scheduler]
    never_a_job: str


@pytest.fixture(params=SCHEDULERS)
def place(request, tmp_path, monkeypatch) -> Place:
    here = {"local": LocalScheduler, "in_process": InProcessScheduler}
    if request.param in here:
        settings = {"kind": request.param, "throttle": 4, "gpus_per_node": 0, "grace_seconds": 5}
        folder = tmp_path / "submitit"
        make = here[request.param]
        return Place(
            tmp_path, lambda **more: make(Profile(**settings, **more), folder), "999999999"
        )
    from agenttts.dispatch.slurm.scheduler import SlurmScheduler

    cluster = request.getfixturevalue("cluster")
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    resources = JobResources(partition="cpu", time="10", mem="100M")
    settings = {"kind": "slurm", "trial": resources, "throttle": 4, "grace_seconds": 5}
    folder = tmp_path / "submitit"
    return Place(
        tmp_path, lambda **more: SlurmScheduler(Profile(**settings, **more), folder), "999999"
    )  # fmt: skip


@pytest.fixture
def requests(place):
    """Make requests that run a shell script in their own directories."""

    def make(script: str, count: int = 1, **more: object) -> list[JobRequest]:
        made = []
        for number in range(count):
            directory = place.folder / "trials" / f"t{number:04}"
            directory.mkdir(parents=True, exist_ok=True)
            made.append(
                JobRequest(
                    trial=directory.name,
                    directory=directory,
                    command=("sh", "-c", f"cd {directory}; {script}"),
                    env={"MINE": f"request {number}"},
                    gpus=0,
                    name=f"i0t{number}-run",
                    comment=f"agenttts run=run iteration=0 trial={directory.name}",
                    **more,
                )
            )
        return made

    return make


SLEEPER = "trap 'exit 143' TERM; echo $$ > pid; while :; do sleep 0.05; done"


def test_every_request_gets_a_job_of_its_own_and_runs_once(place, requests):
    scheduler = place.scheduler()
    three = requests("echo $MINE >> ran; exit 1", 3)
    ids = scheduler.submit("batch-0", three)
    assert set(ids) == {"t0000", "t0001", "t0002"}
    assert len(set(ids.values())) == 3
    statuses = until_ended(scheduler, ids.values())
    assert set(statuses) == set(ids.values())
    for number, request in enumerate(three):
        assert (request.directory / "ran").read_text() == f"request {number}\n"
        [attempt] = read_attempts(request.directory)
        assert attempt.state == TrialState.INFRA_FAILED
        assert attempt.job_id == ids[request.trial]


def test_poll_answers_for_every_id(place, requests):
    scheduler = place.scheduler()
    assert scheduler.poll([]) == {}
    [request] = requests(SLEEPER)
    ids = scheduler.submit("batch-0", [request])
    asked = [ids["t0000"], place.never_a_job]
    statuses = scheduler.poll(asked)
    assert list(statuses) == asked or set(statuses) == set(asked)
    assert not statuses[ids["t0000"]].ended
    assert statuses[ids["t0000"]].verdict is None
    assert statuses[place.never_a_job].ended
    assert statuses[place.never_a_job].verdict is TrialState.INFRA_FAILED
    scheduler.cancel(ids.values())
    until_ended(scheduler, ids.values())


def test_a_new_scheduler_finds_the_jobs_of_a_batch(place, requests):
    """The controller died between submitting and writing that down: at once, and once they run."""
    three = requests(SLEEPER, 3)
    ids = place.scheduler().submit("batch-0", three)
    new = place.scheduler()
    assert new.find("batch-0", three) == ids
    until(lambda: all((request.directory / "pid").exists() for request in three))
    new = place.scheduler()
    assert new.find("batch-0", three) == ids
    assert not any(status.ended for status in new.poll(ids.values()).values())
    new.cancel(ids.values())
    until_ended(new, ids.values())


def test_nothing_is_found_where_nothing_was_submitted(place, requests):
    [request] = requests(SLEEPER)
    ids = place.scheduler().submit("batch-0", [request])
    other = [JobRequest("t0009", place.folder / "trials" / "t0009", ("true",), {}, 0, "n", "c")]
    assert place.scheduler().find("batch-1", other) == {}
    place.scheduler().cancel(ids.values())
    until_ended(place.scheduler(), ids.values())


@pytest.mark.parametrize("setup", [[], ["true", "export FROM_SETUP=here"]])
def test_cancel_ends_jobs_in_order_whoever_started_them(place, requests, setup):
    two = requests(f"echo setup=$FROM_SETUP; {SLEEPER}", 2)
    ids = place.scheduler(setup=setup).submit("batch-0", two)
    until(lambda: all((request.directory / "pid").exists() for request in two))
    new = place.scheduler(setup=setup)
    new.cancel(ids.values())
    until_ended(new, ids.values())
    for request in two:
        pid = (request.directory / "pid").read_text().strip()
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        assert read_attempts(request.directory)[-1].state == TrialState.CANCELLED
        expected = "setup=here" if setup else "setup="
        assert (request.directory / LOG_FILE).read_text().splitlines()[0] == expected
    new.cancel(ids.values())  # harmless now
    new.cancel([])


@pytest.mark.parametrize("setup", [[], ["true"]])
def test_jobs_that_are_not_known_are_strays_and_can_be_ended(place, requests, setup):
    three = requests(SLEEPER, 3)
    ids = place.scheduler(setup=setup).submit("run-1234-7", three)
    until(lambda: all((request.directory / "pid").exists() for request in three))
    new = place.scheduler(setup=setup)
    known = [ids["t0000"], ids["t0002"]]
    assert list(new.strays("run-1234", known)) == [ids["t0001"]]
    assert not new.strays("run-1234", ids.values())
    new.cancel(new.strays("run-1234", known))
    until_ended(new, [ids["t0001"]])
    assert not new.strays("run-1234", known)
    assert not any(status.ended for status in new.poll(known).values())
    new.cancel(known)
    until_ended(new, known)
    until(lambda: not new.strays("run-1234", ()))


def test_capacity_shrinks_with_what_lives_and_is_never_negative(place):
    scheduler = place.scheduler()
    rooms = [scheduler.capacity(live) for live in (0, 1, 2, 3, 10**6)]
    assert rooms[0] > 0
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[-1] == 0
