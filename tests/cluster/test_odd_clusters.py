"""Clusters that are not as others: workload keys are enforced, there are no arrays, a partition
cancels what it preempts.

The trials run on the host's Python: what matters here is between the controller and Slurm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from agenttts.dispatch.apptainer import CACHES, Container, container_env, exec_command
from agenttts.dispatch.base import JobRequest, QueueUnavailable
from agenttts.dispatch.node.job import read_attempts
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.errors import MissingRequirement
from agenttts.files.locks import is_locked
from agenttts.tables.schema import TrialState
from tests.support.cluster import Cluster, cluster_script
from tests.support.waiting import until

pytestmark = pytest.mark.own_cluster

SLEEP = "sleep 100"


@pytest.fixture(scope="module")
def odd(cluster_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("odd")
    conf = ("MaxArraySize=1", "TrackWCKey=yes", "AccountingStorageEnforce=wckeys", "PartitionName=killing Nodes=n[1-2] PriorityTier=1 PreemptMode=CANCEL GraceTime=0")  # fmt: skip
    options = [part for line in conf for part in ("--conf", line)]
    cluster_script("up", directory, "--nodes", 4, "--gpus", 4, "--accounting", *options)
    try:
        cluster = Cluster(directory, {"SLURM_CONF": str(directory / "etc" / "slurm.conf")})
        user = cluster.run("id", "-un").strip()
        for words in (
            ("account", "lab"),
            ("user", user, "account=lab", "wckeys=default,project7", "defaultwckey=default"),
        ):
            cluster.run("sacctmgr", "-i", "add", *words)
        yield cluster
    finally:
        cluster_script("down", directory)


@pytest.fixture
def on_it(odd: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """This process is a login shell of the cluster; its jobs are gone afterwards."""
    for name, value in odd.env.items():
        monkeypatch.setenv(name, value)
    yield odd
    odd.run("scancel", "--me")
    until(lambda: not odd.run("squeue", "-h", "--me"), "the end of the jobs", seconds=90)


def scheduler(tmp_path: Path, *, trial: dict[str, object] | None = None, **more: object) -> SlurmScheduler:  # fmt: skip
    resources = JobResources(**{"partition": "cpu", "time": "10", "mem": "100M", **(trial or {})})
    settings = {"max_running": 4, "grace_seconds": 5, **more}
    return SlurmScheduler(Profile(kind="slurm", trial=resources, **settings), tmp_path / "jobs")


def requests(tmp_path: Path, script: str, count: int = 1, gpus: int = 0) -> list[JobRequest]:
    made = []
    for number in range(count):
        directory = tmp_path / "trials" / f"t{number:04}"
        directory.mkdir(parents=True, exist_ok=True)
        command = ("sh", "-c", f"cd {directory}; {script}")
        comment = f"agenttts run=run iteration=0 trial={directory.name}"
        made.append(
            JobRequest(directory.name, directory, command, {}, gpus, f"i0t{number}-run", comment)
        )
    return made


def only_status(tried: SlurmScheduler, ids: dict[str, str]):
    [status] = tried.poll(ids.values()).values()
    return status


def scripted_profile(path: Path, **more: object) -> Path:
    document = {
        "kind": "slurm", "max_running": 3, "grace_seconds": 5, "poll_seconds": 0.5, "gpus_per_node": 4,
        "controller": {"time": "30:00", "mem": "500M"}, "trial": {"time": "30:00", "mem_per_gpu": "1G"}, **more,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_whole_run_without_arrays_with_the_login_shell_s_settings_in_an_odd_folder(
    cli, odd, scripted_spec, tmp_path
):
    """The profile names neither partition nor workload key: SBATCH_* do, and hold for the
    controller's submissions too.
    """
    spec = scripted_spec(
        "odd", models__strong__gpus=2, models__weak__gpus=1, search__iterations=1,
        search__batch_size=2, models__strong__options={"seconds_per_sample": 0.001},
    )  # fmt: skip
    results = tmp_path / "50% off, it's ü"
    env = {**odd.env, "SBATCH_PARTITION": "gpu", "SBATCH_WCKEY": "project7", "SBATCH_ACCOUNT": "lab"}  # fmt: skip
    profile = scripted_profile(tmp_path / "profile.yaml", trial={"time": "30:00", "mem_per_gpu": "1G", "gpu_request": "gres"})  # fmt: skip
    done = cli("launch", spec, "--cluster", profile, "--results", results, "--wait", env=env)
    assert done.returncode == 0, done.stderr
    run = results / "odd"
    frame = pl.read_parquet(run / "trials.parquet")
    assert set(frame["state"]) == {"COMPLETED"}
    trial_jobs = frame["job_id"].unique().to_list()
    jobs = [*trial_jobs, json.loads((run / "controller.json").read_text())["job_id"]]
    assert all(job.isdecimal() for job in jobs), "no arrays"
    rows = odd.accounted(jobs, "Partition", "WCKey", "Account")
    assert rows == [["gpu", "project7", "lab"]] * len(jobs)
    attempts = [json.loads(p.read_text()) for p in run.glob("trials/*/attempts/*.json")]
    assert {a["gpus"] for a in attempts} <= {1, 2}
    assert all(len(a["devices"].split(",")) == a["gpus"] for a in attempts)
    logs = list((run / "slurm" / "trials").glob("*_0_log.out"))
    assert len(logs) == len(trial_jobs), "Slurm wrote the logs where they belong"


def test_jobs_without_a_wckey_have_the_user_s_default(on_it, tmp_path):
    ids = scheduler(tmp_path).submit("r-1", requests(tmp_path, "true"))
    assert on_it.run("squeue", "-h", "-t", "all", "-o", "%w", "-j", ids["t0000"]).strip() in ("default", "*default")  # fmt: skip


def test_an_unknown_wckey_is_refused_by_sbatch(on_it, tmp_path):
    with pytest.raises(MissingRequirement, match="sbatch refused the job.*wckey"):
        scheduler(tmp_path, trial={"wckey": "nobodys"}).submit("r-1", requests(tmp_path, "true"))


def test_single_jobs_are_found_by_their_batch_and_cancelled(on_it, tmp_path):
    first = scheduler(tmp_path)
    assert first.capacity(0) == 4
    three = requests(tmp_path, SLEEP, 3)
    ids = first.submit("r-1", three)
    assert all(job.isdecimal() for job in ids.values())
    again = scheduler(tmp_path)
    assert again.find("r-1", three) == ids
    assert again.find("r-10", three) == {}
    names = {row["job"]: row["name"] for row in on_it.queue()}
    assert [names[ids[request.trial]] for request in three] == [request.name for request in three]
    again.relabel(ids["t0001"], "r-1", 1, "i1t5-run", "agenttts run=run iteration=1 trial=t0005")
    until(lambda: "i1t5-run" in {row["name"] for row in on_it.queue()}, "the new name", seconds=30)
    assert scheduler(tmp_path).find("r-1", three) == ids
    again.cancel(ids.values())
    until(lambda: all(status.ended for status in again.poll(ids.values()).values()), seconds=60)


def test_a_comment_of_two_lines_harms_nobody(on_it, tmp_path):
    on_it.run(
        "sbatch", "-o", "/dev/null", "--comment", "first\n7|x|\n|second: a|b\x07", "--wrap", SLEEP
    )
    tried = scheduler(tmp_path)
    ids = tried.submit("r-1", requests(tmp_path, SLEEP))
    assert not only_status(tried, ids).ended
    assert tried.find("r-1", requests(tmp_path, SLEEP)) == ids
    tried.cancel(ids.values())


@pytest.mark.parametrize(
    ("request_", "key"), [("gpus-per-node", "TresPerNode"), ("gres", "TresPerNode"), ("gpus", "TresPerJob")]
)  # fmt: skip
def test_gpus_come_however_they_are_asked_for(on_it, tmp_path, request_, key):
    trial = {"partition": "gpu", "gpu_request": request_, "mem": None, "mem_per_gpu": "200M"}
    tried = scheduler(tmp_path, trial=trial)
    [request] = requests(tmp_path, "echo $CUDA_VISIBLE_DEVICES > devices; exit 1", gpus=2)
    ids = tried.submit("r-1", [request])
    shown = on_it.run("scontrol", "show", "job", ids["t0000"])
    assert f"{key}=gres:gpu:2" in shown
    assert "MinMemoryNode=400M" in shown
    until(lambda: only_status(tried, ids).ended, seconds=60)
    assert len((request.directory / "devices").read_text().split(",")) == 2


def test_a_limit_above_the_partition_s_is_given_up_after_the_patience(on_it, tmp_path):
    on_it.run("scontrol", "update", "partitionname=gpu", "maxtime=5")
    try:
        tried = scheduler(tmp_path, trial={"partition": "gpu"}, never_patience_minutes=0.05)
        ids = tried.submit("r-1", requests(tmp_path, SLEEP))
        until(lambda: "PartitionTimeLimit: its time limit is above" in only_status(tried, ids).detail, seconds=30)  # fmt: skip
        status = until(lambda: (s := only_status(tried, ids)).ended and s, seconds=30)
        assert status.verdict is TrialState.INFRA_FAILED
        assert "it would not have started and was cancelled" in status.detail
        # Another controller sees that it was not the user who cancelled it.
        other = scheduler(tmp_path)
        until(lambda: only_status(other, ids).state == "CANCELLED", seconds=30)
        assert only_status(other, ids).verdict is TrialState.INFRA_FAILED
        assert "PartitionTimeLimit" in only_status(other, ids).detail
    finally:
        on_it.run("scontrol", "update", "partitionname=gpu", "maxtime=infinite")


def test_a_held_job_says_how_it_is_released(on_it, tmp_path):
    on_it.run("scontrol", "update", "partitionname=gpu", "state=down")
    try:
        tried = scheduler(tmp_path, trial={"partition": "gpu"}, never_patience_minutes=30)
        [request] = requests(tmp_path, "touch ran; exit 1")
        ids = tried.submit("r-1", [request])
        until(lambda: only_status(tried, ids).detail.startswith("PartitionDown: "), seconds=30)
        on_it.run("scontrol", "hold", ids["t0000"])
    finally:
        on_it.run("scontrol", "update", "partitionname=gpu", "state=up")
    command = until(lambda: (d := only_status(tried, ids).detail).startswith("JobHeld") and d, seconds=30)  # fmt: skip
    assert not only_status(tried, ids).ended
    if (
        f"'scontrol release {ids['t0000']}'" in command
    ):  # held by root it is an administrator's hold
        assert "JobHeldUser" in command
    else:
        assert "JobHeldAdmin: it is held by an administrator" in command
    on_it.run("scontrol", "release", ids["t0000"])
    until(lambda: (request.directory / "ran").exists(), seconds=60)
    until(lambda: only_status(tried, ids).ended, seconds=60)


def test_an_inactive_partition_is_waited_for(on_it, tmp_path):
    on_it.run("scontrol", "update", "partitionname=gpu", "state=inactive")
    tried = scheduler(tmp_path, trial={"partition": "gpu"})
    try:
        with pytest.raises(QueueUnavailable, match="does not accept jobs at present"):
            tried.submit("r-1", requests(tmp_path, "exit 1"))
    finally:
        on_it.run("scontrol", "update", "partitionname=gpu", "state=up")
    ids = tried.submit("r-2", requests(tmp_path, "exit 1"))
    until(lambda: only_status(tried, ids).ended, seconds=60)


def test_a_setup_line_that_fails_is_told(on_it, tmp_path):
    tried = scheduler(tmp_path, setup=["true", "module() { return 1; }", "module load apptainer"])
    [request] = requests(tmp_path, "touch ran")
    ids = tried.submit("r-1", [request])
    status = until(lambda: (s := only_status(tried, ids)).ended and s, seconds=60)
    assert status.verdict is TrialState.INFRA_FAILED
    assert "setup line failed: module load apptainer on node n" in status.detail
    assert not read_attempts(request.directory)


def test_a_launch_whose_setup_fails_says_so(cli, odd, scripted_spec, tmp_path):
    profile = scripted_profile(tmp_path / "profile.yaml", setup=["module load apptainer/1.4"])
    env = {**odd.env, "SBATCH_PARTITION": "cpu"}
    done = cli("launch", scripted_spec("nosetup"), "--cluster", profile, "--wait", env=env)
    assert done.returncode == 4
    assert "setup line failed: module load apptainer/1.4 on node n" in done.stderr
    assert "module: command not found" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_log_that_the_node_cannot_open_is_explained(on_it, tmp_path):
    """Where the results directory is not on a file system that the nodes share."""
    job = on_it.run("sbatch", "--parsable", "-o", "/nowhere/x.log", "--wrap", "true").strip()
    tried = scheduler(tmp_path)
    status = until(lambda: (s := only_status(tried, {"t": job})).ended and s, seconds=60)
    assert status.verdict is TrialState.INFRA_FAILED
    assert "on a file system that the nodes share" in status.detail


def test_a_partition_that_cancels_what_it_preempts_leaves_a_preempted_job(on_it, tmp_path):
    # A job that may be requeued asks for it when it is told of the preemption. Whether it is told
    # depends on how far its start is.
    tried = scheduler(tmp_path, trial={"partition": "killing", "cpus": 16, "requeue": False})
    two = requests(tmp_path, SLEEP, 2)
    ids = tried.submit("r-1", two)
    until(lambda: all(read_attempts(request.directory) for request in two), seconds=60)
    on_it.run(
        "sbatch", "-o", "/dev/null", "-p", "urgent", "-w", "n[1-2]", "-c16", "--wrap", "sleep 1"
    )
    until(lambda: all(s.ended for s in tried.poll(ids.values()).values()), seconds=120)
    assert {s.verdict for s in tried.poll(ids.values()).values()} == {TrialState.PREEMPTED}


def test_a_container_on_a_node_reads_behind_links_and_writes_to_its_home(on_it, directory_image, tmp_path):  # fmt: skip
    """A model as the hub's cache has it, and a program that makes directories when it starts."""
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("the weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    [request] = requests(tmp_path, "")
    code = (
        "import pathlib, sys; home = pathlib.Path.home(); left = list(home.iterdir()); "
        "(home / '.cache/flashinfer/x').mkdir(parents=True); (home / 'file').write_text('x'); "
        "print(home, left, open(sys.argv[1]).read(), file=open(sys.argv[2], 'w'))"
    )
    said = request.directory / "said"
    command = exec_command(
        Container(directory_image, nv=False),
        ("/usr/bin/python3", "-c", code, str(snapshot / "model.safetensors"), str(said)),
        read_only=[snapshot],
        writable=[request.directory],
    )
    before = {path.name for path in Path.home().iterdir()}
    request = replace(request, command=command, env=container_env(CACHES), needs=(snapshot,))
    tried = scheduler(tmp_path, trial={"mem": "500M"})
    ids = tried.submit("r-1", [request])
    until(lambda: only_status(tried, ids).ended, seconds=90)
    assert said.read_text() == "/tmp/home [] the weights\n"
    assert {path.name for path in Path.home().iterdir()} == before


FEW = {"search__iterations": 0, "models__strong__gpus": 1, "models__weak__gpus": 1}


def test_a_trial_s_error_names_the_setup_line_that_failed(cli, odd, scripted_spec, tmp_path):
    profile = scripted_profile(
        tmp_path / "profile.yaml",
        setup=["[ $SLURM_JOB_PARTITION = cpu ] || module load apptainer"],
        controller={"partition": "cpu"},
        trial={"partition": "gpu"},
        max_attempts=1,
    )
    done = cli("launch", scripted_spec("nomodule", **FEW), "--cluster", profile, "--wait", env=odd.env)  # fmt: skip
    assert done.returncode == 4
    frame = pl.read_parquet(tmp_path / "results" / "nomodule" / "trials.parquet")
    assert set(frame["state"]) == {"INFRA_FAILED"}
    for error in frame["error"]:
        assert "setup line failed: [ $SLURM_JOB_PARTITION = cpu ] || module load apptainer on node n" in error  # fmt: skip
        assert "module: command not found" in error


def test_a_trial_that_would_never_start_is_tried_again_and_says_why(cli, odd, scripted_spec, tmp_path):  # fmt: skip
    profile = scripted_profile(
        tmp_path / "profile.yaml",
        controller={"partition": "cpu"},
        trial={"partition": "gpu", "time": "30:00"},
        never_patience_minutes=0.05,
        max_attempts=2,
        retry_pauses=[0.0],
    )
    odd.run("scontrol", "update", "partitionname=gpu", "maxtime=5")
    try:
        done = cli("launch", scripted_spec("toolong", **FEW), "--cluster", profile, "--wait", env=odd.silent(tmp_path / "silent"))  # fmt: skip
    finally:
        odd.run("scontrol", "update", "partitionname=gpu", "maxtime=infinite")
    assert done.returncode == 4
    frame = pl.read_parquet(tmp_path / "results" / "toolong" / "trials.parquet")
    assert set(frame["state"]) == {"INFRA_FAILED"}
    for error in frame["error"]:
        assert "it would not have started and was cancelled: PartitionTimeLimit: its time limit is above the partition's limit" in error  # fmt: skip
    events = [json.loads(line) for line in (tmp_path / "results" / "toolong" / "journal.jsonl").read_text().splitlines()]  # fmt: skip
    lost = [event for event in events if event["event"] == "lost"]
    assert {trial for event in lost for trial in event["trials"]} == set(frame["trial"])


@pytest.fixture
def closed(on_it) -> Iterator[Callable[[], None]]:
    """The partition ``gpu`` is down, so jobs wait in it; ``closed()`` opens it."""

    def reopen() -> None:
        on_it.run("scontrol", "update", "partitionname=gpu", "state=up")

    on_it.run("scontrol", "update", "partitionname=gpu", "state=down")
    yield reopen
    reopen()


def test_a_job_whose_submitter_died_runs_and_one_that_was_given_up_does_not(closed, tmp_path, monkeypatch):  # fmt: skip
    """sbatch takes the jobs, and the submitter dies of its answer; another controller finds one
    and gives one up.
    """
    from agenttts.dispatch.slurm.submission import BatchExecutor

    with monkeypatch.context() as patched:
        patched.setattr(BatchExecutor, "_get_job_id_from_submission_command", lambda self, answer: 1 / 0)  # fmt: skip
        two = requests(tmp_path, "touch ran; exit 1", 2)
        for number, request in enumerate(two):
            with pytest.raises(ZeroDivisionError):
                scheduler(tmp_path, trial={"partition": "gpu"}).submit(f"died-{number}", [request])
    other = scheduler(tmp_path)
    other.withdraw("died-1", two[1:], [two[1].trial])
    jobs = {**other.find("died-0", two[:1]), **other.find("died-1", two[1:])}
    assert set(jobs) == {"t0000", "t0001"}
    assert set(other.strays("died", [jobs["t0000"]])) == {jobs["t0001"]}
    closed()
    until(lambda: all(s.ended for s in other.poll(jobs.values()).values()), seconds=60)
    assert (two[0].directory / "ran").exists()
    assert not (two[1].directory / "ran").exists()


def test_jobs_that_wait_are_kept_off_a_node(closed, on_it, tmp_path):
    """They may run on two of four nodes, and each takes a whole one."""
    allowed = {"nodelist": "n[2-3]", "partition": "gpu", "sbatch": {"exclusive": True}}
    tried = scheduler(tmp_path, trial=allowed)
    ids = list(tried.submit("r-1", requests(tmp_path, SLEEP, 2)).values())
    [running] = (
        scheduler(tmp_path, trial={"nodelist": "n1"})
        .submit("r-2", requests(tmp_path, SLEEP))
        .values()
    )
    until(lambda: tried.poll([running])[running].state == "RUNNING", seconds=60)

    def excluded() -> list[str]:
        shown = [on_it.run("scontrol", "show", "job", job).split() for job in ids]
        return [word.partition("=")[2] for words in shown for word in words if word.startswith("ExcNodeList=")]  # fmt: skip

    assert excluded() == ["n[1,4]"] * 2
    assert tried.avoid([*ids, running], ["n1", "n2"]) == ids
    assert excluded() == ["n[1-2,4]"] * 2
    assert tried.avoid([*ids, running], ["n2", "n3"]) == ids
    assert excluded() == ["n[1,4]"] * 2, "the profile allows no others"
    closed()
    until(lambda: {s.node for s in tried.poll(ids).values()} == {"n2", "n3"}, seconds=60)
    assert tried.poll([running])[running].node == "n1"
    tried.cancel([*ids, running])


def test_three_resumes_and_a_cancel_at_once_leave_one_controller_or_none(
    cli, shell, on_it, scripted_spec, tmp_path
):
    """Whatever comes last; then a cancel ends every job of the run, those too that no table
    knows.
    """
    slow = {"seconds_per_sample": 0.2}
    spec = scripted_spec("raced", models__strong__options=slow, models__weak__options=slow, **FEW)
    profile = scripted_profile(tmp_path / "profile.yaml", controller={"partition": "cpu"}, trial={"partition": "cpu", "time": "30:00"})  # fmt: skip
    env = on_it.env
    assert cli("launch", spec, "--cluster", profile, env=env).returncode == 0
    journal = tmp_path / "results" / "raced" / "journal.jsonl"
    until(lambda: journal.exists() and b'"submitted"' in journal.read_bytes(), seconds=60)
    with ThreadPoolExecutor() as pool:
        commands = ["cancel", "resume", "resume", "resume"]
        done = list(pool.map(lambda command: shell(command, "raced", env=env), commands))
    assert [each.returncode for each in done] == [0] * 4, [each.stderr for each in done]

    def controllers() -> list[str]:
        return [row["job"] for row in on_it.queue() if row["name"].startswith("ctl-raced") and row["state"] != "COMPLETING"]  # fmt: skip

    cancelled = json.loads((tmp_path / "results" / "raced" / "controller.json").read_text())["cancelled"]  # fmt: skip
    live = controllers()
    assert len(live) == (0 if cancelled else 1)
    if live:  # a cancel may end one that has not begun to work by a signal
        until(lambda: is_locked(tmp_path / "results" / "raced" / "controller.lock"), "the controller at work")  # fmt: skip
    token = json.loads((tmp_path / "results" / "raced" / "run.json").read_text())["token"]
    stray = on_it.run("sbatch", "--parsable", "-o", "/dev/null", "--comment", f"agenttts batch=raced-{token}-99", "--wrap", SLEEP).strip()  # fmt: skip
    end = cli("cancel", "raced", "--json", env=env)
    assert end.returncode == 0, end.stderr
    document = json.loads(end.stdout)
    assert document["outcome"] == "cancelled"
    assert set(document["strays"]) == {stray}
    until(lambda: not on_it.run("squeue", "-h", "--me"), "the end of all jobs", seconds=60)
    for job in live:
        shown = on_it.run("scontrol", "show", "job", job)
        assert "ExitCode=0:0\n" in shown, "the controller ends by itself, not by Slurm's SIGKILL"
