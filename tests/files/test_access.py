"""Whether something can be written into a directory."""

from __future__ import annotations

import errno

import pytest

from agenttts.files.access import check_room
from tests.support.full_disk import full_disk


def test_room_is_looked_for_and_nothing_is_left(tmp_path):
    check_room(tmp_path, 100_000)
    with full_disk(1000):
        check_room(tmp_path, 1000)
        with pytest.raises(OSError, match="File too large") as caught:
            check_room(tmp_path, 1001)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_room(tmp_path / "none", 1)
