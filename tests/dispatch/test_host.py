"""Whether a process is still the controller that a run's file names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agenttts.dispatch.host import is_process
from agenttts.files.processes import process_identity

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


def test_a_process_is_known_until_it_ends(process):
    identity = process_identity(process.pid)
    assert is_process(str(process.pid), MARK, identity)
    assert is_process(str(process.pid), MARK, None), "in files of an older version"
    process.kill()
    process.wait()
    assert not is_process(str(process.pid), MARK, identity)
    assert not is_process(str(process.pid), MARK, None)


def test_a_later_process_with_the_same_pid_is_another(process):
    """Even if it is a controller of the same run, as after a start of the machine."""
    identity = process_identity(process.pid)
    assert identity is not None
    boot, _, ticks = identity.rpartition(" ")
    for other in (f"{boot} {int(ticks) - 1}", f"another-boot {ticks}"):
        assert not is_process(str(process.pid), MARK, other)
    assert not is_process(str(process.pid), b"another run", identity)


@pytest.mark.parametrize("pid", [0, -1, "x", 2**30])
def test_what_is_no_process_has_no_identity(pid):
    assert process_identity(pid) is None


def test_this_process_keeps_its_identity():
    assert process_identity(os.getpid()) == process_identity(str(os.getpid()))
    assert process_identity(os.getpid()) != process_identity(1), "which was started long before"
