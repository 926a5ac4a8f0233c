"""Which exceptions in a log an error followed from."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.tracebacks import exceptions_behind


def raised(messages: list[str], *, cause: bool) -> str:
    """The traceback that Python prints of errors that follow from each other, the last one
    raised last.
    """
    error: BaseException | None = None
    for message in messages:
        try:
            if error is None:
                raise OSError(message)
            try:
                raise error
            except OSError as before:
                if cause:
                    raise OSError(message) from before
                raise OSError(message)  # noqa: B904
        except OSError as caught:
            error = caught
    assert error is not None
    return "".join(traceback.format_exception(error))


MESSAGES = st.lists(st.from_regex(r"[a-z]{12,20}( [a-z]{1,9})?", fullmatch=True), min_size=1, max_size=4, unique=True)  # fmt: skip


@given(MESSAGES, st.booleans(), st.from_regex(r"(\(pid=\d\) ERROR [0-9:]{8} )?", fullmatch=True))
def test_every_exception_of_a_chain_is_behind_its_last(messages, cause, prefix):
    log = "".join(prefix + line for line in raised(messages, cause=cause).splitlines(True))
    other = raised(["something else entirely"], cause=True)
    found = exceptions_behind(f"it failed: {messages[-1]}", f"{other}INFO going on\n{log}INFO x\n")
    assert found.splitlines() == [f"OSError: {message}" for message in messages]


@given(st.text(), st.text())
def test_any_text_is_read(error, log):
    assert isinstance(exceptions_behind(error, log), str)


@pytest.mark.parametrize("error", ["", "short", "an error of another kind"])
def test_errors_that_no_traceback_ends_in(error):
    assert exceptions_behind(error, raised(["the disk is full of files"], cause=True)) == ""
