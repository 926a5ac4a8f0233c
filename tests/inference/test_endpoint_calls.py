"""Patience with a server: pauses, and when a request is given up. The clock is the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from agenttts.endpoint import Address, Answer, EndpointClient, ServerError
from agenttts.inference.endpoint_calls import GivenUp, PatientCalls, Stopped


class Clock(threading.Event):
    """A clock that waiting moves on, as the event that is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self.now += timeout or 0.0
        return self.is_set()


class Client(EndpointClient):
    """Calls ``answer`` with the path of each request, which takes a second."""

    def __init__(self, clock: Clock, answer: Callable[[str], Answer]) -> None:
        super().__init__(timeout=1)
        self._clock, self._answer = clock, answer

    def get(self, address: Address, path: str) -> Answer:
        self._clock.now += 1
        return self._answer(path)


def calls(clock: Clock, answer: Callable[[str], Answer], **changes: object) -> PatientCalls:
    settings = {"retry_seconds": 900.0, "requests_per_minute": None, "say": lambda line: None}
    client = Client(clock, answer)
    return PatientCalls(client, Address("http://h/v1"), clock=lambda: clock.now, **(settings | changes))  # fmt: skip


def failing(status: int, retry_after: float | None = None) -> ServerError:
    return ServerError("http", f"HTTP {status}", again=True, status=status, retry_after=retry_after)


def raises(error: Exception) -> Callable[[str], Answer]:
    def answer(path: str) -> Answer:
        raise error

    return answer


def text(answer: Answer) -> str:
    return answer.text


WELL = Answer(200, "well", {})


def test_pauses_grow_to_a_minute_and_end_with_the_patience():
    clock = Clock()
    with pytest.raises(GivenUp, match=r"HTTP 500; no request was answered for \d+ s.*900"):
        calls(clock, raises(failing(500))).get("x", text, clock)
    pauses = [pause for pause in clock.waits if pause]
    assert all(0.75 * 2**n <= pause <= 1.25 * 2**n for n, pause in enumerate(pauses[:6]))
    assert all(45 <= pause <= 75 for pause in pauses[6:])
    assert 800 <= clock.now <= 901
    assert len(pauses) > 12


def test_retry_after_is_kept_also_by_other_requests():
    clock, other = Clock(), Clock()

    class Pausing(Clock):
        """While the first request pauses, another thread begins a second one."""

        def wait(self, timeout: float | None = None) -> bool:
            if timeout == 40:
                busy.get("second", text, other)
            return super().wait(timeout)

    first = iter([failing(429, 40.0)])

    def answer(path: str) -> Answer:
        found = next(first, None)
        if found is not None:
            raise found
        return WELL

    busy = calls(clock, answer)
    pausing = Pausing()
    assert busy.get("first", text, pausing) == "well"
    assert 40 in pausing.waits
    assert max(other.waits) == pytest.approx(40)


def test_a_server_that_asks_for_no_pause_gets_growing_pauses():
    clock = Clock()
    with pytest.raises(GivenUp, match="retry_seconds"):
        calls(clock, raises(failing(429, 0.0)), retry_seconds=60.0).get("x", text, clock)
    pauses = [pause for pause in clock.waits if pause]
    assert 4 <= len(pauses) <= 12, "each of four to six pauses is waited for, and held"
    assert pauses[0] >= 0.75
    assert max(pauses) >= 6


def test_a_request_that_fails_while_others_are_answered_is_given_up():
    clock = Clock()

    def answer(path: str) -> Answer:
        if path == "poison":
            threads.get("fine", text, clock)
            raise failing(500)
        return WELL

    threads = calls(clock, answer)
    with pytest.raises(GivenUp, match="failed 6 times while others were answered"):
        threads.get("poison", text, clock)
    assert clock.now < 120


def test_a_busy_server_is_waited_for_as_long_as_it_answers_others():
    clock = Clock()
    left = iter(range(40))

    def answer(path: str) -> Answer:
        if path == "mine" and next(left, None) is not None:
            threads.get("fine", text, clock)
            raise failing(429)
        return WELL

    threads = calls(clock, answer)
    assert threads.get("mine", text, clock) == "well"
    assert clock.now > 1000, "longer than the patience with a silent server"


def test_a_refusal_is_not_asked_again_and_shows_that_the_server_works():
    clock = Clock()
    asked: list[str] = []

    def answer(path: str) -> Answer:
        asked.append(path)
        raise ServerError("refused", "no", status=400)

    with pytest.raises(ServerError, match="no"):
        calls(clock, answer).get("x", text, clock)
    assert asked == ["x"]


def test_requests_keep_their_distance():
    clock = Clock()
    slow = calls(clock, lambda path: WELL, requests_per_minute=6)
    for _ in range(4):
        slow.get("x", text, clock)
    assert clock.now == pytest.approx(31)


def test_a_stop_ends_the_waiting():
    clock = Clock()

    def answer(path: str) -> Answer:
        clock.set()
        raise failing(503)

    with pytest.raises(Stopped):
        calls(clock, answer).get("x", text, clock)


def test_one_line_in_a_while_says_what_fails():
    clock = Clock()
    said: list[str] = []
    with pytest.raises(GivenUp):
        calls(clock, raises(failing(503)), say=said.append).get("x", text, clock)
    assert "HTTP 503; trying again in" in said[0]
    assert len(said) < len([pause for pause in clock.waits if pause])
