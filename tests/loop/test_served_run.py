"""Runs that serve their own model, while their controller waits for it."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from agenttts.loop.controller_job import make_controller
from agenttts.run import starts
from agenttts.run.starts import RunCancelled
from agenttts.serving.job import read_address
from tests.support.runs import journal_events
from tests.support.waiting import until

pytestmark = pytest.mark.processes

SMALL = {
    "task__examples": 2,
    "search__iterations": 1,
    "search__batch_size": 2,
    "agent": {"kind": "serve", "model": "weak"},
}


@pytest.fixture
def waiting(unstarted_run):
    """A run, and a function that makes its controller, whose served model never answers."""
    run = unstarted_run(**SMALL)

    def make(check):
        controller = make_controller(run.read(), check)
        served = controller._evaluation._server
        served._serving = replace(served._serving, command=("sleep", "600"))
        return controller

    return run, make


def test_a_controller_that_waits_for_its_served_model_sees_that_it_is_cancelled(waiting):
    run, make = waiting

    def check():
        if read_address(run.agent) is not None:
            raise RunCancelled("cancelled")

    began = time.monotonic()
    make(check).run()
    assert time.monotonic() - began < 60, "it did not wait for start_seconds"
    assert journal_events(run.path, "ended")[-1]["outcome"] == "cancelled"
    until(lambda: read_address(run.agent) is None)


def test_a_controller_that_waits_for_its_served_model_gives_signs(waiting, monkeypatch):
    run, make = waiting
    monkeypatch.setattr(starts, "_SIGN_S", 0.01)

    def check():
        if read_address(run.agent) is not None:
            os.utime(run.sign_file, (0, 0))
            until(lambda: run.sign_file.stat().st_mtime > 0, "a sign")
            raise RunCancelled("cancelled")

    make(check).run()
    assert journal_events(run.path, "ended")[-1]["outcome"] == "cancelled"
