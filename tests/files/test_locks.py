"""Locks: one holder at a time, who it is, and file systems that lock nothing or fail."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from agenttts.files import locks
from agenttts.files.locks import LockBusy, LockResult, is_locked, locked, try_lock, write_holder


@pytest.fixture
def failing(monkeypatch):
    """Make flock fail with an error, and count its calls."""

    def fail(number: int, times: int = 1_000_000) -> list[int]:
        calls: list[int] = []

        def flock(descriptor: int, how: int) -> None:
            calls.append(how)
            if len(calls) <= times:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        return calls

    return fail


def test_a_second_holder_waits_until_the_first_is_done(tmp_path):
    order = []

    def other() -> None:
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_after_its_patience_the_error_names_the_file_and_what_the_holder_wrote(tmp_path):
    path = tmp_path / "lock"
    with locked(path) as stream:
        stream.write("resume, process 7\n")
        stream.flush()
        expected = rf"{path} is locked by another process \(resume, process 7\)"
        with pytest.raises(LockBusy, match=expected) as caught, locked(path, patience=0):
            raise AssertionError
        assert caught.value.holder == "resume, process 7"
        assert path.read_text() == "resume, process 7\n", "a process that waits changes nothing"
    with locked(path, patience=0):
        assert path.exists(), "the file stays"


def test_is_locked_asks_without_creating_or_holding(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    with locked(path):
        assert is_locked(path)
    assert not is_locked(path)
    with locked(path, patience=0):
        pass


def test_two_that_ask_at_once_do_not_take_each_other_for_the_holder(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.touch()
    real, others = locks.try_lock, []

    def try_lock(descriptor: int, **how: bool) -> LockResult:
        result = real(descriptor, **how)
        if not others:
            others.append(None)
            others[0] = is_locked(path)  # another process asks before the first has closed the file
        return result

    monkeypatch.setattr(locks, "try_lock", try_lock)
    assert not is_locked(path)
    assert others == [False]


@pytest.mark.processes
def test_the_kernel_releases_the_lock_of_a_killed_process(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from agenttts.files.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(path)
        holder.kill()
    with locked(path, patience=5):
        assert is_locked(path)


@pytest.fixture
def starting(tmp_path):
    """Begin to start a child in another thread: from fork to exec, which the end of the test allows,
    it has all open files of this process.
    """
    (begun, begins), (ends, end) = os.pipe(), os.pipe()
    threads: list[threading.Thread] = []

    def wait() -> None:
        os.write(begins, b"x")
        os.read(ends, 1)

    def child() -> None:
        subprocess.run(["true"], check=True, preexec_fn=wait, pass_fds=(begins, ends))

    def start() -> None:
        threads.append(threading.Thread(target=child))
        threads[-1].start()
        os.read(begun, 1)

    yield start
    os.write(end, b"x")
    threads[-1].join(30)
    for descriptor in (begun, begins, ends, end):
        os.close(descriptor)


@pytest.mark.processes
def test_a_child_that_another_thread_is_starting_does_not_keep_a_lock(tmp_path, starting):
    path = tmp_path / "lock"
    with locked(path):
        starting()
    assert not is_locked(path)
    with locked(path, patience=0):
        assert is_locked(path)


@pytest.mark.processes
def test_nor_does_it_keep_the_lock_of_a_process_that_asks(tmp_path, starting, monkeypatch):
    path, real = tmp_path / "lock", locks.try_lock
    path.touch()

    def try_lock(descriptor: int, **how: bool) -> LockResult:
        result = real(descriptor, **how)
        starting()
        return result

    monkeypatch.setattr(locks, "try_lock", try_lock)
    assert not is_locked(path)
    monkeypatch.setattr(locks, "try_lock", real)
    with locked(path, patience=0):
        assert is_locked(path)


def test_a_file_that_was_replaced_while_waiting_is_opened_again(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    real, tries = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if how != fcntl.LOCK_UN:
            tries.append(how)
        if len(tries) == 1:  # as a run that is removed and launched again
            path.unlink()
            path.touch()

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path) as stream:
        assert os.path.samestat(os.fstat(stream.fileno()), path.stat())
    assert len(tries) == 2


def test_a_directory_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone" / "lock"):
        raise AssertionError
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_counts_as_free(tmp_path, failing, number):
    calls = failing(number)
    with locked(tmp_path / "lock", patience=0) as stream:
        stream.write("me")
    assert len(calls) == 1, "it is not tried again"
    assert (tmp_path / "lock").read_text() == "me"
    assert not is_locked(tmp_path / "lock")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_both_answers_of_a_taken_lock_are_known(tmp_path, failing, number):
    failing(number)
    with pytest.raises(LockBusy), locked(tmp_path / "lock", patience=0):
        raise AssertionError
    assert is_locked(tmp_path / "lock")


def test_a_failure_that_passes_is_waited_for(tmp_path, failing, caplog):
    calls = failing(errno.EIO, times=2)
    with locked(tmp_path / "lock"):
        assert len(calls) == 3
    assert not caplog.records


def test_a_failure_that_stays_is_said_and_counts_as_no_locks(
    tmp_path, failing, monkeypatch, caplog
):
    failing(errno.EIO)
    monkeypatch.setattr(locks, "_ERROR_PATIENCE_S", 0.0)
    with locked(tmp_path / "lock"):
        pass
    assert "cannot be locked (Input/output error)" in caplog.text
    with pytest.raises(OSError, match="Input/output"):
        is_locked(tmp_path / "lock")


def test_directories_can_be_locked(tmp_path):
    first, second = (os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        assert try_lock(first) is LockResult.ACQUIRED
        assert try_lock(second) is LockResult.BUSY
        os.close(first)
        assert try_lock(second) is LockResult.ACQUIRED
    finally:
        os.close(second)


def test_the_lock_of_a_lost_holder_is_taken_with_a_new_file(tmp_path):
    path = tmp_path / "lock"
    asked = []

    def is_lost(holder: str) -> bool:
        asked.append(holder)
        return len(asked) == 2

    with path.open("a+") as dead:
        fcntl.flock(dead, fcntl.LOCK_EX)
        dead.write("a dead host")
        dead.flush()
        with locked(path, is_lost=is_lost) as stream:
            write_holder(stream, "me")
            assert asked == ["a dead host"] * 2
            assert path.read_text() == "me"
            with pytest.raises(LockBusy, match="me"), locked(path, 0, lambda _: False):
                raise AssertionError


def test_a_new_file_in_a_lost_lock_s_place_is_not_removed(tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as stale:
        path.unlink()
        path.write_text("another's")
        locks._discard(path, stale.fileno(), "")
        assert path.read_text() == "another's"


def test_a_lock_that_got_another_holder_is_not_removed(tmp_path):
    """The dead host came back and gave it free, while the queue was asked for the dead job."""
    path = tmp_path / "lock"
    with path.open("a+") as stream:
        write_holder(stream, "the next")
        locks._discard(path, stream.fileno(), "the dead")
        assert path.read_text() == "the next"
        locks._discard(path, stream.fileno(), "the next")
        assert not path.exists()


def test_a_removal_that_another_process_makes_is_left_to_it(tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as stream, locked(tmp_path / "lock.removal"):
        locks._discard(path, stream.fileno(), "")
        assert path.exists()


def test_of_many_that_find_a_holder_lost_one_holds_the_lock_at_a_time(tmp_path, monkeypatch):
    """All look at the dead holder's file before any removes it."""
    path = tmp_path / "lock"
    waiters = 6
    ready = threading.Barrier(waiters)
    holding: list[int] = []
    most: list[int] = []
    seen = threading.local()
    real = os.path.samestat

    def samestat(one: os.stat_result, other: os.stat_result) -> bool:
        same = real(one, other)
        time.sleep(0.02 * seen.number)  # between a look and the removal that follows
        return same

    def is_lost(holder: str) -> bool:
        if not hasattr(seen, "dead"):
            seen.dead = True
            ready.wait(30)
        return holder == "a dead host"

    def wait(number: int) -> None:
        seen.number = number
        with locked(path, 60, is_lost) as stream:
            write_holder(stream, f"waiter {number}")
            holding.append(number)
            most.append(len(holding))
            time.sleep(0.05)
            holding.remove(number)

    with path.open("a+") as dead:
        fcntl.flock(dead, fcntl.LOCK_EX)
        write_holder(dead, "a dead host")
        monkeypatch.setattr(os.path, "samestat", samestat)
        threads = [threading.Thread(target=wait, args=(number,)) for number in range(waiters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most == [1] * waiters


def test_who_holds_a_lock_is_on_the_disk_at_once(tmp_path, monkeypatch):
    """Other hosts of a network file system read what its server has."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_text()))
    path = tmp_path / "lock"
    with locked(path) as stream:
        write_holder(stream, "me")
    assert synced == ["me"]


def test_what_is_lost_raises_ends_the_wait(tmp_path):
    def is_lost(holder: str) -> bool:
        raise TimeoutError(holder)

    with locked(tmp_path / "lock") as stream:
        write_holder(stream, "me")
        with pytest.raises(TimeoutError, match="me"), locked(tmp_path / "lock", is_lost=is_lost):
            raise AssertionError


def test_a_full_disk_costs_a_lock_its_holder_s_name_alone(tmp_path, monkeypatch, caplog):
    path = tmp_path / "lock"
    path.write_text("the last holder")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with locked(path) as stream:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            write_holder(stream, "me")
        assert is_locked(path)
    assert path.read_text() == ""
    assert f"could not be written to {path}: No space left on device" in caplog.text
