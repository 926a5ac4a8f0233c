"""What ``doctor`` makes of commands that answer late, in an odd form, or not at all."""

from __future__ import annotations

import ast
from contextlib import nullcontext
from pathlib import Path

import pytest

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.slurm import cluster_checks
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.dispatch.slurm.tried_request import check_accepted
from agenttts.doctor import report
from agenttts.errors import MissingRequirement
from agenttts.images import build, pip_settings

PACKAGE = Path(report.__file__).parents[1]
WAITING = {"subprocess.run", "subprocess.check_output", "subprocess.check_call", "subprocess.call"}
# The steps of a build take as long as they take, and what is detached (start_new_session) is the
# start of a controller.
LONG = {("images/build.py", "_run")}
HANGS = "exec sleep 30"


@pytest.fixture
def impatient(monkeypatch):
    for module in (cluster_checks, report):
        monkeypatch.setattr(module, "COMMAND_SECONDS", 0.3)
    monkeypatch.setattr(build, "_INSPECT_S", 0.3)
    monkeypatch.setattr(pip_settings, "CONFIG_S", 0.3)


def test_accounting_that_hangs_is_said_to(fake, impatient):
    fake("sacct", HANGS)
    assert cluster_checks._sacct().startswith("sacct did not end within 0.3 s; ")
    fake("sacct", "exit 0")
    assert cluster_checks._sacct() == "available"
    fake("sacct", "exit 1")
    assert cluster_checks._sacct().startswith("not available; ")


@pytest.mark.parametrize(
    ("script", "part"),
    [
        (HANGS, "'apptainer --version' did not end within 0.3 s"),
        ("echo 'error: no such library' >&2; exit 127", "exit status 127: error: no such library"),
    ],
)
def test_a_runtime_that_does_not_work(fake, impatient, script, part):
    fake("apptainer", script)
    with pytest.raises(MissingRequirement, match=part) as caught:
        report._runtime("apptainer")
    assert "apptainer --version" in caught.value.fix
    fake("apptainer", "echo apptainer version 1.4.5")
    assert report._runtime("apptainer") == "apptainer version 1.4.5"


def test_a_build_does_not_wait_for_a_runtime_or_a_pip_that_hangs(fake, impatient, tmp_path, monkeypatch):  # fmt: skip
    fake("apptainer", HANGS)
    with pytest.raises(MissingRequirement, match="'apptainer --version' did not end within"):
        build._version("apptainer")
    fake("python3", HANGS)
    monkeypatch.setattr(pip_settings.sys, "executable", str(tmp_path / "python3"))
    path = f"{tmp_path}:/bin"
    settings = pip_settings.pip_settings({"PIP_INDEX_URL": "https://mirror/simple", "PATH": path})
    assert settings == {"index-url": "https://mirror/simple"}


SINFO = """echo 'gpu|64|515000|24|gpu:a100:4|(null)|1/23/0/24'
echo 'gpu|64|515000|2|gpu:v100:4|(null)|1/1/0/2'
echo 'one|64|515000|2|gpu:l40s:4|(null)|1/1/0/2'
echo 'mig|64|515000|2|gpu:h100:2,gpu:1g.10gb:7|(null)|1/1/0/2'
echo 'cpu|64|515000|2|(null)|(null)|1/1/0/2'"""


@pytest.mark.parametrize(
    ("trial", "types"),
    [
        ({"partition": "gpu"}, "gpu has GPUs of several types (a100, v100), and"),
        ({}, "gpu has GPUs of several types (a100, v100), and"),  # the default partition
        ({"partition": "mig"}, "mig has GPUs of several types (1g.10gb, h100), and"),
        ({"partition": "one,cpu"}, None),
        ({"partition": "one,gpu"}, "one,gpu has GPUs of several types (a100, l40s, v100), and"),
        ({"partition": "gpu", "gpu_type": "a100"}, None),
        ({"partition": "gpu", "constraint": "a100"}, None),
        ({"partition": "gpu", "gpu_request": "none"}, None),
        ({"partition": "elsewhere"}, None),
    ],
)
def test_gpus_of_several_types_are_told(fake, trial, types):
    """A job that asks for any may get one for which models are too large."""
    fake("scontrol", "echo PartitionName=gpu Default=YES State=UP")
    fake("sinfo", SINFO)
    for command in ("sbatch", "squeue", "scancel", "sacct"):
        fake(command, "exit 0")
    profile = Profile(kind="slurm", gpus_per_node=4, controller={"where": "here"}, trial=trial)
    found = [check for check in cluster_checks.cluster_checks(profile) if check.what == "types of GPUs"]  # fmt: skip
    assert len(found) == (types is not None)
    assert all(check.ok is None and types in check.detail for check in found)


@pytest.mark.parametrize("variable", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS"])
@pytest.mark.parametrize(
    ("names", "refused"), [("other", True), ("a,b", True), ("Mine", False), ("other, mine", False), ("all", False), ("", False)]
)  # fmt: skip
def test_the_users_other_cluster_is_not_dropped(fake, monkeypatch, tmp_path, variable, names, refused):  # fmt: skip
    fake("scontrol", "echo 'ClusterName             = mine'")
    for command in ("sbatch", "squeue", "scancel", "sinfo"):
        fake(command, "exit 0")
    monkeypatch.setenv(variable, names)
    scheduler = SlurmScheduler(Profile(kind="slurm"), tmp_path)
    for check in (scheduler.check_reachable, cluster_checks._slurm):
        with (
            pytest.raises(MissingRequirement, match=f"{variable} names another cluster .*mine")
            if refused
            else nullcontext()
        ):
            check()


ACCEPTED = "exit 0"
BUSY = "echo 'allocation failure: Requested nodes are busy' >&2; exit 1"
REFUSED = "echo 'allocation failure: Invalid qos specification' >&2; exit 1"


@pytest.mark.parametrize(
    ("trial", "sbatch", "verdicts", "part"),
    [
        ({"partition": "short", "qos": "long"}, ACCEPTED, [None, True], "unless the QOS long allows it; sbatch accepts"),
        ({"partition": "short", "qos": "long"}, BUSY, [None, None], "unless the QOS long allows it; sbatch accepts"),
        ({"partition": "short", "qos": "long"}, REFUSED, [False], "unless the QOS long allows it"),
        ({"partition": "short"}, ACCEPTED, [False], "jobs would never start"),
        ({}, ACCEPTED, [None, True], "the cluster has no default; sbatch accepts the job nevertheless"),
        ({}, REFUSED, [False], "the cluster has no default"),
        ({"partition": "routed"}, ACCEPTED, [None, True], "partition 'routed' does not exist"),
        ({"partition": "routed"}, REFUSED, [False], "partition 'routed' does not exist"),
        ({"partition": "short", "time": "00:30:00"}, REFUSED, [True, False], "2 nodes"),
        ({"partition": "short,long"}, ACCEPTED, [None, True, True], "jobs run in another"),
    ],
)  # fmt: skip
def test_sbatch_has_the_last_word_on_partitions_as_at_launch(fake, trial, sbatch, verdicts, part):
    fake("scontrol", "echo PartitionName=short MaxTime=01:00:00 State=UP TotalNodes=2; echo PartitionName=long MaxTime=2-0 State=UP TotalNodes=2")  # fmt: skip
    fake("sbatch", sbatch)
    profile = Profile.model_validate({"kind": "slurm", "trial": trial})
    found = cluster_checks._section("trial", profile, profile.trial, 1)
    assert [check.ok for check in found] == verdicts
    assert part in " ".join(check.detail for check in found)
    assert all((check.fix is None) == (check.ok is not False) for check in found)
    refused = found[0].ok is False or found[-1].ok is False
    with pytest.raises(MissingRequirement) if refused else nullcontext():
        check_accepted("trial", profile, profile.trial, 1)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo; echo 'Slurmctld(primary) at c1 is UP'", "Slurmctld(primary) at c1 is UP"),
        ("exit 0", "scontrol answers"),
    ],
)
def test_what_scontrol_says_of_itself(fake, script, told):
    for command in cluster_checks._COMMANDS:
        fake(command, script)
    assert cluster_checks._slurm() == told


def test_every_command_that_is_waited_for_has_a_time_limit():
    found = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and any(map(_unlimited, ast.walk(function))):
                found.add((file.relative_to(PACKAGE).as_posix(), function.name))
    assert found == LONG


def _unlimited(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or ast.unparse(node.func) not in WAITING:
        return False
    return not {keyword.arg for keyword in node.keywords} & {"timeout", "start_new_session"}
