"""Calls that are repeated in a thread while other work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated_calls(
    call: Callable[[], object], seconds: float, *, name: str, at_once: bool = False
) -> Iterator[None]:
    """Repeat a call until the block ends, also while the block waits or computes.

    Args:
        call: What is called, in a thread. An exception of it ends the thread, not the block.
        seconds: The pause before each call.
        name: The name of the thread.
        at_once: Whether the first call has no pause before it.
    """
    over = threading.Event()

    def work() -> None:
        if at_once:
            call()
        while not over.wait(seconds):
            call()

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
