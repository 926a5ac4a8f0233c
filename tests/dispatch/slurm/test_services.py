"""Services as jobs of Slurm, with fake commands: the nodes that they avoid, and refusals."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest
from submitit.slurm.slurm import SlurmJobEnvironment

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.errors import MissingRequirement
from agenttts.run.journal import read_state
from agenttts.run.starts import ControllerHandle, write_handle

SERVICE = ServiceRequest("s", "s1", print, title="svc", comment="c")
REFUSED = "Batch job submission failed: Requested node configuration is not available"
SBATCH = r"""
nodes=$(sed -n 's/^#SBATCH --exclude=//p' "$1")
echo "${{nodes:--}}" >> {record}
if {refused}; then echo 'sbatch: error: {message}' >&2; exit 1; fi
echo Submitted batch job 7
"""


@pytest.fixture
def start(fake, tmp_path):
    """Start a service that avoids ``nodes``, and a function that says what each sbatch excluded.

    ``refused`` is the shell's condition for a refusal by ``message``.
    """
    record = tmp_path / "excluded"

    def start(
        nodes: tuple[str, ...],
        refused: str = "false",
        message: str = REFUSED,
        exclude: str | None = None,
    ) -> Service:
        fake("sbatch", SBATCH.format(record=record, refused=refused, message=message))
        profile = Profile(kind="slurm", trial=JobResources(time="10", exclude=exclude))
        request = ServiceRequest(
            "s", "s1", print, title="svc", comment="c", section="trial", exclude=nodes
        )
        return SlurmScheduler(profile, tmp_path / "jobs").start_service(request)

    return start, lambda: record.read_text().split()


def test_a_service_keeps_off_the_nodes_of_its_request_and_the_profile(start):
    begin, excluded = start
    assert begin(("n1", "n2"), exclude="bad").job_id == "7"
    assert excluded() == ["bad,n1,n2"]


@pytest.mark.parametrize(
    "output",
    [
        "Submitted batch job 7",
        "Submitted batch job 7 on cluster alpha",
        "Your last job 3 used 5 SU\nSubmitted batch job 7\nSee job 8 too",
        "--> Checking your quota...OK\nYour job 7 has been queued",
        "7",
        "Welcome\n7;alpha",
    ],
)
def test_the_number_of_a_job_is_found_in_what_sbatch_prints(fake, tmp_path, output):
    fake("sbatch", f"cat <<'END'\n{output}\nEND")
    service = SlurmScheduler(Profile(kind="slurm"), tmp_path / "jobs").start_service(SERVICE)
    assert service.job_id == "7"


@pytest.mark.parametrize("output", ["", "Welcome", "17 projects", "7;"])
def test_an_output_without_the_number_of_a_job_may_be_of_one(fake, tmp_path, output):
    fake("sbatch", f"cat <<'END'\n{output}\nEND")
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path / "jobs")
    with pytest.raises(QueueUnavailable, match="a job may have been submitted"):
        scheduler.start_service(SERVICE)


def test_a_refusal_that_a_site_s_script_prints_is_quoted(fake, tmp_path):
    fake("sbatch", "echo '--> Checking available allocation...FAILED'; echo 'No project x'; exit 1")
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path / "jobs")
    with pytest.raises(MissingRequirement, match=r"allocation\.\.\.FAILED No project x") as refused:
        scheduler.start_service(SERVICE)
    assert not isinstance(refused.value, QueueUnavailable)
    fake("sbatch", "echo 'Unable to contact slurm controller'; exit 1")
    with pytest.raises(QueueUnavailable, match="no answer from slurmctld"):
        scheduler.start_service(SERVICE)
    assert list((tmp_path / "jobs").glob("s-s1.0.pkl")), "it may have been accepted"


def test_a_signal_during_a_submission_finds_the_job_that_it_is_for(fake, tmp_path, monkeypatch):
    """Near its time limit, the controller's job requeues itself by its id."""
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SUBMITIT_EXECUTOR", "RANK"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    fake("sbatch", f"env > {tmp_path}/given; kill -USR2 $PPID; echo Submitted batch job 7")
    jobs: list[str] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: jobs.append(SlurmJobEnvironment().raw_job_id))
    try:
        SlurmScheduler(Profile(kind="slurm"), tmp_path / "jobs").start_service(SERVICE)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert jobs == ["3"]
    given = dict(line.split("=", 1) for line in (tmp_path / "given").read_text().splitlines())
    assert given["SLURM_CONF"] == "/etc/slurm.conf"
    assert not {"SLURM_JOB_ID", "SBATCH_PARTITION", "SUBMITIT_EXECUTOR", "RANK"} & set(given)


def test_a_job_does_not_get_the_gpus_of_the_shell_that_submits(fake, tmp_path, monkeypatch):
    """Slurm sets the variable anew only where a job requests GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "3")
    fake("sbatch", f"env > {tmp_path}/given; echo Submitted batch job 7")
    SlurmScheduler(Profile(kind="slurm"), tmp_path / "jobs").start_service(SERVICE)
    assert "VISIBLE_DEVICES" not in (tmp_path / "given").read_text()


def test_where_no_other_node_is_left_it_may_run_there_after_all(start, tmp_path, caplog):
    begin, excluded = start
    with caplog.at_level(logging.WARNING):
        service = begin(("n1",), refused='grep -q -- --exclude= "$1"')
    assert (service.job_id, service.start) == ("7", "s1")
    assert excluded() == ["n1", "-"]
    assert "a job svc that excludes the nodes n1 was refused" in caplog.text
    assert list(Path(tmp_path / "jobs").glob("s-s1.*.pkl")), "what it runs is there"


def test_a_refusal_of_a_service_that_avoids_no_node_is_not_repeated(start):
    begin, excluded = start
    with pytest.raises(MissingRequirement, match="refused the job"):
        begin((), refused="true")
    assert excluded() == ["-"]


def test_a_service_that_may_have_been_submitted_is_not_submitted_again(start):
    begin, excluded = start
    with pytest.raises(QueueUnavailable):
        begin(("n1",), refused="true", message="Socket timed out on send/recv operation")
    assert excluded() == ["n1"]


def test_the_queue_is_asked_once_for_many_services(fake, tmp_path):
    asked = tmp_path / "asked"
    fake("squeue", f"echo x >> {asked}; echo '7|RUNNING|None|c'; echo '8|PENDING|Priority|c'")
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path / "any")
    services = [Service(f"run-{job}", "s1", job) for job in ("8", "7", "8")]
    statuses = scheduler.service_statuses(services)
    assert [status.state for status in statuses] == ["PENDING", "RUNNING", "PENDING"]
    assert asked.read_text() == "x\n"


@pytest.fixture
def sacct_down(fake):
    fake("sacct", "echo 'sacct: error: Connection refused' >&2; exit 1")


@pytest.mark.usefixtures("sacct_down")
def test_a_service_that_squeue_does_not_list_has_ended_while_sacct_does_not_answer(fake, tmp_path):
    fake("squeue", "echo '8|RUNNING|None|batch=r-controller'")
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path / "any")
    assert scheduler.live_services(Service("r-controller", "s1", "7")) == ["8"]
    fake("squeue", "exit 0")
    assert scheduler.live_services(Service("r-controller", "s1", "7")) == []


@pytest.mark.usefixtures("sacct_down")
def test_a_run_is_cancelled_while_sacct_does_not_answer(fake, cli, unstarted_run):
    fake("squeue", "exit 0")
    run = unstarted_run(search__iterations=0)
    write_handle(run, ControllerHandle("slurm", job_id="7"))
    done = cli("cancel", run.name)
    assert done.returncode == 0, done.stderr
    assert read_state(run.journal_file).finished == "cancelled"
