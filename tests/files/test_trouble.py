"""Which troubles of a file system pass, and how long they are waited for."""

from __future__ import annotations

import errno
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed, UserError
from agenttts.files.trouble import (
    PASSING,
    FilePatience,
    FilesUnavailable,
    is_outside_trouble,
    passing_trouble,
)


def wrapped(number: int, kinds: list[type[AgentTTSError]], keep: bool) -> AgentTTSError | OSError:
    """An error of the operating system, and what callers made of it one after the other."""
    error: AgentTTSError | OSError = OSError(number, "it says", "/a/file")
    for kind in kinds:
        try:
            try:
                raise error
            except (AgentTTSError, OSError) as inner:
                made = kind("told", fix="f") if kind is MissingRequirement else kind("told")
                raise made from (inner if keep else None)
        except AgentTTSError as outer:
            error = outer
    return error


@given(
    st.sampled_from(sorted(errno.errorcode)),
    st.lists(st.sampled_from([MissingRequirement, RunFailed, UserError]), max_size=3),
    st.booleans(),
)
def test_a_trouble_is_known_whatever_was_made_of_it(number, kinds, keep):
    error = wrapped(number, kinds, keep)
    found = passing_trouble(error)
    assert (found is not None) == (number in PASSING)
    assert found is None or found.errno == number


@pytest.mark.parametrize("name", ["ESTALE", "EIO", "ENOTCONN", "EACCES", "ENOSPC", "EDQUOT", "ETIMEDOUT", "ESHUTDOWN"])  # fmt: skip
def test_what_a_file_server_says_while_it_fails_over_passes(name):
    assert getattr(errno, name) in PASSING


@pytest.mark.parametrize(("number", "outside"), [(108, True), (12, False), (2, False)])
def test_what_polars_says_is_known_by_its_text(number, outside):
    error = OSError(f"it says (os error {number}): /a/file.parquet")
    assert (passing_trouble(error) is not None) == (number in PASSING)
    assert is_outside_trouble(error) == outside


@pytest.mark.parametrize("name", ["ENOENT", "ENOTDIR", "ENAMETOOLONG", "EINVAL", "EISDIR"])
def test_what_no_waiting_helps_does_not(name):
    assert getattr(errno, name) not in PASSING


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_trouble_is_said_once_and_so_is_its_end(caplog):
    clock = Clock()
    patience = FilePatience("run r", "resume it", 100, clock)
    with caplog.at_level(logging.WARNING):
        for clock.now in range(0, 99, 3):
            patience.failed(OSError(errno.EIO, "Input/output error", f"/file{clock.now}"))
        patience.passed()
        patience.passed()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said
    assert "run r is paused by a file system error: /file0: Input/output error" in said[0]
    assert "works again after 96 s" in said[1]


def test_patience_ends_and_is_new_for_another_trouble():
    clock = Clock()
    patience = FilePatience("run r", "resume it", 5000, clock)
    full = OSError(errno.ENOSPC, "No space left on device", "/disk")
    for clock.now in (0, 2000, 4000):
        patience.failed(full)
    patience.passed()
    for clock.now in (4500, 6000, 9000):
        patience.failed(full)
    clock.now = 15000  # so much later: not the same one
    patience.failed(full)
    clock.now = 17000
    patience.failed(full)
    clock.now = 20001
    with pytest.raises(FilesUnavailable, match="run r cannot continue because of a file system error: /disk: No space left on device. Fix: resume it") as caught:  # fmt: skip
        patience.failed(full)
    with pytest.raises(FilesUnavailable):
        patience.failed(caught.value)


def test_any_other_error_is_raised():
    with pytest.raises(UserError, match="wrong"):
        FilePatience("run r", "resume it").failed(UserError("wrong"))
    with pytest.raises(FileNotFoundError):
        FilePatience("run r", "resume it").failed(FileNotFoundError(errno.ENOENT, "gone"))
