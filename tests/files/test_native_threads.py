"""Few threads in the command line and the controller, all of them in a trial's program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agenttts.cli import main
from agenttts.files.native_threads import limit_native_threads, without_thread_limits

LIMITED = ("POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    for name in (*LIMITED, "OMP_NUM_THREADS", "AGENTTTS_THREAD_LIMITS"):
        monkeypatch.setenv(name, "")  # what a test sets is gone after it
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)


def test_a_child_has_none_of_the_limits(monkeypatch):
    before = dict(os.environ)
    limit_native_threads()
    assert [os.environ[name] for name in LIMITED] == ["4", "1"]
    assert without_thread_limits(os.environ) == before
    limit_native_threads()  # in a process that has inherited them
    assert without_thread_limits(os.environ) == before


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("POLARS_MAX_THREADS", "64")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    before = dict(os.environ)
    limit_native_threads()
    assert dict(os.environ) == before == without_thread_limits(os.environ)


def test_nothing_is_loaded_before_the_limits_are_set():
    """numpy starts its threads at its import, and the limits are set where a command begins."""
    code = "import sys, agenttts.cli.app; print({'numpy', 'polars'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_command_sets_them():
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
