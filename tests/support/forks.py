"""Signals that come at the worst moment: in a hook that Python runs around a fork."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_TO_SEND: list[int] = []


def _send() -> None:
    while _TO_SEND:
        signal.raise_signal(_TO_SEND.pop())


# A hook cannot be taken back; it does nothing outside of `signal_at_fork`.
os.register_at_fork(after_in_parent=_send)


@contextmanager
def signal_at_fork(number: int) -> Iterator[None]:
    """Send this process a signal at the next fork with hooks (``preexec_fn``) in the block."""
    _TO_SEND.append(number)
    try:
        yield
    finally:
        _TO_SEND.clear()
