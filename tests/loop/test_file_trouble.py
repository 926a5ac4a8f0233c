"""A file system that fails for a while costs time, not the run: a real run whose controller's
files fail at random.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agenttts.dispatch.base import JobRequest
from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.files.json_lines import LineNotWritten
from agenttts.files.trouble import FilesUnavailable
from agenttts.launch import launch
from agenttts.launch.plan import make_plan
from agenttts.loop import controller_job as process
from agenttts.loop.controller_job import patiently
from agenttts.run.directory import RunDirectory, RunGone
from agenttts.run.journal import read_state
from agenttts.spec import load_spec
from tests.support.runs import attempts, journal_events, table
from tests.support.settings import change_settings

NUMBERS = [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOTCONN]


class Recording(InProcessScheduler):
    """Remembers what is started and cancelled."""

    started: Counter[str] = Counter()
    cancelled: list[str] = []

    def submit(self, batch: str, requests: Sequence[JobRequest]) -> dict[str, str]:
        self.started.update(request.trial for request in requests)
        return super().submit(batch, requests)

    def cancel(self, job_ids: Iterable[str]) -> None:
        self.cancelled.extend(job_ids)
        super().cancel(self.cancelled)


@pytest.fixture
def run(scripted_spec, tmp_path, monkeypatch):
    """A new run, whose controllers are to be made by the test."""
    monkeypatch.setattr(launch, "start_controller", lambda run: None)
    Recording.started, Recording.cancelled = Counter(), []
    monkeypatch.setattr(process, "trial_scheduler", lambda run, profile: Recording(profile, run.scheduler_logs / "trials"))  # fmt: skip
    spec = load_spec(scripted_spec(search__iterations=1, search__batch_size=3, cluster="in_process"))  # fmt: skip
    return launch.launch(make_plan(spec, [tmp_path], tmp_path / "results"))[0]


class Disk:
    """Makes the controller's own calls of a few functions fail; trials run in other threads, as on
    other nodes.

    ``fails(call, number)`` says which error a call raises, if any, as the ``number``-th one.
    """

    CALLS = (
        (Path, "open"), (Path, "read_bytes"), (Path, "iterdir"), (Path, "replace"), (Path, "mkdir"), (os, "fsync"),
    )  # fmt: skip

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: RunDirectory) -> None:
        self.fails: Callable[[str, int], int | None] = lambda call, number: None
        self.calls = 0
        self._run = run
        self._thread = threading.current_thread()
        for owner, name in self.CALLS:
            original = getattr(owner, name)
            monkeypatch.setattr(owner, name, self._wrapped(name, original))

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(where: Any, *arguments: Any, **more: Any) -> Any:
            ours = isinstance(where, int) or self._run.path in (where, *where.parents)
            if ours and threading.current_thread() is self._thread:
                self.calls += 1
                number = self.fails(name, self.calls)
                if number is not None:
                    raise OSError(number, os.strerror(number), str(where))
            return original(where, *arguments, **more)

        return call


def go_on(run: RunDirectory, **settings: object) -> None:
    loop = process.make_controller(run.read())
    change_settings(loop._evaluation, poll_seconds=0.01, **settings)
    loop.run()


@pytest.mark.parametrize("seed", range(6))
def test_a_disk_that_fails_now_and_then_costs_no_trial(run, monkeypatch, seed):
    disk, rng = Disk(monkeypatch, run), random.Random(seed)
    faults: Counter[str] = Counter()

    def fails(call: str, number: int) -> int | None:
        if sum(faults.values()) >= 60 or rng.random() > 0.07:
            return None
        faults[call] += 1
        return rng.choice(NUMBERS)

    disk.fails = fails
    patiently(run, partial(go_on, run), pause=0.01)
    assert sum(faults.values()) >= 20, faults
    disk.fails = lambda call, number: None
    state = read_state(run.journal_file)
    assert state.finished == "done"
    assert {t.row["state"] for t in state.trials.values()} == {"COMPLETED"}
    assert set(Recording.started.values()) == {1}, "no trial ran twice"
    assert not Recording.cancelled
    assert len(attempts(run.path)) == len(state.trials) == table(run.path).height
    assert not journal_events(run.path, "lost")


def test_a_trouble_that_lasts_for_hundreds_of_polls_is_said_once(run, monkeypatch, caplog):
    disk = Disk(monkeypatch, run)
    failed = Counter()

    def fails(call: str, number: int) -> int | None:
        if call == "fsync" and number > 100 and failed[call] < 300:
            failed[call] += 1
            return errno.EDQUOT
        return None

    disk.fails = fails
    with caplog.at_level(logging.WARNING):
        patiently(run, partial(go_on, run), pause=0.001)
    assert failed["fsync"] == 300
    said = [
        r.getMessage()
        for r in caplog.records
        if "is paused by a file system error" in r.getMessage()
    ]
    assert len(said) <= 2, said
    assert read_state(run.journal_file).finished == "done"
    assert not Recording.cancelled


def test_patience_ends_with_the_jobs_left_to_run_and_resume_adopts_them(run, monkeypatch):
    disk = Disk(monkeypatch, run)
    disk.fails = lambda call, number: errno.ENOSPC if Recording.started and call == "fsync" else None  # fmt: skip
    with pytest.raises(FilesUnavailable, match="No space left on device.* continues with them"):
        patiently(run, partial(go_on, run, patience_seconds=0.3), seconds=0.3, pause=0.01)
    assert Recording.started
    assert not Recording.cancelled
    disk.fails = lambda call, number: None
    assert not journal_events(run.path, "ended")
    go_on(run)
    assert read_state(run.journal_file).finished == "done"
    assert set(Recording.started.values()) == {1}
    assert not journal_events(run.path, "lost")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_directory_that_cannot_be_read_is_not_one_that_is_gone(run, monkeypatch, number):
    disk = Disk(monkeypatch, run)
    disk.fails = lambda call, _: number if call == "iterdir" else None
    with pytest.raises(OSError, match=os.strerror(number)):
        run.problem()
    disk.fails = lambda call, _: None
    evaluation = process.make_controller(run.read())._evaluation
    run.path.rename(run.path.with_name("moved"))
    with pytest.raises(RunGone, match="was removed or moved"):
        evaluation.check_run(patience=0)


def test_a_result_that_cannot_be_read_for_now_is_not_one_that_is_missing(run, monkeypatch):
    """The queue says that the job has ended; its marker is there and gives an error."""
    disk = Disk(monkeypatch, run)
    marker = Path.read_bytes
    refused = Counter()

    def read(path: Path) -> bytes:
        if path.name == "COMPLETED.json" and refused[path.parent.name] < 30:
            refused[path.parent.name] += 1
            raise OSError(errno.EIO, "Input/output error", str(path))
        return marker(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert disk
    patiently(run, partial(go_on, run, settle_seconds=0.0), pause=0.01)
    assert refused
    assert set(table(run.path)["state"]) == {"COMPLETED"}
    assert set(Recording.started.values()) == {1}


class Unwritable:
    """A served model whose release cannot be noted."""

    def release(self) -> None:
        raise LineNotWritten("agent.jsonl: Stale file handle", fix="free space")


def test_the_jobs_of_a_run_that_is_gone_are_cancelled_if_the_release_cannot_be_noted(run):
    evaluation = process.make_controller(run.read())._evaluation
    evaluation._workers.by_job = lambda: {"17": "w1"}
    evaluation._server = Unwritable()
    evaluation.abandon("the directory is gone")
    assert Recording.cancelled == ["17"]
