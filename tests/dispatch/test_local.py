"""What is the local scheduler's own: GPUs shared out among trials, and across controllers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import OUTLIVED, JobRequest
from agenttts.dispatch.local import LocalScheduler
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.service import ServiceRequest
from agenttts.errors import MissingRequirement
from agenttts.files.processes import children, command_line
from tests.support.waiting import until, until_ended

pytestmark = pytest.mark.processes


def request(tmp_path: Path, number: int, gpus: int) -> JobRequest:
    directory = tmp_path / f"t{number:04}"
    directory.mkdir()
    command = ("sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done")
    return JobRequest(directory.name, directory, command, {}, gpus, f"i0t{number}-run", "")


def devices(one: JobRequest) -> str:
    return until(lambda: read_attempts(one.directory))[-1].devices


def test_trials_have_gpus_of_their_own_while_there_are_enough(tmp_path):
    profile = Profile(kind="local", max_running=4, gpus_per_node=4, grace_seconds=5)

    def new() -> LocalScheduler:
        return LocalScheduler(profile, tmp_path / "submitit")

    first, second, third = (request(tmp_path, n, gpus) for n, gpus in ((0, 1), (1, 2), (2, 1)))
    started = new()
    ids = started.submit("b0", [first, second])
    try:
        given = [devices(one) for one in (first, second)]
        # A new controller knows of the old one's jobs from their processes.
        ids |= new().submit("b1", [third])
        assert [*given, devices(third)] == ["0", "1,2", "3"]
    finally:
        new().cancel(ids.values())
    until_ended(started, ids.values())


def test_trials_have_only_gpus_that_the_launch_may_use(tmp_path, monkeypatch):
    """On a machine that is shared, others use the rest."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,7")
    profile = Profile(kind="local", max_running=4, gpus_per_node=8, grace_seconds=5)
    scheduler = LocalScheduler(profile, tmp_path / "submitit")
    asked = [request(tmp_path, number, gpus) for number, gpus in enumerate((1, 1, 2))]
    ids = scheduler.submit("b0", asked)
    try:
        assert [devices(one) for one in asked] == ["5", "3", "7,5"]
    finally:
        scheduler.cancel(ids.values())
    until_ended(scheduler, ids.values())
    scheduler.check_request("trial", 3)
    with pytest.raises(MissingRequirement, match="takes 4 GPUs, and CUDA_VISIBLE_DEVICES lists 3"):
        scheduler.check_request("trial", 4)


@pytest.mark.parametrize(("gpus", "given"), [(0, "5,3\n"), (1, "3\n")])
def test_services_have_only_gpus_that_the_launch_may_use(tmp_path, monkeypatch, gpus, given):
    """The controller keeps them all for the trials; a model that it serves gets the last ones."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    scheduler = LocalScheduler(Profile(kind="local"), tmp_path / "run" / "submitit")
    seen = tmp_path / "seen"
    write = partial(subprocess.run, f"echo $CUDA_VISIBLE_DEVICES > {seen}", shell=True)
    asked = ServiceRequest("c", "s1", write, "c", "c", gpus=gpus, ends_with_caller=gpus > 0)
    service = scheduler.start_service(asked)
    assert until(lambda: seen.exists() and seen.read_text()) == given
    until(lambda: scheduler.service_status(service).ended)


def test_trials_in_an_interactive_job_have_ids_of_their_own(tmp_path, monkeypatch):
    """The controller finds the records of a job by the id that the scheduler gave it."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    scheduler = LocalScheduler(Profile(kind="local", grace_seconds=5), tmp_path / "submitit")
    one = request(tmp_path, 0, 0)
    ids = scheduler.submit("b0", [one])
    try:
        attempt = until(lambda: read_attempts(one.directory))[-1]
        assert attempt.job_id == ids[one.trial]
    finally:
        scheduler.cancel(ids.values())
    until_ended(scheduler, ids.values())


def test_jobs_are_found_by_whatever_name_of_their_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    profile = Profile(kind="local", grace_seconds=5)
    by_link = LocalScheduler(profile, tmp_path / "link" / "submitit")
    by_name = LocalScheduler(profile, tmp_path / "real" / "submitit")
    one = request(tmp_path, 0, 0)
    ids = by_link.submit("b0", [one])
    try:
        assert by_name.find("b0", [one]) == ids
        [status] = LocalScheduler(profile, tmp_path / "real" / "submitit").poll(ids.values()).values()  # fmt: skip
        assert not status.ended
    finally:
        by_name.cancel(ids.values())
    until_ended(by_link, ids.values())


def test_what_outlives_the_process_of_its_job_is_a_stray(tmp_path):
    """submitit's process of a job was killed (out of memory, say): its task goes on, and holds
    the trial's lock.
    """
    scheduler = LocalScheduler(Profile(kind="local", grace_seconds=5), tmp_path / "submitit")
    one = request(tmp_path, 0, 0)
    ids = scheduler.submit("b0", [one])
    until(lambda: read_attempts(one.directory))
    [job] = ids.values()
    assert not scheduler.strays("r", [job])
    os.kill(int(job), signal.SIGKILL)
    until_ended(scheduler, [job])
    [stray] = LocalScheduler(Profile(kind="local"), tmp_path / "submitit").strays("r", [job])
    assert stray != job
    scheduler.cancel([stray])
    until(lambda: not scheduler.strays("r", []))
    assert read_attempts(one.directory)[-1].state == "CANCELLED"


STUBBORN = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[1]).write_text("")
time.sleep(600)
"""


@pytest.mark.parametrize("folder", ["submitit", "with a space"])
def test_a_program_that_outlives_its_job_and_task_is_found_and_ended(tmp_path, folder):
    """The job was interrupted twice, so that submitit could not end its task; and the program
    takes no notice of SIGTERM.
    """
    profile = Profile(kind="local", grace_seconds=5)
    scheduler = LocalScheduler(profile, tmp_path / folder)
    one = request(tmp_path, 0, 0)
    command = (sys.executable, "-c", STUBBORN, str(one.directory / "begun"))
    ids = scheduler.submit("b0", [replace(one, command=command)])
    until(lambda: (one.directory / "begun").exists())
    [job] = ids.values()
    [task] = children(job)
    [program] = children(task)
    for pid in (job, task):
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not command_line(task), "the end of the task")
    new = LocalScheduler(profile, tmp_path / folder)
    assert new.strays("r", [job]) == {program: OUTLIVED}
    new.cancel([program])
    new.await_cancelled()
    until(lambda: not command_line(program), "the end of the program")
    assert not new.strays("r", ())


@pytest.mark.parametrize("times", [1, 2, 3])
def test_nothing_of_a_cancelled_job_is_left_however_often_it_was_cancelled(tmp_path, times):
    profile = Profile(kind="local", grace_seconds=5)
    one = request(tmp_path, 0, 0)
    ids = LocalScheduler(profile, tmp_path / "submitit").submit("b0", [one])
    until(lambda: read_attempts(one.directory))
    [task] = until(lambda: children(next(iter(ids.values()))))
    until(lambda: children(task), "the trial's program")
    for _ in range(times):
        scheduler = LocalScheduler(profile, tmp_path / "submitit")
        scheduler.cancel([*ids.values(), *scheduler.strays("r", ids.values())])
    scheduler.await_cancelled()
    assert not scheduler.strays("r", ())
    assert not children(task)


def test_what_setup_lines_have_started_and_other_runs_are_left_alone(tmp_path):
    """A daemon may serve other runs, too; and a folder's path may end with another one's."""
    marks = tmp_path / "daemon"
    daemon = f"(setsid sh -c 'echo $$ > {marks}; exec sleep 300' > /dev/null 2>&1 &)"
    profile = Profile(kind="local", grace_seconds=5, setup=[daemon])
    scheduler = LocalScheduler(profile, tmp_path / "submitit")
    below = Path(f"{tmp_path}/other{tmp_path}/submitit")
    other = LocalScheduler(Profile(kind="local", grace_seconds=5), below)
    one, two = request(tmp_path, 0, 0), request(tmp_path, 1, 0)
    ids, others = scheduler.submit("b0", [one]), other.submit("b0", [two])
    for each in (one, two):
        until(lambda each=each: read_attempts(each.directory))
    pid = until(lambda: marks.exists() and marks.read_text().strip())
    try:
        assert not scheduler.strays("r", ids.values())
        scheduler.cancel(ids.values())
        scheduler.await_cancelled()
        until_ended(scheduler, ids.values())
        assert not scheduler.strays("r", ())
        assert command_line(pid), "the daemon goes on"
        assert list(other.strays("r", ())) == list(others.values())
    finally:
        other.cancel(others.values())
        os.kill(int(pid), signal.SIGKILL)
    until_ended(other, others.values())
