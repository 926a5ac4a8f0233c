"""Command lines of processes, also of those that have none yet and of those that never will."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agenttts.dispatch.proc import command_line


@pytest.mark.processes
def test_the_arguments_of_a_process_are_there_as_soon_as_it_is():
    """The kernel gives a program its arguments a moment after the call that starts it has returned."""
    for number in range(40):
        with subprocess.Popen(["sleep", f"30.{number}"]) as process:
            try:
                assert command_line(process.pid) == f"sleep\x0030.{number}\x00".encode()
            finally:
                process.kill()


def test_a_process_that_has_ended_has_none():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until `wait` takes it
    assert command_line(process.pid) == b""
    process.wait()
    assert command_line(process.pid) == b""


@pytest.mark.parametrize("pid", ["", "None", "12.3"])
def test_what_is_no_number_is_no_process(pid):
    assert command_line(pid) == b""
