"""What is printed on a full disk."""

from __future__ import annotations

import os
from pathlib import Path

from agenttts.files.lossy_output import lossy
from tests.support.full_disk import full_disk


def test_lines_are_written_at_once_and_lost_on_a_full_disk(tmp_path):
    path = tmp_path / "log.txt"
    with path.open("ab") as log:
        stream = lossy(log.fileno())
        print("é1", file=stream)
        assert path.read_text("utf-8") == "é1\n"
        with full_disk(6):
            print("22222", file=stream, flush=True)
            print("3", file=stream, flush=True)
        print("4\udc80", file=stream)
        stream.close()
        os.fstat(log.fileno())  # it is still open
    assert path.read_text("utf-8") == "é1\n224\\udc80\n"


def test_a_device_that_takes_nothing():
    with Path("/dev/full").open("wb") as full:
        stream = lossy(full.fileno())
        print("x" * 100_000, file=stream, flush=True)
        stream.flush()
