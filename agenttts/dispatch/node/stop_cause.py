"""Why Slurm sent a job its warning signal: its time is nearly up, or another job takes its place.

Both come as the same SIGUSR2. In order of trust: the time at which slurmctld says that the job was
preempted; the end of the job as slurmctld has it now (which an administrator may have moved); the
end as it was when the job started (SLURM_JOB_END_TIME, Slurm 23.02 and later); the time that has
passed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from agenttts.files.commands import ask

# slurmctld looks at limits about every 30 s, and sbatch(1) says that a signal may come up to 60 s
# early.
_EARLY_S = 60.0
_NO_TIME = {"", "None", "N/A", "Unknown", "NONE", "(null)"}
_FIELD = re.compile(r"(\w+)=(\S*)")


def stop_cause(
    job: Mapping[str, str],
    env: Mapping[str, str],
    *,
    now: float,
    elapsed: float,
    limit_seconds: float,
    grace_seconds: float,
) -> Literal["preemption", "time limit"]:
    """Why the signal came.

    Args:
        job: What ``scontrol show job`` says of the job (`show_job`); empty where it does not
            answer.
        env: The job's environment.
        now: Seconds since 1970.
        elapsed: Seconds since the attempt began.
        limit_seconds: The job's time limit, as it was asked for.
        grace_seconds: How long before the limit the signal is asked for.
    """
    if job.get("PreemptTime", "") not in _NO_TIME:
        return "preemption"
    end = _moment(job.get("EndTime", "")) or _seconds(env.get("SLURM_JOB_END_TIME", ""))
    left = limit_seconds - elapsed if end is None else end - now
    return "time limit" if left <= grace_seconds + _EARLY_S else "preemption"


def show_job(job_id: str, timeout: float) -> dict[str, str]:
    """The fields of ``scontrol show job``; empty when it does not answer in time."""
    command = ["scontrol", "--oneliner", "show", "job", job_id]
    answer = ask(command, timeout, {**os.environ, "SLURM_TIME_FORMAT": "standard"})
    if not answer.succeeded:
        return {}
    # The first value of a name: a comment of the user's may hold anything, and comes later.
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(answer.text.partition("\n")[0]):
        fields.setdefault(name, value)
    return fields


def _moment(text: str) -> float | None:
    """A time as Slurm writes it (local, ISO 8601) in seconds since 1970."""
    if text in _NO_TIME:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
