"""What the scheduler makes of Slurm's answers, with fake commands for what a real cluster does
not show on demand.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from submitit.core.utils import FailedJobError

from agenttts.dispatch.base import JobRequest, QueueUnavailable, SubmitLimitReached
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.service import ServiceRequest
from agenttts.dispatch.slurm import queue as slurm_queue
from agenttts.dispatch.slurm.partitions import partition_checks
from agenttts.dispatch.slurm.queue import cancel_jobs, job_states, live_jobs
from agenttts.dispatch.slurm.queue_reader import QueueRow
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.dispatch.slurm.stuck_jobs import StuckJobs
from agenttts.dispatch.slurm.submission import submission_errors
from agenttts.errors import MissingRequirement
from agenttts.tables.schema import TrialState


def squeue(*rows: str) -> str:
    return "cat <<'END'\nJOBID|STATE|REASON|COMMENT\n" + "\n".join(rows) + "\nEND"


def scheduler(tmp_path, **more: object) -> SlurmScheduler:
    profile = Profile(kind="slurm", trial=JobResources(time="10"), **more)
    return SlurmScheduler(profile, tmp_path / "jobs")


def requests(tmp_path, count: int) -> list[JobRequest]:
    return [
        JobRequest(f"t{n}", tmp_path, ("true",), {}, gpus=0, name=f"i0t{n}-run", comment=f"agenttts trial=t{n}")
        for n in range(count)
    ]  # fmt: skip


def test_waiting_jobs_say_why_in_a_sentence(fake):
    fake(
        "squeue",
        squeue(
            "7_0|PENDING|JobHeldUser|x",
            "7_1|RUNNING|None|x",
            "7_2|PENDING|SomethingNew|x",
            "7_3|TIMEOUT|TimeLimit|x",
        ),
    )
    states = job_states(["7_0", "7_1", "7_2", "7_3"])
    assert states["7_0"].detail == "JobHeldUser: it is held by you; 'scontrol release 7_0' releases it"  # fmt: skip
    assert states["7_1"].detail == ""
    assert states["7_2"].detail == "SomethingNew"
    assert states["7_3"].detail == "it reached its time limit (raise time in the profile)"


def test_a_job_missing_from_an_answer_that_was_cut_off_has_not_ended(fake):
    fake("squeue", "printf 'JOBID|STATE|REASON|COMMENT\\n7_0|RUNNING|None|x\\n7_1|RUNN'")
    assert not job_states(["7_0"])["7_0"].ended
    with pytest.raises(QueueUnavailable, match="the output of squeue was cut off"):
        job_states(["7_0", "7_1"])
    with pytest.raises(QueueUnavailable, match="cut off"):
        slurm_queue.rows_with_comment("batch=r-1")


def test_bytes_that_are_no_text_are_read_over(fake):
    fake("squeue", r"printf '7|RUNNING|None|\377\376\n8|PENDING|None|x\n'")
    assert live_jobs() == ["7", "8"]


@pytest.mark.parametrize("name", ["TERM", "USR2"])
def test_a_command_that_a_signal_to_the_job_ended_is_run_again(fake, tmp_path, name):
    """At a cancel, a preemption and near the time limit, Slurm signals the controller's children
    too.
    """
    dies = f"[ -e {tmp_path}/asked ] || {{ touch {tmp_path}/asked; kill -{name} $$; }}"
    fake("squeue", f"{dies}; echo '7|RUNNING|None|x'")
    assert job_states(["7"])["7"].state == "RUNNING"
    (tmp_path / "asked").unlink()
    fake("scancel", f"{dies}; echo $@ >> {tmp_path}/cancelled")
    cancel_jobs(["7"])
    assert (tmp_path / "cancelled").read_text().split()[-1] == "7"


def test_a_command_that_every_signal_ends_is_an_error(fake):
    fake("squeue", "kill -TERM $$")
    with pytest.raises(QueueUnavailable, match="failed with exit status -15"):
        job_states(["7"])


def test_the_user_s_settings_do_not_bend_questions_and_answers(fake, monkeypatch, tmp_path):
    seen = tmp_path / "seen"
    fake("squeue", f"env > {seen}; echo '7|RUNNING|None|x'")
    bent = ("SQUEUE_PARTITION", "SQUEUE_FORMAT", "SACCT_FORMAT", "SCANCEL_INTERACTIVE", "SLURM_CLUSTERS")  # fmt: skip
    for name in (*bent, "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    assert live_jobs() == ["7"]
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert "SLURM_CONF" in names
    assert not names & set(bent)
    assert os.environ["SQUEUE_PARTITION"] == "x"


def test_stuck_jobs_are_told_after_the_patience_and_not_before():
    now = [0.0]
    stuck = StuckJobs(60, clock=lambda: now[0])
    held, waiting = QueueRow("PENDING", "JobHeldUser"), QueueRow("PENDING", "Priority")
    down = QueueRow("PENDING", "PartitionDown")
    assert stuck.overdue({"1": held, "2": waiting, "3": down, "4": None}) == []
    now[0] = 59
    assert stuck.overdue({"1": held, "2": held, "3": down}) == []
    now[0] = 60
    assert stuck.overdue({"1": held, "2": held, "3": down}) == ["1"]
    now[0] = 61
    assert stuck.overdue({"1": waiting, "2": held}) == []
    now[0] = 200
    assert stuck.overdue({"1": held, "2": held, "3": down}) == ["2"], "a job that was released starts anew"  # fmt: skip
    assert stuck.overdue({"1": QueueRow("RUNNING", "JobHeldUser")}) == []


def test_a_job_that_would_never_start_is_cancelled_and_lost_not_cancelled_by_the_user(
    fake, tmp_path
):
    record = tmp_path / "record"
    fake("squeue", squeue("7_0|PENDING|PartitionTimeLimit|agenttts batch=r-1", "7_1|PENDING|PartitionDown|y"))  # fmt: skip
    fake(
        "scontrol",
        f'[ "$1" = show ] && echo MaxArraySize = 1001 || echo "scontrol $@" >> {record}',
    )
    fake("scancel", f'echo "scancel $@" >> {record}')
    patient = scheduler(tmp_path, never_patience_minutes=30)
    assert not patient.poll(["7_0"])["7_0"].ended
    hasty = scheduler(tmp_path, never_patience_minutes=0)
    states = hasty.poll(["7_0", "7_1"])
    assert (states["7_0"].ended, states["7_0"].verdict) == (True, TrialState.INFRA_FAILED)
    assert "it would not have started and was cancelled: PartitionTimeLimit: its time limit" in states["7_0"].detail  # fmt: skip
    assert not states["7_1"].ended, "a partition that is down comes up again"
    assert record.read_text().splitlines() == [
        "scontrol update JobId=7_0 Comment=agenttts batch=r-1 gave-up=PartitionTimeLimit",
        "scancel --state=PENDING 7_0",
    ]
    # The scheduler remembers it, and so does the job's comment for a controller started anew.
    fake("squeue", squeue("7_0|CANCELLED|PartitionTimeLimit|agenttts batch=r-1"))
    assert hasty.poll(["7_0"])["7_0"].verdict is TrialState.INFRA_FAILED
    fake(
        "squeue",
        squeue(
            "7_0|CANCELLED|None|agenttts batch=r-1 gave-up=PartitionTimeLimit",
            "7_1|CANCELLED|PartitionTimeLimit|agenttts batch=r-1",
        ),
    )
    states = patient.poll(["7_0", "7_1"])
    assert states["7_0"].verdict is TrialState.INFRA_FAILED
    assert "PartitionTimeLimit: its time limit" in states["7_0"].detail
    assert states["7_1"].verdict is TrialState.CANCELLED, "by the user"
    assert record.read_text().count("\n") == 2


def test_a_job_that_started_after_all_goes_on(fake, tmp_path):
    fake("squeue", squeue("7_0|PENDING|JobHeldUser|x"))
    fake("scontrol", "echo MaxArraySize = 1001")
    fake("scancel", "exit 0")
    hasty = scheduler(tmp_path, never_patience_minutes=0)
    assert hasty.poll(["7_0"])["7_0"].ended
    fake("squeue", squeue("7_0|RUNNING|None|x"))
    assert not hasty.poll(["7_0"])["7_0"].ended


@pytest.mark.parametrize(
    ("state", "reason", "part"),
    [
        ("SPECIAL_EXIT", "JobHeldUser", "JobHeldUser: it is held by you"),
        ("REQUEUE_HOLD", "None", "REQUEUE_HOLD: it was requeued and is held"),
        ("REQUEUE_HOLD", "launch failed requeued held", "launch on the node failed"),
        ("RESV_DEL_HOLD", "ReservationDeleted", "its reservation was deleted"),
        ("SPECIAL_EXIT", "Priority", "SPECIAL_EXIT: it was requeued for a special exit"),
    ],
)  # fmt: skip
def test_jobs_that_are_held_after_a_requeue_are_given_up_too(fake, tmp_path, state, reason, part):
    record = tmp_path / "record"
    fake("squeue", squeue(f"7_0|{state}|{reason}|agenttts batch=r-1"))
    fake("scancel", f'echo "scancel $@" >> {record}')
    [patient] = scheduler(tmp_path, never_patience_minutes=30).poll(["7_0"]).values()
    assert (patient.stuck, patient.ended) == (True, False)
    assert part in patient.detail
    hasty = scheduler(tmp_path, never_patience_minutes=0)
    [given_up] = hasty.poll(["7_0"]).values()
    assert (given_up.ended, given_up.verdict, given_up.never_started) == (True, TrialState.INFRA_FAILED, True)  # fmt: skip
    assert part in given_up.detail
    assert record.read_text() == "scancel 7_0\n", "scancel has no word for the state"
    assert hasty.poll(["7_0"])["7_0"].ended
    mark = reason.replace(" ", "_") if part.startswith(reason) else state
    fake("squeue", squeue(f"7_0|CANCELLED|None|agenttts batch=r-1 gave-up={mark}"))
    assert scheduler(tmp_path).poll(["7_0"])["7_0"].verdict is TrialState.INFRA_FAILED


def test_a_silent_slurmctld_does_not_end_a_controller_at_its_start(fake, tmp_path):
    fake("scontrol", "echo 'slurm_load_ctl_conf error: Socket timed out on send/recv operation' >&2; exit 1")  # fmt: skip
    made = scheduler(tmp_path)
    with pytest.raises(QueueUnavailable, match="Socket timed out"):
        made.capacity(0)
    fake("scontrol", "echo MaxArraySize = 3")
    assert made.capacity(0) == 3


def test_labels_stop_at_the_first_silence(fake, tmp_path):
    record = tmp_path / "record"
    fake("sbatch", "echo Submitted batch job 7")
    refused = "echo 'Job has already finished for job 7_0' >&2; exit 1"
    answer = f'[ "$1" = show ] && exit; echo "$2" >> {record}; '
    fake("scontrol", answer + refused)
    scheduler(tmp_path).submit("r-1", requests(tmp_path, 3))
    assert record.read_text().split() == ["JobId=7_0", "JobId=7_1", "JobId=7_2"]
    fake("scontrol", answer + "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert len(scheduler(tmp_path).submit("r-2", requests(tmp_path, 3))) == 3
    assert record.read_text().split()[3:] == ["JobId=7_0"]


@pytest.mark.parametrize("said", ["slurm_persist_conn_open: failed to send persistent connection init message to dbd:6819", "Problem talking to the database: Connection refused"])  # fmt: skip
def test_a_slurmdbd_that_is_down_is_not_a_job_that_nobody_knows(fake, said):
    fake("squeue", squeue("8|RUNNING|None|x"))
    fake("sacct", f"echo 'sacct: error: {said}' >&2; exit 1")
    assert not job_states(["8"])["8"].ended, "squeue knows it"
    with pytest.raises(QueueUnavailable, match=said):
        job_states(["77"])
    for none in ("Slurm accounting storage is disabled", "Access/permission denied"):
        fake("sacct", f"echo '{none}' >&2; exit 1")
        assert job_states(["77"])["77"].state == "UNKNOWN"


@pytest.mark.parametrize(
    "said",
    [
        "Slurm backup controller in standby mode",
        "Protocol authentication error",
        "Invalid authentication credential",
        "Authentication credential expired",
        "I/O error writing script/output to file",
        "Message send failure",
        "Message receive failure",
        "Communication shutdown failure",
        "Transport endpoint is not connected",
        "Requested operation is presently disabled",
        "Unexpected message received",
        "Unable to create job record, try again",
        "fetch_config: DNS SRV lookup failed sbatch: fatal: Could not establish a configuration source",
        "fatal: Unable to process configuration file",
        "_establish_config_source: failed to fetch config",
        "Unable to establish control machine address",
    ],
)
def test_a_refusal_that_passes_is_waited_for(said):
    with pytest.raises(QueueUnavailable, match=said), submission_errors():
        raise FailedJobError(f"sbatch: error: Batch job submission failed: {said}")


@pytest.mark.parametrize("said", ["Invalid account or account/partition combination specified", "Access/permission denied", "I/O error reading script"])  # fmt: skip
def test_a_refusal_that_stays_is_not(said):
    with pytest.raises(MissingRequirement) as caught, submission_errors():
        raise FailedJobError(f"sbatch: error: Batch job submission failed: {said}")
    assert not isinstance(caught.value, QueueUnavailable)


def test_a_failed_job_s_log_says_why_it_did_not_start(fake, tmp_path):
    fake("squeue", squeue("7_0|FAILED|NonZeroExitCode|x", "7_1|FAILED|NonZeroExitCode|x"))
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "7_0_0_log.err").write_text(
        "slurm_script: line 9: module: command not found\n"
        "agenttts: setup line failed: module load apptainer on node n1 (exit status 127)\n"
    )
    states = scheduler(tmp_path).poll(["7_0", "7_1"])
    assert "setup line failed: module load apptainer" in states["7_0"].detail
    assert "module: command not found" in states["7_0"].detail
    assert states["7_0"].detail.endswith("Fix 'setup' in the profile; 'login_shell: true' there may define the command")  # fmt: skip
    assert states["7_1"].detail == ""
    assert states["7_0"].node == "n1", "as the log says"
    fake("squeue", squeue("7_0 n2|FAILED|NonZeroExitCode|x", "7_1 n3|FAILED|None|x"))
    states = scheduler(tmp_path).poll(["7_0", "7_1"])
    assert [status.node for status in states.values()] == ["n2", "n3"]


def test_jobs_in_hidden_partitions_are_asked_for_too(fake, tmp_path):
    record = tmp_path / "record"
    fake("squeue", f'echo "squeue $@" >> {record}; echo "7|RUNNING|None|x"')
    fake("scontrol", f'echo "scontrol $@" >> {record}; echo "PartitionName=p TotalNodes=1"')
    fake("sacctmgr", "exit 1")
    assert live_jobs() == ["7"]
    assert partition_checks("trial", JobResources(partition="p", time="10"))[0].ok
    squeue_line, scontrol_line = record.read_text().splitlines()
    assert "--all" in squeue_line.split()
    assert scontrol_line == "scontrol --all show partition --oneliner"


SBATCH = r"""
count=$(($(cat {number}) + 1))
[ $count -le $(cat {limit}) ] || {{ echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2
  echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2; exit 1; }}
echo $count > {number}
grep -h -e --comment= -e --array= "$1" >> {record}
echo "Submitted batch job $count"
"""


@pytest.mark.parametrize("size", [0, 1])
def test_without_arrays_jobs_are_submitted_one_by_one(fake, tmp_path, size):
    number, limit, record = (tmp_path / name for name in ("number", "limit", "record"))
    number.write_text("0")
    limit.write_text("99")
    fake("scontrol", f"echo MaxArraySize = {size}")
    fake("sbatch", SBATCH.format(number=number, limit=limit, record=record))
    single = scheduler(tmp_path, max_running=4, max_pending=50)
    assert [single.capacity(live) for live in (0, 1, 3, 4, 60)] == [4, 3, 1, 0, 0]
    three = requests(tmp_path, 3)
    assert single.submit("r-1", three) == {"t0": "1", "t1": "2", "t2": "3"}
    assert record.read_text().splitlines() == [
        f"#SBATCH --comment='agenttts trial=t{n} batch=r-1 element={n}'" for n in range(3)
    ]
    rows = [
        f"{n + 1}|RUNNING|None|agenttts trial=t{n} batch=r-1 element={n}" for n in reversed(range(3))
    ]  # fmt: skip
    fake("squeue", squeue(*rows))
    assert single.find("r-1", three) == {"t2": "3", "t1": "2", "t0": "1"}


@pytest.mark.parametrize("model", ["m", "模型"])
@pytest.mark.parametrize("count", [10, 140, 2000])
def test_the_comment_of_a_long_list_is_one_that_slurm_takes(fake, tmp_path, model, count):
    """Slurm refuses one of more than 1,024 bytes; run, iteration and first trials stay."""
    number, limit, record = (tmp_path / name for name in ("number", "limit", "record"))
    number.write_text("0")
    limit.write_text("99")
    fake("scontrol", "echo MaxArraySize = 1")
    fake("sbatch", SBATCH.format(number=number, limit=limit, record=record))
    trials = ",".join(f"t{n:04}" for n in range(count))
    begin = "agenttts run=r iteration=3 trials=t0000,"
    models = ",".join(f"{model}{n}" for n in range(60))
    text = f"agenttts run=r iteration=3 trials={trials} models={models}"
    two = [replace(request, comment=text) for request in requests(tmp_path, 2)]
    scheduler(tmp_path).submit("r-1", two)
    for position, line in enumerate(record.read_text().splitlines()):
        comment = line.removeprefix("#SBATCH --comment='").removesuffix("'")
        assert comment.startswith(begin)
        assert comment.endswith(f" batch=r-1 element={position}")
        assert len(comment.encode()) <= 1024
        assert (comment.partition(" batch=")[0] == text) == (count == 10)
        assert count == 10 or "..." in comment


def test_single_jobs_before_a_refusal_are_found(fake, tmp_path):
    number, limit, record = (tmp_path / name for name in ("number", "limit", "record"))
    number.write_text("0")
    limit.write_text("2")
    fake("scontrol", "echo MaxArraySize = 0")
    fake("sbatch", SBATCH.format(number=number, limit=limit, record=record))
    fake("squeue", squeue("1|RUNNING|None|a batch=r-1 element=0", "2|PENDING|None|a batch=r-1 element=1"))  # fmt: skip
    single = scheduler(tmp_path, max_running=4)
    single.capacity(0)
    with pytest.raises(SubmitLimitReached):
        single.submit("r-1", requests(tmp_path, 3))
    assert single.find("r-1", requests(tmp_path, 3)) == {"t0": "1", "t1": "2"}


@pytest.mark.parametrize(
    ("size", "most"),
    [
        (2, 2),
        (3, 3),
        (1001, 50),
        ("1001; echo SchedulerParameters = bf_interval=2,max_array_tasks=4", 4),
    ],
)
def test_an_array_has_as_many_elements_as_the_cluster_allows(fake, tmp_path, size, most):
    fake("scontrol", f"echo MaxArraySize = {size}")
    assert scheduler(tmp_path, max_running=60, max_pending=50).capacity(0) == most


@pytest.mark.parametrize(
    "refusal",
    [
        "Batch job submission failed: Required partition not available (inactive or drain)",
        "Batch job submission failed: Partition in DOWN state",
    ],
)
def test_a_partition_that_is_closed_for_now_is_waited_for(fake, tmp_path, refusal):
    fake("sbatch", f"echo 'sbatch: error: {refusal}' >&2; exit 1")
    with pytest.raises(
        QueueUnavailable, match="does not accept jobs at present: .*'sinfo' shows it as up"
    ):
        scheduler(tmp_path).submit("r-1", requests(tmp_path, 2))


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("kill -TERM $$", "sbatch was ended by signal 15, so a job may"),
        ("kill -KILL $$", "sbatch was ended by signal 9, so a job may"),
        ("echo 'slurmctld is busy' >&2; kill -USR2 $$", "signal 12, .*: slurmctld is busy"),
        ("exit 143", "sbatch was ended by signal 15, so a job may"),
        (r"printf 'caf\351\n'; sleep 9", "its output cannot be read .*, so a job may"),
    ],
)
def test_an_sbatch_that_a_signal_ended_may_have_submitted_jobs(fake, tmp_path, end, said):
    """A cancel or preemption of the controller's job signals the sbatch that it has started."""
    fake("sbatch", end)
    tried = scheduler(tmp_path)
    with pytest.raises(QueueUnavailable, match=said):
        tried.submit("r-1", requests(tmp_path, 2))
    service = ServiceRequest("s", "s1", print, "svc", comment="c", section="trial", exclude=("n1",))
    with pytest.raises(QueueUnavailable, match=said):
        tried.start_service(service)
    left = {path.name for path in (tmp_path / "jobs").glob("*.pkl")}
    assert left == {"r-1.0.pkl", "r-1.1.pkl", "s-s1.0.pkl"}, "what the jobs would run"


def test_an_answer_of_sbatch_that_cannot_be_read_may_be_a_job(fake, tmp_path):
    fake("sbatch", "echo 'Welcome to the cluster'")
    with pytest.raises(QueueUnavailable, match="the output of sbatch cannot be read, so a job may have been submitted.*Welcome"):  # fmt: skip
        scheduler(tmp_path).submit("r-1", requests(tmp_path, 1))


def test_sbatch_s_answer_among_other_lines(fake, tmp_path):
    fake("sbatch", "echo 'Quota: 80% of job storage'; echo 'Submitted batch job 17 on cluster big'")
    assert scheduler(tmp_path).submit("r-1", requests(tmp_path, 1)) == {"t0": "17"}


def test_an_array_s_batch_file_has_what_the_profile_asks_for(fake, tmp_path):
    copy = tmp_path / "copy"
    fake("sbatch", f"cp \"$1\" {copy}; echo 'Submitted batch job 12'")
    resources = JobResources(time="10", gpu_request="gres", gpu_type="a100", sbatch={"exclusive": "true"})  # fmt: skip
    profile = Profile(kind="slurm", trial=resources, setup=["module load x"], login_shell=True)
    gpu = [JobRequest(**{**vars(request), "gpus": 2}) for request in requests(tmp_path, 3)]
    ids = SlurmScheduler(profile, tmp_path / "jobs").submit("r-1", gpu)
    assert ids == {"t0": "12_0", "t1": "12_1", "t2": "12_2"}
    text = copy.read_text()
    assert text.startswith("#!/bin/bash -l\n")
    for line in (
        "--array=0-2%3",
        "--gres=gpu:a100:2",
        "--exclusive",
        "--cpus-per-task=2",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "wckey" not in text
    assert "\nmodule load x\n" in text


def test_what_jobs_run_is_on_disk_before_they_are_jobs(fake, tmp_path):
    """As for a submitter that dies before sbatch answers, or gets no answer."""
    seen = tmp_path / "seen"
    fake("sbatch", f"ls {tmp_path}/jobs >> {seen}; echo 'sbatch: error: Socket timed out' >&2; exit 1")  # fmt: skip
    tried = scheduler(tmp_path)
    for count in (3, 1):
        with pytest.raises(QueueUnavailable):
            tried.submit(f"r-{count}", requests(tmp_path, count))
    assert seen.read_text().split() == [
        *(f"r-3.{n}.pkl" for n in range(3)), "r-1.0.pkl", *(f"r-3.{n}.pkl" for n in range(3)),
    ]  # fmt: skip


def test_what_sbatch_has_refused_leaves_nothing_behind(fake, tmp_path):
    """A queue that is full for hours is tried every few seconds."""
    tried = scheduler(tmp_path)
    for message in ("AssocMaxSubmitJobLimit", "invalid partition specified: x"):
        fake("sbatch", f"echo 'sbatch: error: {message}' >&2; exit 1")
        with pytest.raises(MissingRequirement):
            tried.submit("r-1", requests(tmp_path, 3))
        tried.withdraw("r-1", requests(tmp_path, 3), ["t0", "t1", "t2"])
    left = [path for path in (tmp_path / "jobs").iterdir() if "submission_file" not in path.name]
    assert left == []


@pytest.mark.parametrize(("size", "count"), [(1001, 3), (1001, 1), (0, 3)])
def test_a_job_finds_what_it_runs_by_itself(fake, tmp_path, size, count):
    """The batch files that sbatch was given, run as slurmd does: as elements of an array, and
    as single jobs.
    """
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    fake("scontrol", f"echo MaxArraySize = {size}")
    fake("sbatch", f'n=$(ls {scripts} | wc -l); cp "$1" {scripts}/$n; echo Submitted batch job $n')
    jobs = [
        JobRequest(**{**vars(request), "directory": tmp_path / request.trial, "command": ("touch", f"{tmp_path}/ran-{request.trial}")})
        for request in requests(tmp_path, count)
    ]  # fmt: skip
    for job in jobs:
        job.directory.mkdir()
    ids = scheduler(tmp_path).submit("r-1", jobs)
    withdrawn = jobs[-1]
    if count > 1:
        scheduler(tmp_path).withdraw("r-1", jobs, [withdrawn.trial])
    for trial, job in ids.items():
        array, _, index = job.partition("_")
        env = {**os.environ, "SLURM_JOB_ID": array, "SLURMD_NODENAME": "n7", "SLURM_JOB_NUM_NODES": "1"}  # fmt: skip
        if index:
            env |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index}
        script = scripts / array
        script.chmod(0o700)
        done = subprocess.run([script], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if count > 1 and trial == withdrawn.trial:
            assert (
                "the controller gave up this job, because sbatch did not answer when it was submitted; nothing is run"
                in done.stderr
            )
            assert not (tmp_path / f"ran-{trial}").exists()
        else:
            assert (tmp_path / f"ran-{trial}").exists()
            assert (tmp_path / "jobs" / f"{job}_submitted.pkl").exists()


def test_a_refusal_by_a_script_in_place_of_sbatch_is_one_whatever_its_exit_status(fake, tmp_path):
    fake("sbatch", "echo 'no budget is left' >&2; exit 255")
    with pytest.raises(MissingRequirement, match="refused the job: no budget is left"):
        scheduler(tmp_path).submit("r-1", requests(tmp_path, 1))


def test_errors_keep_what_they_are(fake):
    with pytest.raises(ZeroDivisionError), submission_errors():
        raise ZeroDivisionError


EMPTY = "echo 'JOBID NODELIST|STATE|REASON|COMMENT'"
LIVING = ["RUNNING", "PENDING", "SUSPENDED", "COMPLETING", "REQUEUED", "RESIZING", "CONFIGURING"]


def accounted(*rows: str) -> str:
    return "cat <<'END'\nJobID|State|NodeList|Submit\n" + "\n".join(rows) + "\nEND"


def ago(minutes: float) -> str:
    """A moment as sacct writes it: this host's time, without a zone."""
    return (datetime.now() - timedelta(minutes=minutes)).isoformat(timespec="seconds")


@pytest.mark.parametrize("state", LIVING)
@pytest.mark.parametrize("submitted", ["2026-01-01T00:00:00", "Unknown", "", None])
def test_a_job_that_only_sacct_calls_alive_has_ended(fake, tmp_path, state, submitted):
    submitted = ago(6) if submitted is None else submitted
    fake("squeue", EMPTY)
    fake("sacct", accounted(f"7|{state}|gpu1|{submitted}", "8|TIMEOUT|gpu2|2026-01-01T00:00:00"))
    for states in (job_states(["7", "8", "9"]), scheduler(tmp_path).poll(["7", "8", "9"])):
        found = states["7"]
        assert (found.state, found.ended, found.verdict) == ("UNKNOWN", True, TrialState.INFRA_FAILED)  # fmt: skip
        assert state in found.detail
        assert "sacctmgr show runawayjobs" in found.detail
        assert not found.never_started
        assert found.node == "gpu1"
        assert states["8"].verdict is TrialState.TIMEOUT
        assert states["9"].detail == "neither squeue nor sacct lists the job any more"


@pytest.mark.parametrize("state", LIVING)
def test_a_job_that_squeue_may_not_show_yet_has_not(fake, state):
    fake("squeue", EMPTY)
    fake("sacct", accounted(f"7_0|{state}||{ago(2)}"))
    assert not job_states(["7_0"])["7_0"].ended


@pytest.mark.parametrize("state", LIVING)
def test_squeue_s_own_word_is_believed_whatever_sacct_says(fake, state):
    """As of a job that is being requeued: it is in squeue all the time."""
    fake("squeue", squeue(f"7|{state}|None|x"))
    fake("sacct", accounted("7|NODE_FAIL|gpu1|2026-01-01T00:00:00"))
    assert not job_states(["7"])["7"].ended


def test_a_job_that_was_given_up_stays_so_while_sacct_lags_behind(fake, tmp_path):
    fake("squeue", squeue("7|PENDING|JobHeldUser|x"))
    fake("scontrol", "exit 0")
    fake("scancel", "exit 0")
    hasty = scheduler(tmp_path, never_patience_minutes=0)
    assert hasty.poll(["7"])["7"].never_started
    fake("squeue", EMPTY)
    fake("sacct", accounted("7|PENDING|None assigned|2026-01-01T00:00:00"))
    found = hasty.poll(["7"])["7"]
    assert (found.ended, found.never_started) == (True, True)
    assert "JobHeldUser" in found.detail


def test_a_runaway_job_is_not_cancelled_or_waited_for(fake, tmp_path):
    record = tmp_path / "record"
    fake("squeue", EMPTY)
    fake("sacct", accounted("7|RUNNING|gpu1|2026-01-01T00:00:00"))
    fake("scancel", f'echo "$@" >> {record}')
    scheduler(tmp_path).cancel(["7"])
    assert not record.exists()


@pytest.mark.parametrize("scancel", ["exit 0", "echo 'Socket timed out' >&2; exit 1", "echo 'scancel: error: Kill job error on job id 7: Job/step already completing or completed' >&2; exit 1"])  # fmt: skip
def test_a_job_whose_node_never_cleans_up_has_ended_after_the_patience(fake, tmp_path, scancel):
    record = tmp_path / "record"
    fake("squeue", "echo 'JOBID NODELIST|STATE|REASON|COMMENT'; echo '7 gpu1|COMPLETING|None|x'")
    fake("scancel", f'echo "$@" >> {record}; {scancel}')
    found = scheduler(tmp_path, never_patience_minutes=30).poll(["7"])["7"]
    assert (found.ended, found.stuck) == (False, False)
    assert "scontrol show node gpu1" in found.detail
    hasty = scheduler(tmp_path, never_patience_minutes=0)
    for _ in range(3):
        found = hasty.poll(["7"])["7"]
        assert (found.state, found.ended, found.verdict) == ("COMPLETING", True, TrialState.INFRA_FAILED)  # fmt: skip
        assert "the clean-up of its node gpu1 has not ended" in found.detail
        assert (found.node, found.never_started) == ("gpu1", False)
    assert record.read_text().split() == ["7"], "once"
    fake("squeue", squeue("7|PENDING|BeginTime|x"))
    assert not hasty.poll(["7"])["7"].ended, "it was requeued after all"


def test_a_suspended_job_says_so(fake):
    fake("squeue", squeue("7|SUSPENDED|None|x", "8|STOPPED|None|x"))
    states = job_states(["7", "8"])
    assert "'scontrol resume 7'" in states["7"].detail
    assert not states["8"].ended
