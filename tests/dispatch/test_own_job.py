"""What a job knows of itself, and how it has its queue start it again."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from submitit.core.job_environment import SignalHandler, _checkpoint
from submitit.core.utils import DelayedSubmission, UncompletedJobError
from submitit.slurm.slurm import SlurmJobEnvironment

from agenttts.dispatch import own_job
from agenttts.dispatch.service_job import RestartedJob
from tests.support.full_disk import full_disk

pytestmark = pytest.mark.processes

# Says what it was asked, and is ended by a signal, refused, and then answered.
SCONTROL = """#!/bin/sh
echo "$@" $SLURM_CLUSTERS >> "$0.asked"
case $(wc -l < "$0.asked") in
  1) kill -TERM $$;;
  2) echo "Unable to contact slurm controller (connect failure)" >&2; exit 1;;
  *) echo "$SAID" >&2; exit ${LAST:-0};;
esac
"""


# What salloc, srun and sbatch set for the processes of a job that ends in an hour.
OUTER_JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_ARRAY_JOB_ID": "4700",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_JOB_END_TIME": "99999999999",
    "SLURMD_NODENAME": "n1",
}


@pytest.fixture
def outer_job(tmp_path, monkeypatch):
    """The variables of an outer job, and a scontrol that knows it."""
    for name, value in OUTER_JOB.items():
        monkeypatch.setenv(name, value)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho JobId=4711 EndTime=2999-01-01T00:00:00\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("executor", ["local", None])
def test_a_process_in_the_shell_of_an_outer_job_is_not_that_job(outer_job, monkeypatch, executor):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    if executor:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "123")
    assert own_job.trial_job_id() == "123"
    assert own_job.service_id() == str(os.getpid())
    assert own_job.queue_job() is None
    limits = {"limit_seconds": 60, "grace_seconds": 10}
    assert own_job.why_stopped(elapsed=50, **limits) == "time limit"


def test_a_job_of_the_queue_knows_itself(outer_job, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "123")
    assert own_job.trial_job_id() == "4700_3"
    assert own_job.service_id() == own_job.queue_job() == "4711"
    assert own_job.node_name() == "n1"
    limits = {"limit_seconds": 60, "grace_seconds": 10}
    assert own_job.why_stopped(elapsed=50, **limits) == "preemption"
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    assert own_job.trial_job_id() == "4711"


class Restarted(RestartedJob):
    """A job that is started again."""

    def __call__(self) -> None: ...


@pytest.mark.parametrize(("array", "job"), [(None, "7"), ("6", "6_1")])
@pytest.mark.parametrize(
    ("refused", "said"),
    [(False, ""), (True, ""), (True, "Requested operation is presently disabled")],
)
def test_a_requeue_that_gets_no_answer_is_asked_for_again(
    tmp_path, monkeypatch, capsys, array, job, refused, said
):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTERS", "other")  # of the login shell; the job is not there
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr(own_job, "REQUEUE_PAUSE_S", 0.01)
    if refused:
        monkeypatch.setenv("LAST", "1")
        monkeypatch.setenv("SAID", said)
        monkeypatch.setattr(own_job, "_REQUEUE_PATIENCE_S", 60 if said else 0.5)
    submission = DelayedSubmission(Restarted())
    submission.set_timeout(60, 9)
    environment = SlurmJobEnvironment()
    paths = environment.paths
    handler = SignalHandler(environment, paths, submission)
    with pytest.raises(UncompletedJobError if refused else SystemExit) as stopped:
        handler.checkpoint_and_try_requeue(signal.SIGUSR2)
    asked = Path(f"{scontrol}.asked").read_text().splitlines()
    assert set(asked) == {f"requeue {job}"}
    assert len(asked) > 3 if refused and not said else len(asked) == 3
    assert "Unable to contact slurm controller" in capsys.readouterr().err
    assert Path(paths.submitted_pickle).exists(), "what is started again is on disk before"
    if refused:
        assert f"scontrol requeue {job}" in str(stopped.value)


def test_what_a_job_says_is_lost_on_a_full_disk(monkeypatch, capsys):
    own_job.say("a line")
    assert capsys.readouterr().err == "a line\n"
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        own_job.say("another")
        monkeypatch.undo()
        with suppress(OSError):
            full.close()


class Talking(RestartedJob):
    """A job whose content may differ from what was submitted."""

    def __init__(self, content: str = "") -> None:
        self.content = content

    def __call__(self) -> str:
        return self.content


@pytest.mark.parametrize("room", [0, 40, None])
def test_a_job_that_is_stopped_on_a_full_disk_starts_from_what_was_submitted(tmp_path, room):
    pickled = tmp_path / "7_0_submitted.pkl"
    submitted = DelayedSubmission(Talking("x" * 100))
    submitted.set_timeout(10, 3)
    submitted.dump(pickled)
    delayed = DelayedSubmission.load(pickled)
    delayed.function.content = "y" * 100
    with nullcontext() if room is None else full_disk(room):
        assert _checkpoint(delayed, pickled, 3) == "", "it is requeued"
    assert DelayedSubmission.load(pickled).result() == ("x" if room is not None else "y") * 100
    assert list(tmp_path.iterdir()) == [pickled]
