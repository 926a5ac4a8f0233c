"""What Slurm's state words mean for a trial."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agenttts.dispatch.base import JobRequest, QueueUnavailable
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.queue import cancel_jobs, job_states, keep_off, rows_with_comment
from agenttts.dispatch.slurm.row_status import status
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.errors import MissingRequirement
from agenttts.tables.schema import TrialState


@pytest.mark.parametrize("word", ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD"])  # fmt: skip
def test_a_living_job_has_no_verdict(word):
    found = status(word, "Priority")
    assert not found.ended
    assert found.verdict is None
    assert found.detail == "Priority"


@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        ("COMPLETED", TrialState.INFRA_FAILED),
        ("FAILED", TrialState.INFRA_FAILED),
        ("TIMEOUT", TrialState.TIMEOUT),
        ("OUT_OF_MEMORY", TrialState.OOM),
        ("NODE_FAIL", TrialState.INFRA_FAILED),
        ("PREEMPTED", TrialState.PREEMPTED),
        ("CANCELLED by 1000", TrialState.CANCELLED),
        ("CANCELLED+", TrialState.CANCELLED),
    ],
)
def test_an_ended_job_without_a_result(word, verdict):
    found = status(word, "None")
    assert found.ended
    assert found.verdict is verdict
    assert found.detail == ""


QUEUE = """cat <<'END'
7_0|RUNNING|None|agenttts run=r iteration=0 trial=t0000 retrieval=a answer=b batch=r-1
7_1|PENDING|Priority|agenttts batch=r-1
8_0|RUNNING|None|agenttts batch=r-10
9|COMPLETED|None|a | in a comment batch=r-1
END"""


def test_jobs_of_a_batch_are_told_from_those_of_the_tenth(fake):
    fake("squeue", QUEUE)
    assert list(rows_with_comment("batch=r-1")) == ["7_0", "7_1", "9"]
    assert list(rows_with_comment("batch=r-10")) == ["8_0"]
    assert rows_with_comment("batch=r") == {}
    assert rows_with_comment("batch=r.1") == {}


def test_squeue_goes_before_sacct_and_who_neither_knows_has_ended(fake):
    fake("squeue", QUEUE)
    fake("sacct", "echo '7_0|NODE_FAIL'; echo '6_0|TIMEOUT'; echo '6_1|CANCELLED by 0'")
    states = job_states(["7_0", "6_0", "6_1", "5_0"])
    assert (states["7_0"].state, states["7_0"].ended) == ("RUNNING", False)
    assert states["6_0"].verdict is TrialState.TIMEOUT
    assert states["6_1"].verdict is TrialState.CANCELLED
    assert (states["5_0"].state, states["5_0"].verdict) == ("UNKNOWN", TrialState.INFRA_FAILED)


@pytest.mark.parametrize("own", [None, "64"])
def test_sacct_lists_the_elements_of_an_array_in_full(fake, monkeypatch, own):
    """In the place of sacct: it cuts lists of elements as the real one does."""
    if own:
        monkeypatch.setenv("SLURM_BITSTR_LEN", own)
    odd = range(1, 80, 2)
    whole, cut = (f"8_[{','.join(map(str, odd[:most]))}" for most in (None, 20))
    fake("squeue", "echo 'JOBID NODELIST|STATE|REASON|COMMENT'")
    fake("sacct", f'[ "$SLURM_BITSTR_LEN" = 0 ] && echo "{whole}]|CANCELLED" || echo "{cut},...]|CANCELLED"')  # fmt: skip
    states = job_states([f"8_{index}" for index in odd])
    assert {state.verdict for state in states.values()} == {TrialState.CANCELLED}


def test_cancelling_signals_what_lives_and_forgives_what_has_just_ended(fake, tmp_path):
    fake("squeue", QUEUE)
    record = tmp_path / "cancelled"
    ended = (
        "echo 'scancel: error: Kill job error on job id 7_1: Invalid job id specified' >&2; exit 1"
    )
    fake("scancel", f'echo "$@" >> {record}; {ended}')
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path / "submitit")
    scheduler.cancel(["7_0", "7_1", "9", "5_0"])
    assert record.read_text().split() == ["7_0", "7_1"]
    scheduler.cancel(["9"])
    scheduler.cancel([])
    assert record.read_text().split() == ["7_0", "7_1"]
    fake("scancel", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(QueueUnavailable):
        scheduler.cancel(["7_0"])


SACCT_DOWN = "echo 'sacct: error: Sending PersistInit msg: Connection refused' >&2; exit 1"


@pytest.mark.parametrize(
    ("squeue", "cancelled"),
    [
        ("echo '8|RUNNING|None|a'", "7 8"),
        ("echo '8|RUNNING|None|a'; echo '7|COMPLETED|None|a'", "8"),
        ("printf '8|RUNNING|None|a\\n6|RUN'", "7 8"),
    ],
)
def test_jobs_are_cancelled_while_sacct_does_not_answer(fake, tmp_path, squeue, cancelled):
    record = tmp_path / "cancelled"
    fake("squeue", squeue)
    fake("sacct", SACCT_DOWN)
    gone = "scancel: error: Kill job error on job id 7: Invalid job id specified"
    fake("scancel", f'echo "$@" >> {record}; echo "{gone}" >&2; exit 1')
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path / "submitit")
    scheduler.cancel(["7", "8"])
    assert record.read_text() == f"{cancelled}\n"
    with pytest.raises(QueueUnavailable, match="squeue"):
        scheduler.poll(["8", "9"])


def test_a_job_that_has_ended_does_not_hide_one_that_could_not_be_cancelled(fake):
    line = "scancel: error: Kill job error on job id {}: {}"
    gone, silent = line.format(5, "Invalid job id specified"), line.format(6, "Socket timed out on send/recv operation")  # fmt: skip
    done = line.format(7, "Job/step already completing or completed")
    fake("scancel", f"printf '{gone}\\n{silent}\\n{done}\\n' >&2; exit 1")
    with pytest.raises(QueueUnavailable, match="job id 6: Socket timed out") as caught:
        cancel_jobs(["5", "6", "7"])
    assert "job id 5" not in str(caught.value)
    assert "job id 7" not in str(caught.value)
    fake("scancel", f"printf '{gone}\\n{done}\\n' >&2; exit 1")
    cancel_jobs(["5", "7"])
    fake("scancel", "exit 1")
    with pytest.raises(QueueUnavailable, match="exit status 1"):
        cancel_jobs(["5"])


LIMITED = r"""
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
asked=$((${{last:-0}} + 1))
if [ $asked -gt $(cat {limit}) ]; then
  echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2
  echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2
  exit 1
fi
echo $asked >> {taken}
echo 'Submitted batch job 12'"""


@pytest.fixture
def limited(fake, tmp_path):
    """A scheduler at a queue that takes arrays of so many elements at most; requests for it,
    and the sizes it took.
    """
    limit, taken = tmp_path / "limit", tmp_path / "taken"
    taken.touch()
    fake("sbatch", LIMITED.format(limit=limit, taken=taken))
    fake("squeue", "exit 0")
    resources = JobResources(time="10")
    scheduler = SlurmScheduler(Profile(kind="slurm", trial=resources), tmp_path / "submitit")
    requests = [
        JobRequest(f"t{n}", tmp_path, ("true",), {}, gpus=0, name=f"i0t{n}-run", comment="agenttts")
        for n in range(12)
    ]

    def submit(most: int, requests: Sequence[JobRequest], live: int = 0) -> int:
        """Submit as many as the scheduler has room for besides those that live, and return how
        many it had.
        """
        limit.write_text(str(most))
        count = min(scheduler.capacity(live), len(requests))
        if count:
            scheduler.submit("r-1", requests[:count])
        return count

    return submit, requests, lambda: [int(size) for size in taken.read_text().split()]


def test_an_array_over_a_submit_limit_is_halved_until_it_is_taken(limited):
    submit, requests, taken = limited
    for size in (12, 6):
        with pytest.raises(QueueUnavailable, match=f"refused {size} jobs at once.*half"):
            submit(4, requests)
    assert submit(4, requests) == 3
    assert [submit(1000, requests) for _ in range(4)] == [4, 6, 9, 12], (
        "more again as more is taken"
    )
    assert taken() == [3, 4, 6, 9, 12]


def test_a_full_queue_is_asked_again_when_a_trial_has_ended(limited, fake):
    submit, requests, _ = limited
    fake("squeue", QUEUE)
    with pytest.raises(QueueUnavailable):
        submit(3, requests[:6])
    assert submit(3, requests) == 3
    with pytest.raises(QueueUnavailable, match="refuses more jobs"):
        submit(0, requests, live=3)
    assert submit(0, [], live=3) == 0, "full, as far as it is known"
    assert submit(1, requests, live=2) == 1


def test_a_limit_that_leaves_room_for_no_job_is_no_waiting_matter(limited):
    submit, requests, taken = limited
    with pytest.raises(QueueUnavailable):
        submit(0, requests[:2])
    with pytest.raises(MissingRequirement, match="refused") as caught:
        submit(0, requests)
    assert not isinstance(caught.value, QueueUnavailable)
    assert taken() == []


def test_arrays_beside_each_other_keep_to_one_limit(fake, tmp_path):
    """Slurm throttles every array for itself."""
    profile = Profile(kind="slurm", trial=JobResources(time="10"), max_running=4, max_pending=50)
    scheduler = SlurmScheduler(profile, tmp_path / "submitit")
    assert [scheduler.capacity(live) for live in (0, 1, 3, 4, 60)] == [50, 3, 1, 0, 0]


def test_strays_are_the_run_s_own_living_trials_that_are_not_known(fake, tmp_path):
    rows = (
        "7_0|RUNNING|None|agenttts trial=t0 batch=r-ab-1",
        "7_1|RUNNING|None|agenttts trial=t1 batch=r-ab-1",
        "8|PENDING|Priority|agenttts trial=t2 batch=r-ab-12 element=0",
        "9|COMPLETING|None|agenttts batch=r-ab-2",
        "10|COMPLETED|None|agenttts batch=r-ab-2",
        "11|RUNNING|None|agenttts run=r controller batch=r-ab-controller start=1",
        "12|RUNNING|None|agenttts run=r agent batch=r-ab-agent",
        "13|RUNNING|None|agenttts batch=r-abc-1",
        "14|RUNNING|None|agenttts batch=other-r-ab-1",
        "15|RUNNING|None|my job",
    )
    fake("squeue", "cat <<'END'\n" + "\n".join(rows) + "\nEND")
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path / "submitit")
    assert scheduler.strays("r-ab", ["7_0"]) == {
        "7_1": "RUNNING, agenttts trial=t1 batch=r-ab-1",
        "8": "PENDING, agenttts trial=t2 batch=r-ab-12 element=0",
    }


PENDING = "printf '7_0|PENDING|Priority|a\\n7_1|RUNNING|None|a\\n7_2|PENDING|Priority|a\\n7_3|COMPLETED|None|a\\n'"


@pytest.mark.parametrize(("own", "nodes", "expected"), [
    (None, ["n1", "n3"], "n1,n3"), ("n[7-9]", ["n1"], "n[7-9],n1"), ("n[7-9]", [], "n[7-9]"), (None, [], ""),
])  # fmt: skip
def test_jobs_that_wait_get_the_nodes_to_avoid(fake, tmp_path, own, nodes, expected):
    record = tmp_path / "record"
    fake("squeue", PENDING)
    fake("scontrol", f'[ "$1" = show ] || echo "$@" >> {record}')
    profile = Profile(kind="slurm", trial=JobResources(exclude=own))
    tried = SlurmScheduler(profile, tmp_path / "submitit")
    assert tried.avoid(["7_0", "7_1", "7_2", "7_3", "9"], nodes) == ["7_0", "7_2"]
    assert record.read_text() == f"update JobId=7_0,7_2 ExcNodeList={expected}\n"
    assert tried.avoid(["7_1"], nodes) == []
    assert record.read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("Job is no longer pending execution for job 7_0", None),
        ("slurm_update error: Invalid job id specified", None),
        ("Requested node configuration is not available for job 7_2", "Requested node configuration"),
        ("Job is no longer pending execution for job 7_0\\nAccess/permission denied for job 7_2", "Access"),
        ("", "exit status 1"),
    ],
)  # fmt: skip
def test_what_scontrol_refuses_is_said_and_a_job_that_started_meanwhile_is_not(
    fake, tmp_path, said, problem
):
    fake("squeue", PENDING)
    fake("scontrol", f"""[ "$1" = show ] || {{ printf '{said}' >&2; exit 1; }}""")
    tried = SlurmScheduler(Profile(kind="slurm"), tmp_path / "submitit")
    if problem is None:
        tried.avoid(["7_0", "7_2"], ["n1"])
        return
    with pytest.raises(QueueUnavailable, match=problem) as caught:
        tried.avoid(["7_0", "7_2"], ["n1"])
    assert "ExcNodeList=n1" in str(caught.value)
    assert "no longer pending" not in str(caught.value)


def test_a_thousand_jobs_take_a_few_commands(fake, tmp_path):
    record = tmp_path / "record"
    fake("scontrol", f'echo "$2" >> {record}')
    keep_off([f"7_{n}" for n in range(1000)], "n1")
    lines = record.read_text().splitlines()
    assert len(lines) == 5
    assert lines[-1].endswith(",7_999")
