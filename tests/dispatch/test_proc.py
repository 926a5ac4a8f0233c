"""Command lines of processes, also of those that have none yet and of those that never will."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from agenttts.dispatch.proc import command_line, cpu_seconds, oom_kills


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


def test_processor_time_counts_a_process_and_what_it_started():
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", busy], start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 60
            while cpu_seconds(process.pid) < 0.5:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert cpu_seconds(process.pid) == 0


@pytest.mark.parametrize(
    ("group", "file", "content", "kills"),
    [
        ("0::/job/step\n", "job/step/memory.events", "low 0\noom 3\noom_kill 2\n", 2),
        ("4:cpu,memory:/job\n1:name=systemd:/\n", "memory/job/memory.oom_control", "under_oom 0\noom_kill 1\n", 1),
        ("4:cpu,memory:/job\n", "memory/job/memory.oom_control", "under_oom 0\n", 0),
        ("0::/elsewhere\n", "job/memory.events", "oom_kill 2\n", 0),
        ("", "job/memory.events", "oom_kill 2\n", 0),
    ],
)  # fmt: skip
def test_the_kernel_s_count_of_kills_for_memory(tmp_path, group, file, content, kills):
    """Both versions of control groups."""
    path = tmp_path / "cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (tmp_path / "self").write_text(group)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "self") == kills


def test_this_machine_s_count_can_be_read():
    assert oom_kills() >= 0
