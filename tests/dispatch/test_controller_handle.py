"""Whether a process is still the controller that a run's file names."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from agenttts.dispatch.controller_handle import ELSEWHERE, ControllerHandle, controller_kind
from agenttts.dispatch.proc import process_identity
from agenttts.dispatch.profile import ControllerResources, Profile
from agenttts.errors import MissingRequirement

MARK = b"the-folder-of-the-run"


@pytest.fixture
def process():
    """A process whose command line holds `MARK`."""
    child = subprocess.Popen(
        [sys.executable, "-c", "input()", MARK.decode()], stdin=subprocess.PIPE
    )
    yield child
    child.kill()
    child.communicate()


@pytest.mark.parametrize(
    ("kind", "where", "expected"),
    [
        ("slurm", "job", "slurm"),
        ("slurm", "here", "local"),
        ("local", "job", "local"),
        ("local", "here", "local"),
        ("in_process", "job", "in_process"),
        ("in_process", "here", "in_process"),
    ],
)
def test_how_the_controller_of_a_profile_runs(kind, where, expected):
    profile = Profile(kind=kind, controller=ControllerResources(where=where))
    assert controller_kind(profile) == expected


def test_a_process_is_known_until_it_ends(process):
    handle = ControllerHandle.of_process("local", process.pid)
    assert handle.process_status(MARK, locked=False).state == "RUNNING"
    assert ControllerHandle.from_json(vars(handle)) == handle
    assert handle.described() == f"process {process.pid} on {socket.gethostname()}"
    process.kill()
    process.wait()
    assert handle.process_status(MARK, locked=True).ended


def test_a_later_process_with_the_same_pid_is_another(process):
    """Even if it is a controller of the same run, as after a start of the machine."""
    handle = ControllerHandle.of_process("local", process.pid)
    boot, _, ticks = handle.identity.rpartition(" ")
    for identity in (f"{boot} {int(ticks) - 1}", f"another-boot {ticks}"):
        assert replace(handle, identity=identity).process_status(MARK, locked=False).ended
    assert handle.process_status(b"another run", locked=False).ended


def test_a_handle_of_an_older_version_has_neither_host_nor_identity(process):
    handle = ControllerHandle.from_json({"kind": "local", "job_id": str(process.pid)})
    assert not handle.process_status(MARK, locked=False).ended
    assert handle.described() == f"process {process.pid}"


@pytest.mark.parametrize(("locked", "state"), [(True, "RUNNING"), (False, ELSEWHERE)])
def test_of_another_host_s_process_only_the_run_s_lock_tells(process, locked, state):
    handle = replace(ControllerHandle.of_process("local", process.pid), host="login1")
    status = handle.process_status(MARK, locked=locked)
    assert (status.state, status.ended) == (state, False)
    if not locked:
        assert f"was started on login1 as process {process.pid}; this is {socket.gethostname()}" in status.detail  # fmt: skip
    with pytest.raises(MissingRequirement, match="Fix: run this command on login1"):
        handle.interrupt()
    assert process.poll() is None, "the process here with that pid was not signalled"


@pytest.mark.parametrize("pid", [0, -1, "x", 2**30])
def test_what_is_no_process_has_no_identity(pid):
    assert process_identity(pid) is None


def test_this_process_keeps_its_identity():
    assert process_identity(os.getpid()) == process_identity(str(os.getpid()))
    assert process_identity(os.getpid()) != process_identity(os.getppid())
