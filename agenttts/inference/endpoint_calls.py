"""Requests to a server with patience: rate, pauses, and when to give up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from agenttts.endpoint import Address, Answer, EndpointClient, ServerError

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_MOST_STRIKES = 5
"""Failures of one request after which it is given up although others are answered."""
_SAY_EVERY_S = 15.0
T = TypeVar("T")


class Stopped(Exception):
    """The requests were stopped before this one was answered."""


class GivenUp(Exception):
    """The server gave no usable answer in time.

    ``silent`` says that no request got any answer, whether usable or not.
    """

    def __init__(self, message: str, *, silent: bool) -> None:
        super().__init__(message)
        self.silent = silent


class PatientCalls:
    """Sends requests, and repeats those that failed temporarily.

    Several threads may send requests at the same time. Pauses between attempts grow from one second
    to one minute; a ``Retry-After`` above 0 is kept. When the server says that there
    are too many requests (status 429), all threads pause. A request is given up when the server has
    answered none for ``retry_seconds``. It is also given up when it failed several times while
    others were answered. Failures of status 429 do not count for this.

    Args:
        client: Sends the requests.
        address: The server.
        retry_seconds: Seconds without any answer, from the first failed attempt on.
        requests_per_minute: The most requests in a minute; None for no limit.
        say: Gets one line when something failed, at most every 15 seconds.
    """

    def __init__(
        self,
        client: EndpointClient,
        address: Address,
        *,
        retry_seconds: float,
        requests_per_minute: float | None,
        say: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._address = address
        self._retry_seconds = retry_seconds
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._next_slot = self._said = self._last_answer = float("-inf")
        self._answers = 0

    def get(self, path: str, read: Callable[[Answer], T], stop: threading.Event) -> T:
        """Return what ``read`` makes of the answer to a request without a body."""
        return self._patiently(lambda: self._client.get(self._address, path), read, stop)

    def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[Answer], T], stop: threading.Event
    ) -> T:
        """Return what ``read`` makes of the answer to a JSON body.

        Args:
            path: The path below the address.
            body: The request.
            read: Returns the result, or raises `ServerError`, after which the request may be
                repeated.
            stop: Ends the waiting when it is set.

        Raises:
            ServerError: The server refuses the request for good.
            GivenUp: It gave no usable answer in time.
            Stopped: ``stop`` was set.
        """
        return self._patiently(lambda: self._client.post(self._address, path, body), read, stop)

    def _patiently(
        self, send: Callable[[], Answer], read: Callable[[Answer], T], stop: threading.Event
    ) -> T:
        failing_since: float | None = None
        failures = strikes = 0
        answers_then = 0
        while True:
            self._take_turn(stop)
            began = self._clock()
            try:
                result = read(send())
            except ServerError as error:
                if not error.again:
                    self._count_answer()  # a refusal shows that the server works
                    raise
                failing_since = began if failing_since is None else failing_since
                strikes += bool(failures) and error.status != 429 and self._answers > answers_then
                failures, answers_then = failures + 1, self._answers
                pause = self._pause(error, failures)
                reason = self._reason_to_give_up(error, failing_since, strikes, pause)
                if reason is not None:
                    silent = error.fault == "timeout" and strikes < _MOST_STRIKES
                    raise GivenUp(f"{error}; {reason}", silent=silent) from None
                self._note(f"{error}; trying again in {pause:.0f} s")
                if error.status == 429:
                    self._hold(pause)
                if stop.wait(pause):
                    raise Stopped from None
            else:
                self._count_answer()
                return result

    def _take_turn(self, stop: threading.Event) -> None:
        """Wait until a request may be sent."""
        with self._lock:
            now = self._clock()
            slot = max(now, self._next_slot)
            self._next_slot = max(self._next_slot, slot + self._interval)
        if stop.wait(max(0.0, slot - now)) or stop.is_set():
            raise Stopped

    def _hold(self, seconds: float) -> None:
        """Let no thread begin a request for a time."""
        with self._lock:
            self._next_slot = max(self._next_slot, self._clock() + seconds)

    def _count_answer(self) -> None:
        with self._lock:
            self._answers += 1
            self._last_answer = self._clock()

    def _pause(self, error: ServerError, failures: int) -> float:
        # A server may ask for no pause at all: it rounds the seconds down, or gives a date that has
        # passed by this machine's clock.
        if error.retry_after:
            return error.retry_after
        # The exponent is bounded, because a request may fail often.
        growing = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
        # The jitter separates threads and trials that failed together. No sample depends on it.
        return growing * random.uniform(0.75, 1.25)

    def _reason_to_give_up(
        self, error: ServerError, failing_since: float, strikes: int, pause: float
    ) -> str | None:
        if strikes >= _MOST_STRIKES:
            return f"this request failed {strikes + 1} times while others were answered"
        silent = self._clock() - max(failing_since, self._last_answer)
        if silent + pause <= self._retry_seconds:
            return None
        if error.retry_after is not None and error.retry_after > self._retry_seconds:
            return (
                f"the server asks to wait {error.retry_after:.0f} s, which is more than "
                f"retry_seconds ({self._retry_seconds:g})"
            )
        return (
            f"no request was answered for {silent:.0f} s, and another attempt would exceed "
            f"retry_seconds ({self._retry_seconds:g})"
        )

    def _note(self, text: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._said < _SAY_EVERY_S:
                return
            self._said = now
        self._say(text)
