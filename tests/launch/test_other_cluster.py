"""A run whose jobs are on another cluster of the same file system, or of another user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.run_jobs import RunJobs, user_name
from agenttts.dispatch.slurm import cluster_config, queue
from agenttts.launch import controller, launch
from agenttts.launch.controller import start_controller
from agenttts.run.directory import RunDirectory
from agenttts.run.starts import ControllerHandle, read_handle, write_handle

CONFIG = "cat <<'END'\nClusterName             = {cluster}\nPrivateData             = {private}\nEND"  # fmt: skip
ANOTHER_USER = "daemon"


@pytest.fixture
def run(unstarted_run, fake, tmp_path) -> RunDirectory:
    """An unfinished run whose controller is job 7 of the user's on the cluster alpha.

    The cluster of this machine has a running job 7 too, of which nothing else is known.
    """
    run = unstarted_run(search__iterations=0)
    run.profile_file.write_text("kind: slurm\n")
    run.journal_file.write_text('{"event": "started", "time": "2026-01-02T03:04:05+00:00"}\n')
    write_handle(run, ControllerHandle("slurm", "7", cluster="alpha", user=user_name()))
    fake("scontrol", f"echo $@ >> {tmp_path}/calls\n" + CONFIG.format(cluster="beta", private="none"))  # fmt: skip
    fake("squeue", f"echo squeue $@ >> {tmp_path}/calls; echo '7 n1|RUNNING|None|x'")
    fake("scancel", f"echo scancel $@ >> {tmp_path}/calls")
    fake("sbatch", f"echo sbatch $@ >> {tmp_path}/calls; echo Submitted batch job 8")
    return run


@pytest.fixture
def colleague(monkeypatch) -> None:
    """Let this process be of a user without special rights."""
    monkeypatch.setattr(cluster_config.os, "getuid", lambda: 54321)


def contents(run: RunDirectory) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in run.path.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def seen(cli) -> tuple[dict, dict]:
    """The controller in ``status``, and the run in ``list``."""
    status, listed = cli("status", "small", "--json"), cli("list", "--json")
    assert (status.returncode, listed.returncode) == (0, 0), status.stderr + listed.stderr
    return json.loads(status.stdout)["controller"], json.loads(listed.stdout)["runs"][0]


def calls(tmp_path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_a_run_of_another_cluster_is_elsewhere(cli, run, tmp_path):
    shown, listed = seen(cli)
    assert (shown["alive"], shown["state"]) == (None, "ELSEWHERE")
    assert listed["state"] == "unknown"
    for said in (shown["reason"], listed["detail"]):
        assert f"is job 7 on cluster alpha, of user {user_name()}; this machine is of cluster beta" in said  # fmt: skip
    assert calls(tmp_path) == ["show config"], "the other cluster's queue tells nothing"


def test_each_run_of_a_list_is_judged_by_its_own_jobs(cli, run, unstarted_run, fake, tmp_path):
    """Four controllers have been job 7, on two clusters; one call of each command tells of all."""
    runs = {name: unstarted_run(name=name, search__iterations=0) for name in ("own", "ended", "daemons")}  # fmt: skip
    for name, made in runs.items():
        made.profile_file.write_text("kind: slurm\n")
        user = ANOTHER_USER if name == "daemons" else user_name()
        job = "9" if name == "daemons" else "7"
        write_handle(made, ControllerHandle("slurm", job, cluster="beta", user=user))
    mark = f"agenttts run=own batch=own-{runs['own'].record().token}-controller"
    rows = f"echo '7 n1|RUNNING|None|{mark}'; echo '9 n1|PENDING|Priority|x'"
    fake("squeue", f"echo squeue $@ >> {tmp_path}/calls; {rows}")
    fake("sacct", f"echo sacct $@ >> {tmp_path}/calls")
    found = json.loads(cli("list", "--json").stdout)["runs"]
    states = {one["run"]: one["state"] for one in found}
    assert states == {"small": "unknown", "own": "running", "ended": "stopped", "daemons": "pending"}  # fmt: skip
    assert [call.split()[0] for call in calls(tmp_path)] == ["show", "squeue"]
    assert f"-u {user_name()},{ANOTHER_USER}" in calls(tmp_path)[1]


CHANGES = [
    ("resume", "small"),
    ("resume", "small", "--retry-failed"),
    ("resume", "small", "--from-tables"),
    ("resume", "small", "--cluster", "local"),
    ("extend", "small", "--set", "search.iterations=3"),
    ("finish", "small"),
    ("cancel", "small"),
    ("clean", "small"),
    ("clean", "small", "--yes"),
]


@pytest.mark.parametrize("command", CHANGES, ids=" ".join)
def test_a_change_of_it_is_refused_and_nothing_is_written(cli, run, tmp_path, command):
    before = contents(run)
    done = cli(*command)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "its jobs are on cluster alpha" in done.stderr
    assert "Fix: run this command on a login node of cluster alpha" in done.stderr
    assert contents(run) == before
    assert calls(tmp_path) == ["show config"]


def test_a_new_journal_is_not_made_of_it(cli, run):
    run.journal_file.write_text('{"event": \n{"event": "started"}\n')
    done = cli("resume", "small", "--from-tables")
    assert done.returncode == 3
    assert "its jobs are on cluster alpha" in done.stderr


def test_the_same_cluster_in_other_letters_and_an_unnamed_one_are_asked(cli, run, fake):
    for cluster in ("Alpha", ""):
        (Path(run.path) / "controller.json").unlink()
        write_handle(run, ControllerHandle("slurm", "7", cluster=cluster))
        fake("scontrol", "echo ClusterName = alpha")
        cluster_config._CONFIGS.clear()
        shown, listed = seen(cli)
        assert (shown["alive"], listed["state"]) == (True, "running")


def test_the_cluster_is_unknown_where_slurm_does_not_tell(cli, run, fake):
    fake("scontrol", "echo down >&2; exit 1")
    assert seen(cli)[0]["alive"] is True


def test_a_slurm_that_does_not_tell_is_asked_once_for_all_jobs(run, colleague, fake, tmp_path):
    """Each of the calls may wait for an answer until its time-out."""
    fake("scontrol", f"echo $@ >> {tmp_path}/calls; echo down >&2; exit 1")
    fake("squeue", "echo 'JOBID NODELIST|STATE|REASON|COMMENT |COMMAND'")
    several = RunJobs(cluster="alpha", users=(ANOTHER_USER,))
    states = queue.job_states([str(number) for number in range(50)], several)
    assert len(states) == 50
    assert len(calls(tmp_path)) <= 2


def test_a_run_that_is_over_is_over_on_each_cluster(cli, run):
    run.journal_file.write_text(
        '{"event": "started", "time": "2026-01-02T03:04:05+00:00"}\n'
        '{"event": "ended", "outcome": "done"}\n'
    )
    assert seen(cli)[0]["alive"] is False
    assert cli("resume", "small").returncode == 0


def test_a_start_records_cluster_user_and_directory(run, fake):
    run.controller_file.unlink()
    fake("scontrol", CONFIG.format(cluster="alpha", private="none"))
    cluster_config._CONFIGS.clear()
    assert start_controller(run) is None
    handle = read_handle(run)
    assert handle is not None
    assert (handle.job_id, handle.cluster, handle.user) == ("8", "alpha", user_name())
    assert handle.path == str(run.path.resolve())
    assert handle.earlier_users == ()


def test_the_jobs_of_the_run_s_user_are_asked_for(cli, run, fake, tmp_path):
    write_handle(run, ControllerHandle("slurm", "7", user=ANOTHER_USER))
    shows = f"case \"$*\" in *'-u {user_name()},{ANOTHER_USER}'*) echo '7 n1|RUNNING|None|x';; esac"
    fake("squeue", f"echo squeue $@ >> {tmp_path}/calls; {shows}")
    shown, listed = seen(cli)
    assert (shown["alive"], listed["state"]) == (True, "running")
    assert cli("resume", "small").returncode == 0
    assert not any(call.startswith("sbatch") for call in calls(tmp_path)), "it runs"


def test_a_cancel_by_another_user_waits_for_the_controller_to_see_it(
    cli, run, colleague, fake, tmp_path, monkeypatch
):
    """scancel does not end jobs of another user."""
    monkeypatch.setattr(controller, "_STOP_PATIENCE_S", 0.3)
    write_handle(run, ControllerHandle("slurm", "7", user=ANOTHER_USER))
    done = cli("cancel", "small")
    assert done.returncode == 4
    assert "It is on record that it has to end" in " ".join(done.stderr.split())
    handle = read_handle(run)
    assert handle is not None
    assert handle.cancelled
    assert not any(call.startswith("scancel") for call in calls(tmp_path))


def test_a_cancel_stops_the_controller_also_while_the_queue_does_not_answer(
    cli, run, fake, monkeypatch
):
    """A controller on this host needs no queue for that."""
    stopped = []
    monkeypatch.setattr(launch, "stop_controllers", lambda *_, **more: stopped.append(more))
    write_handle(run, ControllerHandle("slurm", "7", cluster="beta", user=user_name()))
    fake("squeue", "echo slurmctld is down >&2; exit 1")
    cli("cancel", "small")
    assert stopped == [{"on_record": True}]


def test_jobs_of_another_user_of_the_run_are_left_to_them(run, fake, caplog):
    denied = "scancel: error: Kill job error on job id 9: Access/permission denied"
    fake("scancel", f"echo '{denied}' >&2; exit 1")
    queue.cancel_jobs(["9"], run=RunJobs(users=(user_name(), ANOTHER_USER)))
    assert f"jobs of {ANOTHER_USER}, which you cannot cancel, go on: {denied}" in caplog.text
    with pytest.raises(QueueUnavailable, match="denied"):
        queue.cancel_jobs(["9"])
    fake("scancel", f"echo '{denied}' >&2; echo 'scancel: error: slurmctld is down' >&2; exit 1")
    with pytest.raises(QueueUnavailable, match="is down"):
        queue.cancel_jobs(["9"], run=RunJobs(users=(ANOTHER_USER,)))


def test_a_user_that_this_machine_does_not_know_is_hidden(run):
    assert cluster_config.hidden_users(RunJobs(users=("no-such-user", user_name()))) == (
        "no-such-user",
    )
    assert cluster_config.hidden_users(RunJobs(users=(ANOTHER_USER,))) == ()


@pytest.mark.parametrize(
    ("variables", "name"),
    [({"LOGNAME": "ann"}, "ann"), ({"USER": "ann"}, "ann"), ({}, "54321")],
)
def test_a_node_without_the_user_s_name_takes_that_of_the_job(
    colleague, monkeypatch, variables, name
):
    for variable in ("LOGNAME", "USER"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert user_name() == name


@pytest.mark.parametrize(("cluster", "user"), [("alpha", ""), ("", ANOTHER_USER)])
def test_a_start_without_a_known_job_is_elsewhere_too(cli, run, colleague, fake, cluster, user):
    write_handle(run, ControllerHandle("slurm", None, cluster=cluster, user=user))
    fake("scontrol", CONFIG.format(cluster="beta", private="jobs"))
    shown, listed = seen(cli)
    assert (shown["state"], listed["state"]) == ("ELSEWHERE", "unknown")
    assert cli("resume", "small").returncode == 3


SACCT = "echo 'JobID|State|NodeList|Submit'; echo '7|{state}|n1|2026-01-02T03:04:05'"


@pytest.mark.parametrize(
    ("private", "sacct", "alive"),
    [
        ("none", "exit 1", False),
        ("jobs,usage", "exit 1", None),
        ("jobs", SACCT.format(state="RUNNING"), None),
        ("jobs", SACCT.format(state="FAILED"), False),
        ("nodes", "exit 1", False),
    ],
)
def test_only_jobs_that_can_be_seen_have_ended(
    cli, run, colleague, fake, tmp_path, private, sacct, alive
):
    """What a second user is told of a controller that squeue does not show to them."""
    write_handle(run, ControllerHandle("slurm", "7", user=ANOTHER_USER))
    fake("scontrol", CONFIG.format(cluster="beta", private=private))
    fake("squeue", "echo 'JOBID NODELIST|STATE|REASON|COMMENT |COMMAND'")
    fake("sacct", sacct)
    before = contents(run)
    shown, listed = seen(cli)
    assert shown["alive"] is alive
    assert listed["state"] == ("unknown" if alive is None else "stopped")
    done = cli("resume", "small")
    if alive is None:
        assert f"is job 7 of user {ANOTHER_USER}, whose jobs" in listed["detail"]
        assert done.returncode == 3
        assert f"Fix: ask {ANOTHER_USER} to run this command" in done.stderr
        assert contents(run) == before
    else:
        assert done.returncode == 0, done.stderr
        handle = read_handle(run)
        assert handle is not None
        assert handle.earlier_users == ((ANOTHER_USER,) if "jobs" not in private else ())
