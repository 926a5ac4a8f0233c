"""The login node's side of ``doctor --submit``: what it says of jobs that do not report, and
that it leaves none behind.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts.dispatch.profile import ControllerResources, JobResources, Profile
from agenttts.doctor import probe as module
from agenttts.doctor.probe import Seen, probe

HEADER = "JOBID|STATE|REASON|COMMENT"


@pytest.fixture
def queue(fake, tmp_path):
    """A cluster whose sbatch takes every job as number 41, and whose queue says this of it."""

    def say(row: str, sbatch: str = "echo Submitted batch job 41") -> None:
        fake("sbatch", sbatch)
        fake("scancel", f'echo "$@" >> {tmp_path}/cancelled')
        fake("squeue", f"echo '{HEADER}'; echo '{row}'" if row else "exit 1")

    return say


def cancelled(tmp_path: Path) -> list[str]:
    file = tmp_path / "cancelled"
    return file.read_text().splitlines() if file.exists() else []


def asked(tmp_path: Path, timeout: float = 0.3, **profile: object) -> tuple[Seen, list[str]]:
    """What became of the trial's job, and what was told meanwhile."""
    told: list[str] = []
    settings = {"poll_seconds": 0.05, "settle_seconds": 0.0, "gpus_per_node": 0, **profile}
    here = ControllerResources(where="here")
    [seen] = probe(
        Profile(kind="slurm", controller=here, trial=JobResources(time="10"), grace_seconds=5, **settings),
        None, tmp_path / "results" / ".doctor", timeout=timeout, tell=told.append,
    )  # fmt: skip
    return seen, told


def test_a_job_that_stays_pending_is_told_with_its_reason_and_cancelled(queue, tmp_path):
    queue("41|PENDING|Resources|agenttts doctor=x")
    seen, told = asked(tmp_path)
    assert (seen.job_id, seen.facts, seen.waited) == ("41", None, None)
    assert seen.problem == (
        "job 41 did not report within 0.3 s and was cancelled; it was waiting: Resources: "
        "the resources that it requests are not free"
    )
    assert "--timeout" in (seen.fix or "")
    assert told == [
        "trial job 41 submitted",
        "trial job 41 PENDING (Resources: the resources that it requests are not free)",
    ]
    assert cancelled(tmp_path) == ["41"]


@pytest.mark.parametrize(
    ("row", "marked"),
    [
        ("41|PENDING|Priority|agenttts doctor=x batch=doctor-x start={token}", True),
        ("41|PENDING|Priority|project=a100", False),
        ("41|PENDING|Priority|(null)", False),
        ("", None),
    ],
)
def test_the_job_s_comment_is_looked_for_in_the_queue(queue, fake, tmp_path, row, marked):
    queue(row)
    if "{token}" in row:  # the token is in the name of the job's folder
        said = row.format(token=f"$(basename $(echo {tmp_path}/results/.doctor/*))-trial")
        fake("squeue", f'echo "{HEADER}"; echo "{said}"')
    assert asked(tmp_path)[0].marked is marked


def test_a_reason_that_does_not_pass_ends_the_wait_early(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STUCK_S", 0.1)
    queue("41|PENDING|PartitionTimeLimit|agenttts doctor=x")
    seen, _ = asked(tmp_path, timeout=3600)
    assert "could not start and was cancelled; it was waiting: PartitionTimeLimit: its time limit is above" in (seen.problem or "")  # fmt: skip
    assert cancelled(tmp_path) == ["41"]


@pytest.mark.parametrize(
    ("row", "log", "part"),
    [
        ("41|FAILED|NonZeroExitCode|c", None, "its node does not see"),
        ("41|COMPLETED|None|c", None, "none of its files was visible here within 0 s"),
        ("41|FAILED|NonZeroExitCode|c", "agenttts: setup line failed: module load x on node n1 (exit status 1)", "without a report: setup line failed: module load x on node n1"),
        ("41|FAILED|NonZeroExitCode|c", "Traceback\nImportError: no module named agenttts", "the last line of its log is: ImportError"),
        ("41|RUNNING|None|c", "agenttts-doctor checks GPUs", "its state was RUNNING, and the last line of its log is: agenttts-doctor checks GPUs"),
        ("41|RUNNING|None|c", None, "its state was RUNNING, and its log is empty"),
    ],
)  # fmt: skip
def test_a_job_without_a_report_says_why(queue, tmp_path, row, log, part):
    line = f'f=$(ls -d {tmp_path}/results/.doctor/*/trial); mkdir -p $f/job; printf "%s\\n" "{log}" > $f/job/41_0_log.err'
    queue(row, sbatch=f"{line if log else ':'}; echo Submitted batch job 41")
    seen, _ = asked(tmp_path)
    assert part in (seen.problem or "")
    assert seen.facts is None
    assert cancelled(tmp_path) == (["41"] if "RUNNING" in row else [])
    assert list((tmp_path / "results" / ".doctor").iterdir()), "its folder is kept for its log"


def test_a_job_whose_log_says_why_it_did_not_start_is_not_waited_for(queue, tmp_path):
    line = f'f=$(ls -d {tmp_path}/results/.doctor/*/trial); mkdir -p $f/job; echo "agenttts: setup line failed: x on node n1 (exit status 1)" > $f/job/41_0_log.err'
    queue("41|FAILED|NonZeroExitCode|c", sbatch=f"{line}; echo Submitted batch job 41")
    seen, _ = asked(tmp_path, timeout=60, settle_seconds=1000.0)
    assert "without a report: setup line failed: x on node n1" in (seen.problem or "")
    assert "Fix 'setup' in the profile" in (seen.problem or "")


def test_a_request_that_sbatch_refuses_is_what_was_found(queue, tmp_path):
    queue("", sbatch="echo 'sbatch: error: invalid account' >&2; exit 1")
    seen, told = asked(tmp_path, timeout=3600)
    assert "sbatch refused the job" in (seen.problem or "")
    assert "invalid account" in (seen.problem or "")
    assert "correct partition, account" in (seen.fix or "")
    assert (seen.job_id, told, cancelled(tmp_path)) == (None, [], [])


def test_a_queue_that_does_not_answer_is_waited_for_until_the_limit(queue, tmp_path):
    queue("")
    seen, _ = asked(tmp_path)
    assert "could not be observed" in (seen.problem or "")
    assert cancelled(tmp_path) == ["41"]


def test_an_interrupt_leaves_no_job_behind(queue, tmp_path):
    queue("41|PENDING|Priority|c")

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(
            Profile(kind="slurm", gpus_per_node=0), None, tmp_path / ".doctor", timeout=60, tell=interrupted
        )  # fmt: skip
    assert cancelled(tmp_path) == ["41"]
