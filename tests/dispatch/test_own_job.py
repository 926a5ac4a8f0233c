"""A job has its queue start it again, also where the queue does not answer at first."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, UncompletedJobError
from submitit.slurm.slurm import SlurmJobEnvironment

from agenttts.dispatch import own_job
from agenttts.dispatch.service_job import RestartedJob

pytestmark = pytest.mark.processes

# Says what it was asked, and is ended by a signal, refused, and then answered.
SCONTROL = """#!/bin/sh
echo "$@" >> "$0.asked"
case $(wc -l < "$0.asked") in
  1) kill -TERM $$;;
  2) echo "Unable to contact slurm controller (connect failure)" >&2; exit 1;;
  *) echo "$SAID" >&2; exit ${LAST:-0};;
esac
"""


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
