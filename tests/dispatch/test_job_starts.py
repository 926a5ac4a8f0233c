"""Records of the starts of a job."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from agenttts.dispatch.job_starts import (
    JOB_STARTS,
    JobStart,
    next_number,
    read_job_starts,
    waited_since,
    write_job_start,
)

MOMENT = "2026-01-02T03:04:05.000+00:00"
LATER = "2026-01-02T03:09:05.000+00:00"
START = JobStart(1, "7_0", "n1", 2, MOMENT, MOMENT, LATER, finished=LATER, attempts=2)


def test_records_are_read_as_written_and_what_cannot_be_read_is_left_out(tmp_path):
    assert (read_job_starts(tmp_path), next_number(tmp_path)) == ([], 1)
    write_job_start(tmp_path, START)
    write_job_start(tmp_path, replace(START, number=2, finished=None))
    folder = tmp_path / JOB_STARTS
    (folder / "03.json").write_text("{")
    (folder / "04.json").write_text(json.dumps({**asdict(START), "started": "2026-01-01"}))
    (folder / "05.json").write_text(json.dumps({**asdict(START), "number": 5, "later": 1}))
    (folder / ".06.json.agenttts-tmp").write_text("{")
    assert read_job_starts(tmp_path) == [
        START, replace(START, number=2, finished=None), replace(START, number=5)
    ]  # fmt: skip
    assert next_number(tmp_path) == 6


def test_a_requeued_job_waited_since_its_last_end():
    assert waited_since([], "7_0", MOMENT) == MOMENT
    assert waited_since([START], "7_0", MOMENT) == LATER
    cut_off = replace(START, finished=None, written=LATER)
    assert waited_since([cut_off], "7_0", MOMENT) == LATER, "as far as that is known"
    assert waited_since([START], "8_0", MOMENT) == MOMENT, "another job for the same trial"
    assert waited_since([START], "8_0", None) is None
