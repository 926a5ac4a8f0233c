"""Why Slurm sent a job its warning signal: its time limit or a preemption.

Both come as the same SIGUSR2. The sources, in order of trust:

- the time at which slurmctld says that the job was preempted
- the end of the job in slurmctld now, which an administrator may have moved
- the end as it was when the job started (SLURM_JOB_END_TIME, Slurm 23.02 and later)
- the time that has passed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from agenttts.dispatch.slurm.commands import query_environment
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
    """Return why the signal came.

    Args:
        job: The answer of ``scontrol show job`` (`show_job`); empty if there was none.
        env: The job's environment.
        now: Seconds since 1970.
        elapsed: Seconds since the attempt began.
        limit_seconds: The time limit that the job asked for.
        grace_seconds: How long before the limit the signal was asked for.
    """
    if job.get("PreemptTime", "") not in _NO_TIME:
        return "preemption"
    end = _moment(job.get("EndTime", "")) or _seconds(env.get("SLURM_JOB_END_TIME", ""))
    left = limit_seconds - elapsed if end is None else end - now
    return "time limit" if left <= grace_seconds + _EARLY_S else "preemption"


def show_job(job_id: str, timeout: float) -> dict[str, str]:
    """Return the fields of ``scontrol show job``; empty if it does not answer in time."""
    command = ["scontrol", "--oneliner", "show", "job", job_id]
    answer = ask(command, timeout, {**query_environment(), "SLURM_TIME_FORMAT": "standard"})
    if not answer.succeeded:
        return {}
    # The first value of a name counts: a comment of the user may hold anything, and comes later.
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(answer.text.partition("\n")[0]):
        fields.setdefault(name, value)
    return fields


def _moment(text: str) -> float | None:
    """Return a Slurm time (local, ISO 8601) in seconds since 1970."""
    if text in _NO_TIME:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
