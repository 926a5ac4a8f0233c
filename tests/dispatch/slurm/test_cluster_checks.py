"""What ``doctor`` makes of commands that answer late, in an odd form, or not at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from agenttts.dispatch.slurm import cluster_checks
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
    settings = pip_settings.pip_settings({"PIP_INDEX_URL": "https://mirror/simple", "PATH": "/bin"})
    assert settings == {"index-url": "https://mirror/simple"}


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
