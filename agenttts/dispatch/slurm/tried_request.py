"""Whether Slurm accepts a request, by ``sbatch --test-only``.

Nothing is submitted.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.check import COMMAND_SECONDS, Check
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.cluster_nodes import nodes_besides
from agenttts.dispatch.slurm.partitions import above_time_limit, why_refused
from agenttts.dispatch.slurm.request import JobNeeds, sbatch_options
from agenttts.dispatch.slurm.sbatch_options import flag_line
from agenttts.dispatch.slurm.submission import SUBMIT_LIMIT, login_environment, refusal
from agenttts.errors import MissingRequirement, counted
from agenttts.files.commands import ask


def request_words(profile: Profile, resources: JobResources, gpus: int) -> tuple[str, ...]:
    """Return the options of sbatch for a section's job, as words of a command line.

    Raises:
        MissingRequirement: The cluster lacks nodes that the section names.
        QueueUnavailable: Slurm does not answer which nodes it has.
    """
    needs = JobNeeds("doctor", "agenttts doctor", gpus, profile.grace_seconds)
    options = sbatch_options(resources, needs, nodes_besides(resources, all_known=True))
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
    label, asked = f"{what} request", _gpus(gpus)
    try:
        words = request_words(profile, resources, gpus)
    except MissingRequirement as error:
        return Check(label, False, f"{what}: {error.what}", error.fix)
    problem = command_problem(sbatch_test(words))
    if problem is None:
        return Check(label, True, f"sbatch accepts it ({asked})")
    if _passes(problem, resources):
        return Check(label, None, f"jobs would wait at present ({asked}): {problem}")
    fix = _fix(what, resources, gpus)
    return Check(label, False, f"sbatch refuses it ({asked}): {problem}", fix)


def check_accepted(what: str, profile: Profile, resources: JobResources, gpus: int) -> None:
    """Check that Slurm would accept a job, before anything is submitted.

    A refusal that may pass is no error: the run waits until it has passed. Neither is a Slurm that
    does not answer, which the submission itself reports.

    Args:
        what: As in `request_check`.
        profile: As in `request_check`.
        resources: As in `request_check`.
        gpus: As in `request_check`.

    Raises:
        MissingRequirement: Slurm refuses it.
    """
    try:
        command = sbatch_test(request_words(profile, resources, gpus))
    except QueueUnavailable:
        return
    except MissingRequirement as error:
        raise MissingRequirement(f"{what}: {error.what}", fix=error.fix) from None
    answer = ask(command, COMMAND_SECONDS, login_environment())
    if answer.problem is not None or (answer.exit_code or 0) < 0:  # or a signal ended it
        return
    if answer.succeeded:
        # Many clusters take a job whose time is above the partition's limit, and never start it.
        found = above_time_limit(what, resources)
    else:
        said = answer.quoted()
        # A limit that a group shares may be used up by others, whose jobs are not seen.
        if isinstance(refusal(said), QueueUnavailable) or SUBMIT_LIMIT.search(said):
            return
        if _passes(said, resources):
            return
        found = why_refused(what, resources)
    if found is not None:
        raise MissingRequirement(f"{found.what}: {found.detail}", fix=found.fix or "")
    if answer.succeeded:
        return
    raise MissingRequirement(
        f"Slurm refuses the request of the {what} job ({_gpus(gpus)}; 'sbatch --test-only'): "
        f"{said}",
        fix=f"{_fix(what, resources, gpus)}, then give this command again",
    )


# The nodes are busy or out of service at the time of the test (slurm_errno.c, Slurm 22.05 to
# 25.05). sbatch accepts such a job, and it waits.
_NOT_NOW = re.compile(
    r"nodes are busy|required node not available"
    r"|configuration not available now"
    r"|down,? drained or reserved|reservation.*not (usable|active)",
    re.IGNORECASE,
)
# No node has what is requested. A test leaves out nodes that are out of service, so it may be one
# of them that has it.
_NO_SUCH_NODE = re.compile(r"node configuration is not available", re.IGNORECASE)
# The answer of a test whose reservation has not begun (Slurm 22.05). sbatch accepts the job.
_LATER = re.compile(r"invalid time specified", re.IGNORECASE)


def _passes(said: str, resources: JobResources) -> bool:
    """Return whether sbatch accepts a job of which a test says this, so that it waits."""
    if _NOT_NOW.search(said) or (resources.reservation and _LATER.search(said)):
        return True
    return bool(_NO_SUCH_NODE.search(said)) and _nodes_are_out(resources)


def _nodes_are_out(resources: JobResources) -> bool:
    """Return whether nodes of the section's partition are out of service."""
    states = "down,drain,fail,maint,no_respond"
    partition = ["-p", resources.partition] if resources.partition else []
    command = ["sinfo", "--noheader", "-N", "-o", "%N", "-t", states, *partition]
    answer = ask(command, COMMAND_SECONDS, login_environment())
    return answer.succeeded and bool(answer.text.strip())


def _gpus(gpus: int) -> str:
    return counted(gpus, "GPU")


def _fix(what: str, resources: JobResources, gpus: int) -> str:
    gpu_fix = (
        ", gpus_per_node (a trial's GPUs at most), gpu_request (none if sinfo shows no GPUs) "
        "or gpu_type"
        if gpus
        else ""
    )
    places = ("constraint", "reservation", "exclude", "nodelist")
    given = "".join(f", {key}" for key in places if getattr(resources, key) is not None)
    return (
        f"correct {what}'s partition, account, qos, time, mem or cpus{gpu_fix}{given} "
        "in the profile ('sinfo -o \"%P %l %c %m %G\"' and 'sacctmgr show assoc' list the valid "
        "ones)"
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
    return ask(command, COMMAND_SECONDS, login_environment()).failure()
