"""Command lines of processes, also of those that have none yet and of those that never will."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttts.files.processes import (
    children,
    command_line,
    cpu_seconds,
    environment,
    is_dying,
    job_cpus,
    oom_kills,
    parents,
    pids,
    usable_cpus,
)
from tests.support.waiting import until


@pytest.mark.processes
def test_the_arguments_of_a_process_are_there_as_soon_as_it_is():
    """The kernel gives a program its arguments a moment after the call that starts it has
    returned.
    """
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


@pytest.mark.parametrize("pid", ["", "None", "12.3", "-1", str(2**30)])
def test_what_is_no_number_of_a_process_is_no_process(pid):
    assert command_line(pid) == b""
    assert environment(pid) == {}
    assert children(pid) == parents(pid) == []


def test_arguments_keep_their_bytes():
    argument = b"a\xff b\n"
    code = "import time; time.sleep(600)"
    with subprocess.Popen([sys.executable.encode(), b"-c", code.encode(), argument]) as process:
        try:
            until(
                lambda: command_line(process.pid).endswith(b"\0" + argument + b"\0"), "the program"
            )
        finally:
            process.kill()


def test_a_child_is_found_from_its_parent_and_back():
    with subprocess.Popen(["sleep", "34"], env={"A_VARIABLE": "1=2"}) as process:
        try:
            assert str(process.pid) in pids()
            assert str(process.pid) in children(os.getpid())
            assert children(process.pid) == []
            assert parents(process.pid)[:2] == [str(os.getpid()), str(os.getppid())]
            until(lambda: environment(process.pid) == {"A_VARIABLE": "1=2"}, "its environment")
        finally:
            process.kill()
    assert str(process.pid) not in children(os.getpid())
    assert parents(process.pid) == []


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


@pytest.mark.parametrize(
    ("group", "quotas", "slurm", "expected"),
    [
        ("0::/job/step\n", {"job/step": "max 100000", "job": "250000 100000"}, "", 3),
        ("0::/job\n", {"job": "400000 100000"}, "2", 2),
        ("0::/\n", {"": "50000 100000"}, "2", 1),
        ("0::/job\n", {"job": "max 100000"}, "5", 5),
        ("0::/job\n", {}, "0", 8),
        ("4:cpu,memory:/job\n", {"job": "100000 100000"}, "odd", 8),
        ("", {"": "100000 100000"}, "", 8),
    ],
)
def test_the_cores_of_a_process(tmp_path, monkeypatch, group, quotas, slurm, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    for name, text in quotas.items():
        folder = tmp_path / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)
    (tmp_path / "self").write_text(group)
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "self") == expected


def test_a_container_is_told_the_cores_of_its_job():
    assert job_cpus({"SLURM_CPUS_PER_TASK": "4", "HOME": "/"}) == {"SLURM_CPUS_PER_TASK": "4"}
    assert job_cpus({}) == {}


def test_this_machine_s_count_can_be_read():
    assert oom_kills() >= 0


@pytest.mark.processes
def test_a_killed_process_is_known_for_dying_from_the_first_moment():
    """It keeps its arguments until a processor is free for its end: a resume right after a kill
    must not take it for alive.
    """
    assert not is_dying(os.getpid())
    for number in range(40):
        with subprocess.Popen(["sleep", f"31.{number}"]) as process:
            assert command_line(process.pid)
            assert not is_dying(process.pid)
            process.kill()
            assert is_dying(process.pid)
        assert is_dying(process.pid), "gone"


@pytest.mark.processes
def test_a_stopped_process_is_not_dying_until_it_is_killed():
    with subprocess.Popen(["sleep", "32"]) as process:
        process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: _state(process.pid) == "T", "the stop")
            assert not is_dying(process.pid)
        finally:
            process.kill()
        assert is_dying(process.pid)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


@pytest.mark.processes
@pytest.mark.parametrize(("sent", "said"), [(signal.SIGTERM, "TERM\n"), (signal.SIGKILL, "")])
def test_a_child_gets_the_signal_when_its_parent_is_killed(sent, said):
    child = "trap 'echo TERM; exit' TERM; echo ready; while :; do sleep 0.1; done"
    code = (
        "import subprocess, sys; from agenttts.files.processes import die_with_parent\n"
        "start = lambda: die_with_parent(int(sys.argv[1]))\n"
        "subprocess.run(['sh', '-c', sys.argv[2]], preexec_fn=start)"
    )
    command = [sys.executable, "-c", code, str(int(sent)), child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        # It ends when the child has closed it.
        assert parent.stdout.read() == said
