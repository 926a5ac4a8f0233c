"""Profiles whose jobs evaluate several trials, and the programs of such jobs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from agenttts.files.processes import command_line
from tests.support.processes import pids
from tests.support.waiting import until

SLOW = {"seconds_per_sample": 0.004}


def profile(folder: Path, kind: str, trials_per_job: int, **more: object) -> str:
    values = {
        "kind": kind, "max_running": 2, "gpus_per_node": 0, "poll_seconds": 0.1,
        "retry_pauses": [0], "trials_per_job": trials_per_job, **more,
    }  # fmt: skip
    path = folder / f"{kind}-{trials_per_job}.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    return str(path)


def one_worker(folder: Path) -> str:
    """A profile whose trials all go to one program: the cheapest run with processes of its own."""
    return profile(folder, "local", 100, max_running=1, linger_seconds=60)


def trial_programs(run: Path) -> list[int]:
    """The processes of the run's programs that evaluate several trials."""
    wanted = os.fsencode(run / "workers")
    return [
        pid
        for pid in pids()
        if b"agenttts.trial" in command_line(pid) and wanted in command_line(pid)
    ]


def kill_trial_programs(run: Path) -> None:
    """Send SIGKILL to the run's programs of several trials, once a sample is stored."""
    until(lambda: trial_programs(run), "a program of several trials")
    samples = run / "samples"
    until(lambda: samples.is_dir() and any(samples.glob("*.parquet")), "a stored sample")
    for pid in trial_programs(run):
        os.kill(pid, signal.SIGKILL)
