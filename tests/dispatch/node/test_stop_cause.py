"""A warning signal: preemption or the time limit."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.node.stop_cause import show_job, stop_cause

NOW = 1_800_000_000.0


def at(seconds: float) -> str:
    """A local time as Slurm writes it."""
    return datetime.fromtimestamp(NOW + seconds).isoformat(timespec="seconds")


HOUR = 3600.0


@pytest.mark.parametrize(
    ("job", "env", "elapsed", "cause"),
    [
        # slurmctld says so, even if the end happens to be near, as it is once a job is preempted.
        ({"PreemptTime": at(-1), "EndTime": at(29)}, {}, HOUR / 2, "preemption"),
        ({"PreemptTime": "None", "EndTime": at(59)}, {}, 0.0, "time limit"),
        ({"PreemptTime": "None", "EndTime": at(HOUR)}, {}, HOUR - 30, "preemption"),  # the limit was raised
        ({"EndTime": at(100)}, {}, 0.0, "time limit"),
        ({"EndTime": "Unknown"}, {"SLURM_JOB_END_TIME": str(int(NOW + 30))}, 0.0, "time limit"),
        # No answer from slurmctld.
        ({}, {"SLURM_JOB_END_TIME": str(int(NOW + 30))}, 0.0, "time limit"),
        ({}, {"SLURM_JOB_END_TIME": str(int(NOW + 3000))}, HOUR, "preemption"),
        ({}, {"SLURM_JOB_END_TIME": "soon"}, HOUR - 30, "time limit"),
        ({}, {}, HOUR - 30, "time limit"),
        ({}, {}, HOUR / 2, "preemption"),
        ({"PreemptTime": "garbled", "EndTime": "2026"}, {}, 0.0, "preemption"),
    ],
)  # fmt: skip
def test_the_cause_by_what_slurm_says(job, env, elapsed, cause):
    assert stop_cause(job, env, now=NOW, elapsed=elapsed, limit_seconds=HOUR, grace_seconds=60) == cause  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(["PreemptTime", "EndTime"]), st.text(max_size=30)),
    st.dictionaries(st.just("SLURM_JOB_END_TIME"), st.text(max_size=30)),
)
def test_there_is_always_a_cause(job, env):
    found = stop_cause(job, env, now=NOW, elapsed=5.0, limit_seconds=HOUR, grace_seconds=60)
    assert found in ("preemption", "time limit")


SCONTROL = """#!/bin/sh
[ -e "$0.slow" ] && exec sleep 60
echo "JobId=7 JobName=i0t1-run TimeLimit=00:10:00 EndTime=2026-01-01T00:00:00 PreemptTime=None Comment=a EndTime=b"
"""


def test_what_scontrol_says_is_read_in_time(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = show_job("7", timeout=10)
    assert (found["EndTime"], found["PreemptTime"]) == ("2026-01-01T00:00:00", "None")
    (tmp_path / "scontrol.slow").touch()
    started = time.monotonic()
    assert show_job("7", timeout=0.5) == {}
    assert time.monotonic() - started < 10
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "scontrol.slow").unlink()
    assert show_job("7", timeout=10) == {}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert show_job("7", timeout=10) == {}
