"""Signals while a process is started, sent from a hook of the fork, where they are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from agenttts.files.processes import die_with_parent
from agenttts.files.signals import signals_held
from tests.support.forks import signal_at_fork

pytestmark = pytest.mark.processes


class Stopped(BaseException):
    pass


@pytest.fixture
def handled():
    """A handler of SIGUSR2 that stops the program."""

    def stop(number, frame):
        raise Stopped

    before = signal.signal(signal.SIGUSR2, stop)
    yield stop
    signal.signal(signal.SIGUSR2, before)


def started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["true"], preexec_fn=die_with_parent)


def test_what_a_handler_raises_in_a_hook_of_a_fork_is_lost(handled, monkeypatch):
    """Otherwise there is nothing to hold (Python 3.11)."""
    lost: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: lost.append(found.exc_type.__name__))
    with signal_at_fork(signal.SIGUSR2):
        child = started()
    child.wait()
    assert lost == ["Stopped"]


def test_a_signal_that_is_held_comes_when_the_process_is_known(handled):
    child = None
    with pytest.raises(Stopped), signal_at_fork(signal.SIGUSR2), signals_held():
        child = started()
    assert child is not None
    assert child.wait() == 0
    assert signal.getsignal(signal.SIGUSR2) is handled


def test_signals_are_held_one_by_one_and_others_stay_as_they_are(handled):
    order: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: order.append(number))
    ignored = signal.getsignal(signal.SIGPIPE)
    try:
        with pytest.raises(Stopped), signals_held():  # noqa: PT012
            for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(os.getpid(), number)
            assert order == []
            assert signal.getsignal(signal.SIGPIPE) is ignored
        assert order == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_error_of_the_block_leaves_the_handlers_as_they_were(handled):
    with pytest.raises(OSError, match="no process"), signals_held():
        raise OSError("no process")
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGUSR2)


def test_a_thread_holds_nothing(handled):
    seen: list[object] = []

    def start() -> None:
        with signals_held():
            seen.append(signal.getsignal(signal.SIGUSR2))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert seen == [handled]
