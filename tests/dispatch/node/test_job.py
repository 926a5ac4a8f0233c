"""The job on the node: attempts, verdicts, signals, one job a trial at a time."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
import submitit
from submitit.core.utils import UncompletedJobError

from agenttts.dispatch.apptainer import PASSED_VARIABLES, container_env
from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.base import JobTrial
from agenttts.dispatch.job_starts import JOB_STARTS, read_job_starts
from agenttts.dispatch.node.job import TrialJob
from agenttts.dispatch.node.limits import Limits
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.node.trial_log import LOG_FILE
from agenttts.files.native_threads import limit_native_threads
from agenttts.inference.shard_names import trial_writer
from agenttts.tables.schema import TrialState
from agenttts.trial.result import Fault, read_result, write_fault
from tests.support.forks import signal_at_fork
from tests.support.processes import alive
from tests.support.trials import store_result
from tests.support.trials import trial_writer as spec_writer
from tests.support.waiting import until

pytestmark = pytest.mark.processes

RESULT = f"""
{store_result()}
import sys
here = pathlib.Path(sys.argv[1])
store_result(here)
"""
SUCCEED = (sys.executable, "-c", RESULT, "{directory}")
# What a trial does after its result is stored.
CLOSING = """
import os, time
(here / "pid").write_text(str(os.getpid()))
time.sleep(600)
"""
# Ends 143 when told to stop, having stored what it has; says that it runs.
STOPPABLE = "trap 'echo stored >> stored; exit 143' TERM; echo $$ > pid; while :; do sleep 0.05; done"  # fmt: skip


def job(directory: Path, *command: str, **changes: object) -> TrialJob:
    directory.mkdir(exist_ok=True)
    values = {"gpus": 0, "limit_seconds": 10_000, "grace_seconds": 5, "max_timeouts": 1, "env": {}}
    command = tuple(part.replace("{directory}", str(directory)) for part in command)
    return TrialJob(directory, command, **(values | changes))


def shell(directory: Path, script: str, **changes: object) -> TrialJob:
    return job(directory, "sh", "-c", f"cd {directory}; {script}", **changes)


def test_a_trial_that_leaves_a_result_is_completed(tmp_path):
    assert job(tmp_path, *SUCCEED)() == TrialState.COMPLETED
    [attempt] = read_attempts(tmp_path)
    assert (attempt.number, attempt.state, attempt.error) == (1, "COMPLETED", None)
    assert attempt.node
    assert 0 < attempt.seconds < 60


def test_a_job_without_gpus_does_not_blame_its_node_for_them(tmp_path, nvidia_smi):
    nvidia_smi("GPU 0: NVIDIA A100 (UUID: GPU-a)\n")
    script = "echo 'RuntimeError: Failed to infer device type' >&2; exit 1"
    shell(tmp_path, script, gpus=1)()
    shell(tmp_path, script, gpus=0)()
    with_gpu, without = read_attempts(tmp_path)
    assert (with_gpu.node_fault, without.node_fault) == (True, False)


def test_a_start_of_a_job_is_recorded(tmp_path):
    job(tmp_path, *SUCCEED, gpus=0)()
    [attempt] = read_attempts(tmp_path)
    [start] = read_job_starts(tmp_path)
    assert (start.number, start.gpus, start.node, start.attempts) == (1, 0, attempt.node, 1)
    assert start.waited_since <= start.started <= attempt.started
    assert start.finished >= attempt.finished
    assert attempt.job_seconds == start.busy_seconds == pytest.approx(attempt.seconds, abs=0.1)
    assert (start.lost_seconds, start.open, start.open_seconds) == (0, 0, 0)


def test_a_failure_of_the_cluster_is_lost_time(tmp_path):
    assert shell(tmp_path, "sleep 0.3; exit 7")() == TrialState.INFRA_FAILED
    [start] = read_job_starts(tmp_path)
    assert start.lost_seconds == start.busy_seconds >= 0.3


def test_a_job_runs_although_its_start_cannot_be_recorded(tmp_path):
    (tmp_path / JOB_STARTS).write_text("a file")
    assert job(tmp_path, *SUCCEED)() == TrialState.COMPLETED


def test_a_job_passes_variables_into_its_container_by_name(tmp_path, monkeypatch):
    """Their values are in environments only, not in the job's files."""
    monkeypatch.setenv("OUR_KEY", "sk-4711")
    monkeypatch.setenv("OTHER_KEY", "sk-0815")
    env = {PASSED_VARIABLES: "OUR_KEY ABSENT_KEY"}
    trial = shell(tmp_path, "env > seen", env=env)
    assert b"sk-4711" not in pickle.dumps(trial)
    trial()
    seen = (tmp_path / "seen").read_text().splitlines()
    assert "APPTAINERENV_OUR_KEY=sk-4711" in seen
    assert "SINGULARITYENV_OUR_KEY=sk-4711" in seen
    assert not any("ENV_OTHER_KEY" in line or "ENV_ABSENT_KEY" in line for line in seen)


def test_a_completed_trial_is_not_run_again(tmp_path):
    job(tmp_path, *SUCCEED)()
    assert shell(tmp_path, "echo again > ran")() == TrialState.COMPLETED
    assert not (tmp_path / "ran").exists()
    assert len(read_attempts(tmp_path)) == 1


def test_a_result_counts_whatever_the_exit_code(tmp_path):
    """The trial may be killed after its marker is written."""
    script = f"{sys.executable} -c '{RESULT}' {tmp_path}; exit 9"
    assert shell(tmp_path, script)() == TrialState.COMPLETED


@pytest.mark.parametrize(
    ("script", "state", "says"),
    [
        ("echo one; echo two >&2; exit 3", "INFRA_FAILED", ["exit code 3", "one | two", LOG_FILE]),
        (
            r"printf '\033[31mone\033[0m\n\033[1;32mtwo\n'; exit 3",
            "INFRA_FAILED",
            [": one | two"],
        ),
        ("exit 0", "INFRA_FAILED", ["exit code 0", "is empty"]),
        ("kill -KILL $$", "INFRA_FAILED", ["SIGKILL", "memory"]),
        ("exit 137", "INFRA_FAILED", ["SIGKILL"]),
        ("echo 'CUDA out of memory'; exit 137", "OOM", ["CUDA out of memory"]),
        (
            "echo 'FATAL:   no loop devices available'; exit 255",
            "INFRA_FAILED",
            ["not be started on this node"],
        ),
        ("kill -TERM $$", "CANCELLED", ["SIGTERM"]),
        ("exit 143", "CANCELLED", ["SIGTERM"]),
    ],
)
def test_verdicts_on_a_trial_without_a_result(tmp_path, script, state, says):
    assert shell(tmp_path, script)() == state
    [attempt] = read_attempts(tmp_path)
    assert attempt.state == state
    assert attempt.retry == (state == "INFRA_FAILED")
    assert all(part in attempt.error for part in says), attempt.error


@pytest.mark.parametrize("kind", ["OOM", "FAILED"])
def test_the_trial_s_own_word_on_its_fault_goes_first(tmp_path, kind):
    fault = json.dumps({"kind": kind, "message": "because"})
    assert shell(tmp_path, f"echo '{fault}' > fault.json; kill -KILL $$")() == kind
    assert read_attempts(tmp_path)[0].error == "because"


def test_the_fault_of_an_earlier_attempt_is_not_this_one_s(tmp_path):
    write_fault(tmp_path, Fault("OOM", "then"))
    assert shell(tmp_path, "exit 1")() == TrialState.INFRA_FAILED
    assert [a.number for a in read_attempts(tmp_path)] == [1]
    assert shell(tmp_path, "exit 1")() == TrialState.INFRA_FAILED
    assert [a.number for a in read_attempts(tmp_path)] == [1, 2]


def test_the_log_of_an_earlier_attempt_is_not_this_one_s(tmp_path):
    assert (
        shell(tmp_path, "echo 'NVRM: Xid (PCI:0000:3b:00): 79'; exit 1")()
        == TrialState.INFRA_FAILED
    )
    assert shell(tmp_path, "echo fine; exit 1")() == TrialState.INFRA_FAILED
    assert [a.node_fault for a in read_attempts(tmp_path)] == [True, False]


def test_a_command_that_is_not_there_is_the_machine_s_fault(tmp_path):
    assert job(tmp_path, "/nonexistent/apptainer")() == TrialState.INFRA_FAILED
    assert "/nonexistent/apptainer: No such file" in read_attempts(tmp_path)[0].error


def test_each_attempt_has_a_scratch_directory_of_its_own(tmp_path):
    script = "echo {scratch}; test -d {scratch} && touch {scratch}/x; exit 1"
    for _ in range(2):
        shell(tmp_path, script)()
    first, second = (tmp_path / LOG_FILE).read_text().split()
    assert first != second
    assert not Path(first).exists()
    assert not Path(second).exists()


def test_engines_on_the_host_keep_what_they_compile_for_the_next_job(tmp_path, monkeypatch):
    """Variables of the profile win, and caches of the hub stay where they are."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    cache = CompileCache(tmp_path / "cache", "")
    values = {"env": {"CUDA_CACHE_PATH": "/theirs"}, "cache": cache}
    script = "env; mkdir -p $TRITON_CACHE_DIR; echo x >> $TRITON_CACHE_DIR/x; cat $TRITON_CACHE_DIR/x; exit 1"  # fmt: skip
    for times in (1, 2):
        shell(tmp_path, f"{script}", **values)()
        lines = (tmp_path / LOG_FILE).read_text().splitlines()
        assert "CUDA_CACHE_PATH=/theirs" in lines
        assert not any(line.startswith("XDG_CACHE_HOME=") for line in lines)
        folders = {Path(line.partition("=")[2]).parent for line in lines if line.startswith("VLLM_CACHE_ROOT=")}  # fmt: skip
        assert len(folders) == times, "each job has a folder of its own"
        assert not any(folder.exists() for folder in folders)
    assert lines[-2:] == ["x", "x"]
    [archive] = cache.directory.iterdir()
    assert archive.name.startswith("cpu-host-")


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        ("exit 1", True),
        ("exit 137", False),
        ("kill -9 $$", False),
        ("touch oom; exit 1", False),
        ("sleep 60", False),
    ],
)
def test_what_may_be_half_written_is_not_kept(tmp_path, monkeypatch, end, kept):
    monkeypatch.setattr("agenttts.dispatch.node.job.oom_kills", lambda: int((tmp_path / "oom").exists()))  # fmt: skip
    cache = CompileCache(tmp_path / "cache", "")
    script = f"mkdir -p $VLLM_CACHE_ROOT; echo x > $VLLM_CACHE_ROOT/x; {end}"
    limits = Limits(start_seconds=3, stall_seconds=3) if end.startswith("sleep") else Limits()
    shell(tmp_path, script, cache=cache, limits=limits)()
    assert cache.directory.exists() is kept


def test_engines_in_a_container_or_without_a_cache_get_no_places_of_the_host(tmp_path):
    cache = CompileCache(tmp_path / "cache", "image")
    shell(tmp_path, ": {scratch}; env; exit 1", cache=cache)()
    shell(tmp_path, "env; exit 1")()
    assert "VLLM_CACHE_ROOT=" not in (tmp_path / LOG_FILE).read_text()


def limits_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "AGENTTTS_THREAD_LIMITS"):
        monkeypatch.setenv(name, "")  # what is set below is gone after the test
        monkeypatch.delenv(name)
    limit_native_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"


def test_the_child_s_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    limits_of_a_command(monkeypatch)
    shell(tmp_path, "env; exit 1", env={"MINE": "yes"}, gpus=2)()
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert not any("_NUM_THREADS=" in line for line in lines), "it has the cores of its job"
    assert "APPTAINERENV_SLURM_CPUS_PER_TASK=5" in lines
    assert {"MINE=yes", "CUDA_VISIBLE_DEVICES=2,3"} <= set(lines)
    assert {"APPTAINERENV_CUDA_VISIBLE_DEVICES=2,3", "SINGULARITYENV_CUDA_VISIBLE_DEVICES=2,3"} <= set(lines)  # fmt: skip
    [attempt] = read_attempts(tmp_path)
    assert (attempt.devices, attempt.gpus) == ("2,3", 2)


@pytest.mark.parametrize(
    ("shell_s", "profile_s", "order"),
    [(None, None, "PCI_BUS_ID"), ("FASTEST_FIRST", None, "FASTEST_FIRST"), ("a", "b", "b")],
)
def test_engines_number_gpus_as_slurm_does(shell_s, profile_s, order, tmp_path, monkeypatch):
    """Unless the shell of the job or the profile says otherwise, in a container and without."""
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if shell_s:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", shell_s)
    env = {"CUDA_DEVICE_ORDER": profile_s} if profile_s else {}
    shell(tmp_path, "env; exit 1", env={**env, **container_env(env)})()
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    names = ("CUDA_DEVICE_ORDER", "APPTAINERENV_CUDA_DEVICE_ORDER")
    assert {f"{name}={order}" for name in names} <= set(lines)


def test_mig_devices_have_numbers_on_the_host_too(tmp_path, monkeypatch, nvidia_smi):
    nvidia_smi("GPU 0: NVIDIA A100 (UUID: GPU-a)\n  MIG 1g.10gb Device 0: (UUID: MIG-c)\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c")
    shell(tmp_path, "env; exit 1", gpus=1)()
    assert "CUDA_VISIBLE_DEVICES=0" in (tmp_path / LOG_FILE).read_text().splitlines()


def test_a_second_job_of_a_trial_waits_and_then_has_nothing_to_do(tmp_path):
    """As after a controller was killed between submitting and writing it down."""
    script = f"sleep 0.5; {sys.executable} -c '{RESULT}' {tmp_path}"
    states: list[str] = []
    first = threading.Thread(target=lambda: states.append(shell(tmp_path, script)()))
    first.start()
    until(lambda: read_attempts(tmp_path))
    assert shell(tmp_path, "echo again > ran")() == TrialState.COMPLETED
    first.join()
    assert states == [TrialState.COMPLETED]
    assert not (tmp_path / "ran").exists()
    assert len(read_attempts(tmp_path)) == 1


def test_a_second_job_goes_on_when_the_first_is_lost(tmp_path):
    first = threading.Thread(target=shell(tmp_path, "sleep 0.5; exit 1"))
    first.start()
    until(lambda: read_attempts(tmp_path))
    assert job(tmp_path, *SUCCEED)() == TrialState.COMPLETED
    first.join()
    assert [a.state for a in read_attempts(tmp_path)] == ["INFRA_FAILED", "COMPLETED"]


@pytest.fixture
def submitted(tmp_path):
    """Submit a job through submitit; gives its process that runs the trial, and cleans up."""
    jobs = []

    def submit(trial_job: TrialJob) -> submitit.Job[str]:
        executor = submitit.LocalExecutor(tmp_path / "submitit", max_num_timeout=100)
        executor.update_parameters(timeout_min=10, signal_delay_s=5)
        jobs.append(executor.submit(trial_job))
        return jobs[-1]

    yield submit
    for one in jobs:
        if not one.done():
            os.kill(int(one.job_id), signal.SIGINT)
        until(one.done)


def running(submitted_job, directory: Path) -> tuple[int, int]:
    """(the job's process, its child's), once the child runs."""
    pid = directory / "pid"
    until(lambda: pid.exists() and pid.read_text().strip())
    parent = submitted_job.job_id
    [task] = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(task), int(pid.read_text())


def states(directory: Path) -> list[str | None]:
    return [attempt.state for attempt in read_attempts(directory)]


def signal_every_attempt(one: submitit.Job[str], trial: Path, times: int) -> None:
    """Send SIGUSR2 to so many attempts, one after the other, and wait until the job is done."""
    for number in range(times):
        task, _ = running(one, trial)
        (trial / "pid").unlink()
        os.kill(task, signal.SIGUSR2)
        # Of this attempt: the next one may have begun.
        until(lambda number=number: states(trial)[number] is not None)
    until(one.done)


def test_a_preempted_job_stores_is_requeued_and_goes_on(tmp_path, submitted):
    trial = tmp_path / "trial"
    one = submitted(shell(trial, STOPPABLE))
    task, child = running(one, trial)
    (trial / "pid").unlink()
    os.kill(task, signal.SIGUSR2)
    running(one, trial)  # the next attempt
    assert not alive(child)
    assert (trial / "stored").read_text() == "stored\n"
    assert states(trial) == ["PREEMPTED", None]
    assert not one.done()
    first, second = read_job_starts(trial)
    assert first.lost_seconds == first.busy_seconds > 0
    assert (first.open, first.open_seconds) == (0, 0)
    assert second.waited_since == first.finished, "it waited for a node again"
    assert (second.finished, second.open) == (None, 1), "it runs"


def test_a_job_that_is_preempted_while_its_child_starts_is_requeued(tmp_path):
    """As submitit does it: the handler calls ``checkpoint``, and ends the process."""
    one = shell(tmp_path, STOPPABLE, grace_seconds=30)

    def preempted(number, frame):
        until(lambda: (tmp_path / "pid").exists())  # else it is told before it can store
        assert one.checkpoint() is not None
        raise SystemExit(144)

    before = signal.signal(signal.SIGUSR2, preempted)
    try:
        with signal_at_fork(signal.SIGUSR2), pytest.raises(SystemExit):
            one()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (tmp_path / "stored").read_text() == "stored\n", "the child was told"
    assert states(tmp_path) == ["PREEMPTED"]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGINT])
def test_a_job_that_is_stopped_while_it_closes_its_engines_has_completed(
    tmp_path, submitted, number
):
    """It is not requeued: it would wait for GPUs to find that nothing is due."""
    trial = tmp_path / "trial"
    one = submitted(job(trial, *SUCCEED[:2], f"{RESULT}\n{CLOSING}", str(trial)))
    task, child = running(one, trial)
    os.kill(task if number == signal.SIGUSR2 else int(one.job_id), number)
    until(one.done)
    assert not alive(child)
    assert states(trial) == ["COMPLETED"]
    [start] = read_job_starts(trial)
    assert (start.open, start.lost_seconds) == (0, 0)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_time_out_requeues_as_often_as_allowed(tmp_path, submitted, allowed):
    trial = tmp_path / "trial"
    # A limit this short is always near (Slurm may signal a minute early).
    one = submitted(shell(trial, STOPPABLE, limit_seconds=60, max_timeouts=allowed))
    signal_every_attempt(one, trial, allowed + 1)
    assert states(trial) == ["TIMEOUT"] * (allowed + 1)


def test_a_child_that_does_not_stop_is_killed(tmp_path, submitted):
    trial = tmp_path / "trial"
    stubborn = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"
    one = submitted(shell(trial, stubborn, grace_seconds=1, limit_seconds=30, max_timeouts=0))
    task, child = running(one, trial)
    os.kill(task, signal.SIGUSR2)
    until(one.done)
    assert not alive(child)
    assert states(trial) == ["TIMEOUT"]


@pytest.mark.parametrize("when", ["before the start", "while it runs", "before a preemption"])
def test_the_others_of_a_list_go_on_when_a_trial_s_directory_is_removed(tmp_path, when):
    t0, t1 = trials = [JobTrial(tmp_path / name) for name in ("t0", "t1")]
    for trial in trials:
        trial.directory.mkdir()
    remove = f"rm -r {t0.directory}"
    stop = "kill -USR2 $PPID; sleep 600" if "preemption" in when else "exit 7"
    of_list = shell(tmp_path / "worker", f"{remove}; {stop}", trials=tuple(trials))
    if "start" in when:
        shutil.rmtree(t0.directory)
        of_list = shell(tmp_path / "worker", "exit 7", trials=tuple(trials))
    if "preemption" in when:
        before = signal.signal(signal.SIGUSR2, lambda number, frame: _preempted(of_list))
        try:
            with pytest.raises(UncompletedJobError):
                of_list()
        finally:
            signal.signal(signal.SIGUSR2, before)
    else:
        of_list()
    expected = "PREEMPTED" if "preemption" in when else "INFRA_FAILED"
    assert states(t1.directory) == [expected]
    assert not t0.directory.exists()


def _preempted(trial_job: TrialJob) -> None:
    """What submitit does on SIGUSR2."""
    assert trial_job.checkpoint() is not None, "it is requeued"
    raise UncompletedJobError


def test_the_samples_of_a_requeued_list_are_progress_though_its_first_trial_is_over(tmp_path):
    """The program names its shards after the first trial that is due."""
    make = spec_writer(tmp_path)
    specs = [make(name, ("weak", 1), ("weak", 1)) for name in ("t0", "t1")]
    over, due = (JobTrial(Path(spec.directory)) for spec in specs)
    job(over.directory, *SUCCEED)()
    shard = f"{specs[1].samples}/{trial_writer(specs[1].run, 't1')}7-aa-00000.parquet"
    write = f"mkdir -p {specs[1].samples}; touch '{shard}'"
    again = shell(tmp_path / "worker", write, trials=(over, due))
    again()
    assert again._sight.take().store_changed_ns > 0


def test_an_interrupted_job_is_cancelled_and_its_child_stopped(tmp_path, submitted):
    trial = tmp_path / "trial"
    one = submitted(shell(trial, STOPPABLE))
    _, child = running(one, trial)
    os.kill(int(one.job_id), signal.SIGINT)
    until(one.done)
    assert not alive(child)
    assert (trial / "stored").exists()
    assert states(trial) == ["CANCELLED"]


def test_a_job_killed_outright_takes_its_child_along(tmp_path, submitted):
    trial = tmp_path / "trial"
    one = submitted(shell(trial, STOPPABLE))
    task, child = running(one, trial)
    os.kill(task, signal.SIGKILL)
    until(lambda: not alive(child))
    until(one.done)
    assert (trial / "stored").exists(), "it was told to stop, not killed"
    assert states(trial) == [None], "cut off: the record has a start and no end"
    assert read_result(trial) is None


def test_a_node_that_is_not_usable_is_told_before_anything_starts(tmp_path):
    missing = tmp_path / "image.sif"
    assert shell(tmp_path, "touch ran", needs=(missing,))() == TrialState.INFRA_FAILED
    [attempt] = read_attempts(tmp_path)
    assert (attempt.stopped, attempt.node_fault, attempt.retry) == ("preflight", True, True)
    assert f"{missing} cannot be read on this node" in attempt.error
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["the working directory", "nowhere"])
def test_a_node_without_a_place_for_scratch_is_told_before_anything_starts(
    tmp_path, monkeypatch, place
):
    """Python takes the working directory if no other can be written: the shared file system."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(here if place != "nowhere" else here / "gone"))
    closed = PermissionError(13, "Permission denied")
    monkeypatch.setattr("agenttts.files.temporary._write_error", lambda place: closed)
    trial = tmp_path / "trial"
    assert shell(trial, "touch ran")() == TrialState.INFRA_FAILED
    [attempt] = read_attempts(trial)
    assert (attempt.stopped, attempt.node_fault, attempt.retry) == ("preflight", True, True)
    said = "can be written: /tmp" if place != "nowhere" else "gone"
    assert "no scratch directory can be made: " in attempt.error
    assert said in attempt.error
    assert list(here.iterdir()) == []
    assert not (trial / "ran").exists()


@pytest.mark.parametrize("variable", ["TMPDIR", "TMP"])
def test_a_working_directory_that_is_named_for_temporary_files_is_used(
    tmp_path, monkeypatch, variable
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trial = tmp_path / "trial"
    assert shell(trial, "echo {scratch}; exit 1")() == TrialState.INFRA_FAILED
    assert (trial / LOG_FILE).read_text().startswith(f"{tmp_path}/agenttts-")


HANG = "trap 'exit 143' TERM; echo '{phase}' > phase.json; while :; do sleep 0.05; done"


def hanging(directory: Path, name: str, **limits: float) -> TrialJob:
    phase = json.dumps({"number": 1, "name": name, "model": "m", "tokens": 10})
    # As on a GPU: processor time is no progress there.
    return shell(directory, HANG.replace("{phase}", phase), gpus=1, limits=Limits(**limits))


def test_an_engine_that_does_not_start_is_tried_again_once(tmp_path):
    limits = {"start_seconds": 0.8, "stall_seconds": 60}
    assert hanging(tmp_path, "load", **limits)() == TrialState.INFRA_FAILED
    assert hanging(tmp_path, "load", **limits)() == TrialState.TIMEOUT
    first, second = read_attempts(tmp_path)
    assert (first.stopped, first.retry, first.node_fault) == ("start limit", True, False)
    assert "the engine of model 'm' did not start within" in first.error
    assert (second.stopped, second.retry) == ("start limit", False)
    assert "start_minutes" in second.error


def test_a_call_that_hangs_is_ended_and_its_child_with_it(tmp_path):
    found = hanging(tmp_path, "generate", start_seconds=60, stall_seconds=0.8)()
    assert found == TrialState.INFRA_FAILED
    [attempt] = read_attempts(tmp_path)
    assert attempt.stopped == "stall limit"
    assert "a call of model 'm' made no progress" in attempt.error


def test_the_task_s_own_code_may_take_its_time(tmp_path):
    phase = json.dumps({"number": 1, "name": "other"})
    # Until the note is there, the shell's start counts as a call that hangs.
    script = f"echo '{phase}' > phase.json; sleep 8; exit 7"
    limits = Limits(start_seconds=4.0, stall_seconds=4.0)
    assert shell(tmp_path, script, gpus=1, limits=limits)() == TrialState.INFRA_FAILED
    [attempt] = read_attempts(tmp_path)
    assert attempt.stopped is None
    assert "exit code 7" in attempt.error


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_job_gives_up_after_so_many_preemptions(tmp_path, submitted, allowed):
    trial = tmp_path / "trial"
    one = submitted(shell(trial, STOPPABLE, limits=Limits(max_preemptions=allowed)))
    signal_every_attempt(one, trial, allowed + 1)
    assert states(trial) == ["PREEMPTED"] * (allowed + 1)


def test_a_job_that_an_older_version_pickled_still_runs(tmp_path):
    old = job(tmp_path, *SUCCEED)
    for name in ("needs", "limits", "trials", "submitted"):
        del old.__dict__[name]
    assert pickle.loads(pickle.dumps(old))() == TrialState.COMPLETED
    assert read_job_starts(tmp_path)[0].waited_since is None


@pytest.mark.parametrize("requeue", [True, False])
def test_a_job_that_may_not_be_requeued_ends_with_its_record(tmp_path, requeue):
    """Where Slurm would refuse it, the controller submits another job."""
    again = job(tmp_path, "true", requeue=requeue).checkpoint()
    assert (again is not None) is requeue
