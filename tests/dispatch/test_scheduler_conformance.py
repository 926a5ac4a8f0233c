"""What every scheduler owes the controller (see `agenttts.dispatch.base.Scheduler`).

A new scheduler is a line in ``SCHEDULERS`` and its settings in `place`.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import JOB_STATES, JobRequest, JobStatus, Scheduler
from agenttts.dispatch.node.trial_log import LOG_FILE
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.dispatch.service import ELSEWHERE, Service
from agenttts.tables.schema import TrialState
from tests.support import services
from tests.support.waiting import until, until_ended

pytestmark = pytest.mark.processes


SCHEDULERS = ["local", "in_process", pytest.param("slurm", marks=pytest.mark.cluster)]


@dataclass(frozen=True)
class Place:
    """Where requests run: ``scheduler()`` makes a new scheduler, as a new controller would."""

    folder: Path
    settings: dict[str, Any]
    never_a_job: str

    def scheduler(self, **more: object) -> Scheduler:
        return create_scheduler(Profile(**self.settings, **more), self.folder / "submitit")

    def services(self) -> Scheduler:
        """A new scheduler for a service, in the service's own folder."""
        return create_scheduler(Profile(**self.settings), self.folder / "service")


@pytest.fixture(params=SCHEDULERS)
def place(request, tmp_path, monkeypatch) -> Place:
    settings = {"kind": request.param, "max_running": 4, "gpus_per_node": 0, "grace_seconds": 5}
    if request.param != "slurm":
        return Place(tmp_path, settings, never_a_job="999999999")
    cluster = request.getfixturevalue("cluster")
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    settings["trial"] = JobResources(partition="cpu", time="10", mem="100M")
    return Place(tmp_path, settings, never_a_job="999999")


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


# The file `pid` appears with its content: a job may be cancelled as soon as it is there.
SLEEPER = "trap 'exit 143' TERM; echo $$ > .pid; mv .pid pid; while :; do sleep 0.05; done"


def test_every_request_gets_a_job_of_its_own_and_runs_once(place, requests):
    scheduler = place.scheduler()
    two = requests("echo $MINE >> ran; exit 1", 2)
    ids = scheduler.submit("batch-0", two)
    assert set(ids) == {"t0000", "t0001"}
    assert len(set(ids.values())) == 2
    statuses = until_ended(scheduler, ids.values())
    assert set(statuses) == set(ids.values())
    for number, request in enumerate(two):
        assert (request.directory / "ran").read_text() == f"request {number}\n"
        [attempt] = read_attempts(request.directory)
        assert attempt.state == TrialState.INFRA_FAILED
        assert attempt.job_id == ids[request.trial]


def test_poll_answers_for_every_id_and_find_for_no_other_trial(place, requests):
    scheduler = place.scheduler()
    assert scheduler.poll([]) == {}
    [request] = requests(SLEEPER)
    ids = scheduler.submit("batch-0", [request])
    asked = [ids["t0000"], place.never_a_job]
    statuses = scheduler.poll(asked)
    assert list(statuses) == asked or set(statuses) == set(asked)
    assert not statuses[ids["t0000"]].ended
    assert {status.state for status in statuses.values()} <= {*JOB_STATES, "CONFIGURING"}
    assert statuses[ids["t0000"]].verdict is None
    assert statuses[place.never_a_job].ended
    assert statuses[place.never_a_job].verdict is TrialState.INFRA_FAILED
    other = JobRequest("t0009", place.folder / "trials" / "t0009", ("true",), {}, 0, "n", "c")
    assert place.scheduler().find("batch-1", [other]) == {}
    scheduler.cancel(ids.values())
    until_ended(scheduler, ids.values())


def test_a_new_scheduler_finds_the_jobs_of_a_batch(place, requests):
    """The controller died between submitting and writing that down: at once, and once they run."""
    two = requests(SLEEPER, 2)
    ids = place.scheduler().submit("batch-0", two)
    new = place.scheduler()
    assert new.find("batch-0", two) == ids
    until(lambda: all((request.directory / "pid").exists() for request in two))
    for job in (ids["t0001"], place.never_a_job):
        new.relabel(job, "batch-0", 1, "i1t5-run", "agenttts run=run iteration=1 trial=t0005")
    new = place.scheduler()
    assert new.find("batch-0", two) == ids
    assert not any(status.ended for status in new.poll(ids.values()).values())
    new.cancel(ids.values())
    until_ended(new, ids.values())


@pytest.mark.parametrize("setup", [[], ["true", "export FROM_SETUP=here"]])
def test_jobs_are_ended_in_order_known_or_not_whoever_started_them(place, requests, setup):
    two = requests(f"echo setup=$FROM_SETUP; {SLEEPER}", 2)
    ids = place.scheduler(setup=setup).submit("run-1234-7", two)
    until(lambda: all((request.directory / "pid").exists() for request in two))
    new = place.scheduler(setup=setup)
    known, stray = ids["t0000"], ids["t0001"]
    assert list(new.strays("run-1234", [known])) == [stray]
    assert not new.strays("run-1234", ids.values())
    new.cancel(new.strays("run-1234", [known]))
    until_ended(new, [stray])
    until(lambda: not new.strays("run-1234", [known]))  # its last processes end a moment later
    assert not new.poll([known])[known].ended
    new.cancel([known])
    until_ended(new, [known])
    until(lambda: not new.strays("run-1234", ()))
    for request in two:
        pid = (request.directory / "pid").read_text().strip()
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        assert read_attempts(request.directory)[-1].state == TrialState.CANCELLED
        expected = "setup=here" if setup else "setup="
        assert (request.directory / LOG_FILE).read_text().splitlines()[0] == expected
    new.cancel(ids.values())  # harmless now
    new.cancel([])


def test_capacity_shrinks_with_what_lives_and_is_never_negative(place):
    scheduler = place.scheduler()
    rooms = [scheduler.capacity(live) for live in (0, 1, 2, 3, 10**6)]
    assert rooms[0] > 0
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[-1] == 0


def until_service_ended(scheduler: Scheduler, service: Service) -> JobStatus:
    def ended() -> JobStatus | None:
        status = scheduler.service_status(service)
        return status if status.ended else None

    return until(ended, "the end of the service")


def test_a_service_runs_is_found_and_is_ended_in_order_whoever_asks(place):
    """One that ends with its caller where it is a process, as the model that a run serves."""
    scheduler = place.services()
    asked = services.request(place.folder, "s1", ends_with_caller=True)
    service = scheduler.start_service(asked)
    assert (service.name, service.start) == (asked.name, "s1")
    assert service.job_id
    until(lambda: (place.folder / "pid").exists())
    any_start = Service(service.name)
    assert scheduler.find_service(any_start) == service.job_id
    new = place.services()
    assert new.live_services(any_start) == [service.job_id]
    for one in (scheduler, new):
        assert not one.poll([service.job_id])[service.job_id].ended
        assert not one.service_status(service).ended
        assert [s.ended for s in one.service_statuses([service, service])] == [False, False]
        assert one.describe(service)
    new.stop_service(service, [service.job_id])
    until_service_ended(new, service)
    until(lambda: (place.folder / "ended").exists())
    until_ended(scheduler, [service.job_id])
    until(lambda: not new.live_services(any_start))
    assert scheduler.find_service(any_start) is None
    new.stop_service(service, [service.job_id])  # harmless now
    new.stop_service(service, [])


def test_a_service_that_is_to_avoid_the_only_node_runs_all_the_same(place):
    scheduler = place.services()
    exclude = (socket.gethostname(),)
    asked = services.request(place.folder, "s1", ends_with_caller=True, exclude=exclude)
    service = scheduler.start_service(asked)
    until(lambda: (place.folder / "pid").exists())
    assert service.job_id
    scheduler.stop_service(service, [service.job_id])
    until_service_ended(scheduler, service)


def start_and_die(place: Place, start: str) -> subprocess.Popen[bytes]:
    """Start the service in a process that is killed before it tells anybody the job's id."""
    profile = place.folder / "profile.yaml"
    resources = place.settings.get("trial")
    written = {**place.settings, **({"trial": resources.model_dump()} if resources else {})}
    profile.write_text(yaml.safe_dump(written))
    command = [sys.executable, "-m", "tests.support.services", profile, place.folder, start]
    return subprocess.Popen(list(map(str, command)), start_new_session=True)


def test_a_service_outlives_its_killed_caller_and_is_found_without_its_id(place):
    """As the controller does. Where it runs in its caller, that process is known."""
    caller = start_and_die(place, "s1")
    scheduler = place.services()
    until(lambda: (place.folder / "pid").exists(), seconds=120)
    known = str(caller.pid) if scheduler.runs_in_this_process else None
    if known is None:
        assert caller.wait(60) == -9
    service = services.record(place.folder, Service(services.NAME, "s1", known))
    assert not scheduler.service_status(service).ended
    found = scheduler.find_service(service)
    assert found
    assert scheduler.live_services(service) == [found]
    service = replace(service, job_id=found)
    assert not scheduler.service_status(service).ended
    assert scheduler.reaches(service)
    place.services().stop_service(service, [found])
    until(lambda: (place.folder / "ended").exists())
    caller.wait(60)
    until_service_ended(scheduler, service)
    until(lambda: not scheduler.live_services(service))


def test_a_service_that_was_never_started_has_ended_and_is_not_found(place):
    scheduler = place.services()
    service = services.record(place.folder, Service("run-1234-other", "s9"))
    assert scheduler.service_status(service).ended
    assert scheduler.find_service(service) is None
    assert scheduler.find_service(replace(service, start="")) is None
    assert scheduler.live_services(service) == []
    assert [status.ended for status in scheduler.service_statuses([service])] == [True]
    assert scheduler.service_statuses([]) == []


def test_a_service_of_another_host_is_left_alone_where_only_that_host_knows_it(place):
    scheduler = place.services()
    held = False
    there = Service("run-1234-other", "s9", place.never_a_job, "another-host", None, lambda: held)
    assert scheduler.reaches(there) is scheduler.has_nodes
    if scheduler.has_nodes:
        assert scheduler.host_of(there) is None
        return
    assert scheduler.host_of(there) == "another-host"
    status = scheduler.service_status(there)
    assert (status.state, status.ended) == (ELSEWHERE, False)
    assert "another-host" in status.detail
    assert scheduler.live_services(there) == []
    held = True
    assert scheduler.service_status(there).state == "RUNNING", "it holds its lock"
    assert scheduler.live_services(there) == [place.never_a_job]
