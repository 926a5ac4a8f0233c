"""Slurm's commands: how they are run, and what their failures mean."""

from __future__ import annotations

import os
import re
import shutil
import signal

from agenttts.dispatch.base import QueueUnavailable
from agenttts.errors import MissingRequirement
from agenttts.files.commands import Answer, ask

_TIMEOUT_S = 60
# Slurm sends signals to all processes of a job at the job's end, near its time limit and at a
# preemption. In the controller's job, a signal also ends a command that the controller has just
# started.
_ENDED_WITH_THE_JOB = {-number for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
_SIGNALS_TO_A_JOB = 4
# What scontrol says of a job that has started or ended in the meantime (slurm_errno.c).
_NOT_WAITING = re.compile(
    r"no longer pending|already (completing|completed|finished)|invalid job id|not pending",
    re.IGNORECASE,
)
# Environment variables of the user that change the answers of Slurm's commands (SQUEUE_PARTITION,
# SCANCEL_INTERACTIVE) or send a command to another cluster.
_BENT = re.compile(
    r"(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_|SLURM_(CLUSTERS|TIME_FORMAT|BITSTR_LEN|JOB_USER)$"
)


def run_slurm(command: list[str]) -> str:
    """Run a Slurm command and return its standard output.

    Raises:
        MissingRequirement: The command is absent.
        QueueUnavailable: The command fails or does not answer.
    """
    return output_of(command).decode(errors="replace")


def query_environment() -> dict[str, str]:
    """Return the environment without the variables that change Slurm's commands.

    ``SLURM_BITSTR_LEN=0`` is set, because sacct otherwise cuts a list of an array's elements after
    64 characters (sacct(1)).
    """
    kept = {name: value for name, value in os.environ.items() if not _BENT.match(name)}
    return {**kept, "SLURM_BITSTR_LEN": "0"}


def problems_of(answer: Answer) -> list[str]:
    """Return the error messages of a failed command.

    Messages about jobs that have started or ended in the meantime are left out.
    """
    if answer.problem is not None:
        return [answer.problem]
    if answer.succeeded:
        return []
    lines = answer.errors.decode(errors="replace").splitlines() or [answer.failure() or ""]
    return [line.strip() for line in lines if line.strip() and not _NOT_WAITING.search(line)]


def check_present(command: list[str]) -> None:
    """Check that a command is on PATH.

    Raises:
        MissingRequirement: It is not.
    """
    if shutil.which(command[0]) is None:
        raise MissingRequirement(
            f"{command[0]} is not on PATH on this machine, so the profile's cluster cannot "
            "be reached",
            fix="run on a login node of the cluster, or choose another profile (--cluster local)",
        )


def output_of(command: list[str]) -> bytes:
    """Return the standard output of a Slurm command as bytes; see `run_slurm`."""
    check_present(command)
    answer = ask_slurm(command)
    if not answer.succeeded:
        raise QueueUnavailable(
            f"'{' '.join(command)}' {answer.failure()}",
            fix=(
                "check that slurmctld answers ('scontrol ping') and that the profile's options "
                "are valid on this cluster"
            ),
        )
    return answer.output


def ask_slurm(command: list[str]) -> Answer:
    """Return a command's answer.

    If a signal to this process's job ended the command, the command is run again, a few times. A
    repeated command has the same effect.
    """
    answer = ask(command, _TIMEOUT_S, query_environment())
    for _ in range(_SIGNALS_TO_A_JOB):
        if answer.exit_code not in _ENDED_WITH_THE_JOB:
            break
        answer = ask(command, _TIMEOUT_S, query_environment())
    return answer
