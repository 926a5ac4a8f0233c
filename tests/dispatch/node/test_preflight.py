"""A node is looked at before a trial starts on it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agenttts.dispatch.node import preflight
from agenttts.dispatch.node.preflight import node_problem

LISTED = "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA H100 (UUID: GPU-bbbb-2)\n"


@pytest.fixture
def place(tmp_path):
    """(the trial's directory, the scratch directory)."""
    for name in ("trial", "scratch"):
        (tmp_path / name).mkdir()
    return tmp_path / "trial", tmp_path / "scratch"


def problem(place, *needs: Path, gpus: int = 0, **more: object) -> str | None:
    directory, scratch = place
    return node_problem(directory, scratch, needs, gpus=gpus, scratch_bytes=0, **more)


def test_a_usable_node_has_no_problem_and_nothing_is_left_behind(place, tmp_path):
    image = tmp_path / "image.sif"
    image.write_bytes(b"x")
    (tmp_path / "model").mkdir()
    assert problem(place, image, tmp_path / "model") is None
    assert [list(folder.iterdir()) for folder in place] == [[], []]


def test_what_the_trial_reads_must_be_there(place, tmp_path):
    assert "image.sif cannot be read on this node: No such file" in problem(place, tmp_path / "image.sif")  # fmt: skip


@pytest.mark.parametrize(("number", "says"), [(0, "trial's directory"), (1, "scratch directory")])
def test_a_directory_that_is_gone(place, number, says):
    place[number].rmdir()
    assert f"{says} {place[number]} cannot be written" in problem(place)


def test_a_directory_that_cannot_be_written(place):
    place[0].rmdir()
    place[0].write_text("a file")
    assert "cannot be written: Not a directory" in problem(place)


def test_a_full_disk(place):
    assert "GB are needed" in node_problem(*place, (), gpus=0, scratch_bytes=10**18)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("gpus", "scratch_bytes", "compiles", "refused"),
    [(1, 1, True, True), (0, 1, True, False), (1, 0, True, False), (1, 1, False, False)],
)
def test_engines_on_gpus_load_code_from_the_scratch_directory(place, nvidia_smi, gpus, scratch_bytes, compiles, refused):  # fmt: skip
    nvidia_smi(LISTED)
    directory, scratch = (str(path) for path in place)
    code = (
        f"from pathlib import Path; from {node_problem.__module__} import *; "
        f"print(node_problem(Path({directory!r}), Path({scratch!r}), (), gpus={gpus}, "
        f"env={{'CUDA_VISIBLE_DEVICES': '0'}}, scratch_bytes={scratch_bytes}, compiles={compiles}, deadline=60))"
    )
    script = f"mount -t tmpfs -o noexec none {shlex.quote(scratch)}; {shlex.join([sys.executable, '-c', code])}"  # fmt: skip
    done = subprocess.run(["unshare", "-rm", "sh", "-ec", script], capture_output=True, text=True)
    said = f"the node's scratch directory {scratch} is mounted noexec, so engines cannot load"
    assert done.stdout.startswith(said if refused else "None\n"), done


def test_a_file_system_that_hangs_does_not_hang_the_job_and_is_named(place, tmp_path):
    os.mkfifo(tmp_path / "models")  # to open a pipe takes until somebody writes
    (tmp_path / "image.sif").write_bytes(b"x")
    found = problem(place, tmp_path / "image.sif", tmp_path / "models", deadline=0.3)
    assert f"did not answer within 0.3 s (at {tmp_path / 'models'})" in found


def test_a_busy_file_system_is_waited_for(place, tmp_path):
    """Its node would be avoided for a day, and the trial wait in the queue again."""
    os.mkfifo(tmp_path / "models")
    later = threading.Timer(6, (tmp_path / "models").write_bytes, [b"x"])
    later.start()
    assert problem(place, tmp_path / "models") is None
    later.join()


def test_a_driver_that_wakes_slowly_is_no_problem(nvidia_smi, place):
    nvidia_smi(LISTED, seconds=30)
    started = time.monotonic()
    assert problem(place, gpus=1, deadline=0.5) is None
    assert time.monotonic() - started < 25


def test_an_answer_with_an_error_is_the_node_s(nvidia_smi, place):
    nvidia_smi("No devices were found\n", code=6)
    assert "No devices were found" in problem(place, gpus=1, deadline=20)


def test_a_node_that_starts_no_more_threads_is_not_usable(place, monkeypatch):
    def refuse(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(preflight.threading.Thread, "start", refuse)
    assert "cannot start a thread" in (problem(place) or "")
