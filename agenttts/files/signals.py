"""Signals that end a program, as exceptions, and when these are raised.

The program can then put in order what it has changed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exit that runs ``finally`` blocks.

    SIGHUP comes when a connection is lost. A signal that is ignored, as by nohup, stays so. In a
    thread nothing changes, because only the main thread receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ending = (signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in ending if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let the signals that this program handles wait until the end of the block.

    For a block that starts a process with ``preexec_fn``. Python runs hooks then
    (`os.register_at_fork`; `logging` has one). If a signal comes in a hook, its handler is called
    there, and what it raises is dropped: the program goes on, and its end is lost.

    In a thread nothing is held, because only the main thread calls handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {
        number: handler
        for number in signal.valid_signals()
        if callable(handler := signal.getsignal(number))
    }
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for received in dict.fromkeys(came):
            signal.raise_signal(received)
