"""Whether Slurm accepts a request, by ``sbatch --test-only``.

Nothing is submitted.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from agenttts.dispatch.check import COMMAND_SECONDS, Check
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.queue import query_environment
from agenttts.dispatch.slurm.request import JobNeeds, sbatch_options
from agenttts.dispatch.slurm.sbatch_options import flag_line
from agenttts.dispatch.slurm.submission import outer_environment
from agenttts.files.commands import ask


def request_words(profile: Profile, resources: JobResources, gpus: int) -> tuple[str, ...]:
    """Return the options of sbatch for a section's job, as words of a command line."""
    needs = JobNeeds("doctor", "agenttts doctor", gpus, profile.grace_seconds)
    options = sbatch_options(resources, needs)
    lines = (flag_line(name, text) for name, text in options.items())
    return tuple(line for line in lines if line is not None)


def request_check(what: str, profile: Profile, resources: JobResources, gpus: int) -> Check:
    """Check whether Slurm would accept a job if it were submitted here.

    Args:
        what: The profile's section, for messages.
        profile: The cluster's profile.
        resources: The section.
        gpus: The job's GPUs.
    """
    label = f"{what} request"
    asked = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
    problem = command_problem(sbatch_test(request_words(profile, resources, gpus)))
    if problem is None:
        return Check(label, True, f"sbatch accepts it ({asked})")
    gpu_fix = ", gpus_per_node (a trial's GPUs at most), gpu_request or gpu_type" if gpus else ""
    return Check(
        label,
        False,
        f"sbatch refuses it ({asked}): {problem}",
        f"correct {what}'s partition, account, qos, mem or cpus{gpu_fix} in the profile ('sinfo "
        "-o \"%P %c %m %G\"' and 'sacctmgr show assoc' list the valid ones)",
    )


def sbatch_test(words: Sequence[str]) -> list[str]:
    """Return the command line that tests a request."""
    return ["sbatch", "--test-only", *words, "--wrap", "true"]


def command_problem(command: Sequence[str]) -> str | None:
    """Return why a Slurm command does not work here; None if it does.

    It runs as from a login shell.
    """
    if shutil.which(command[0]) is None:
        return "is not on PATH"
    with outer_environment():
        return ask(command, COMMAND_SECONDS, query_environment()).failure()
