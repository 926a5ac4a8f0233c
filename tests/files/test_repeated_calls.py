"""Calls that are repeated while a block runs."""

import threading

import pytest

from agenttts.files.repeated_calls import repeated_calls


@pytest.mark.parametrize(("at_once", "seconds"), [(True, 600.0), (False, 0.001), (True, 0.001)])
def test_calls_are_made_in_a_thread_until_the_block_ends(at_once, seconds):
    called = threading.Event()
    threads: list[str] = []

    def call() -> None:
        threads.append(threading.current_thread().name)
        called.set()

    with repeated_calls(call, seconds, name="signs", at_once=at_once):
        assert called.wait(60)
    assert set(threads) == {"signs"}
    assert "signs" not in {thread.name for thread in threading.enumerate()}, "none comes later"


def test_without_at_once_the_first_call_comes_after_the_pause():
    calls: list[int] = []
    with repeated_calls(lambda: calls.append(1), 600.0, name="signs"):
        pass
    assert calls == []
