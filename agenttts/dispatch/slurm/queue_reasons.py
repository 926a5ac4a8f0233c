"""Why a job waits, in sentences, and whether waiting helps.

Source: squeue(1), "JOB REASON CODES", and job_reason_codes.html of Slurm 22.05 to 25.05 for the
codes themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Waiting(StrEnum):
    """What a reason to wait says.

    ``OURS``: the project asked for it. ``WAIT``: it passes by itself, or by what others do.
    ``NEVER``: the job starts only when somebody does something about it.
    """

    OURS = "ours"
    WAIT = "wait"
    NEVER = "never"


@dataclass(frozen=True)
class Reason:
    """A reason in words, and the command that helps if there is one."""

    waiting: Waiting
    sentence: str
    fix: str = ""

    def told(self, code: str, job_id: str) -> str:
        """Return the sentence about one job, with Slurm's own code."""
        fix = f"; {self.fix.replace('JOB', job_id)}" if self.fix else ""
        return f"{code}: {self.sentence}{fix}"


_LIMITS = "'sacctmgr show qos' and 'sacctmgr show assoc' list the limits"
_LOWER = f"ask for less in the profile ({_LIMITS})"
_NODES = "'sinfo -R' says why nodes are out of service"

_TABLE: dict[str, Reason] = {
    # Reasons that the project causes.
    "JobArrayTaskLimit": Reason(
        Waiting.OURS, "as many trials run as the profile's max_running lets run"
    ),
    "Dependency": Reason(
        Waiting.OURS, "it waits for the job before it, as for an earlier controller of the run"
    ),
    "BeginTime": Reason(Waiting.OURS, "it was requeued and may start again in a moment"),
    "Cleaning": Reason(Waiting.OURS, "it was requeued and its last node is being cleaned up"),
    # Reasons that pass.
    "None": Reason(Waiting.WAIT, "Slurm has not looked at it yet"),
    "Priority": Reason(Waiting.WAIT, "jobs of higher priority are before it"),
    "Resources": Reason(Waiting.WAIT, "no node has free what it asks for"),
    "Licenses": Reason(Waiting.WAIT, "a licence that it asks for is taken"),
    "Reservation": Reason(
        Waiting.WAIT,
        "its reservation has not begun",
        "'scontrol show reservation' says when it does",
    ),
    "ReqNodeNotAvail": Reason(
        Waiting.WAIT,
        "nodes that it could run on are reserved, as for maintenance, or out of service",
        f"{_NODES}, 'scontrol show reservation' until when they are reserved",
    ),
    (
        "Nodes required for job are DOWN DRAINED or reserved for jobs in higher priority partitions"
    ): Reason(
        Waiting.WAIT,
        "the nodes that it could run on are out of service or reserved for others",
        _NODES,
    ),
    "PartitionDown": Reason(
        Waiting.WAIT, "the partition is down", "'sinfo' shows when it is up again"
    ),
    "PartitionInactive": Reason(
        Waiting.WAIT, "the partition is inactive", "'sinfo' shows when it is up again"
    ),
    # Jobs of one node are within every partition's node limits. So what remains is Slurm's other
    # use of this code.
    "PartitionNodeLimit": Reason(
        Waiting.WAIT,
        "the partition's nodes that it could run on are out of service, or it asks for more or "
        "fewer than the partition gives",
        f"{_NODES}; another partition in the profile may do",
    ),
    "NodeDown": Reason(Waiting.WAIT, "a node that it needs is down", _NODES),
    "FrontEndDown": Reason(Waiting.WAIT, "no front end node is up"),
    "Prolog": Reason(Waiting.WAIT, "its node is being prepared"),
    "PowerNotAvail": Reason(Waiting.WAIT, "the cluster has no power to spare"),
    "PowerReserved": Reason(Waiting.WAIT, "the power that it needs is reserved"),
    "BurstBufferResources": Reason(Waiting.WAIT, "the burst buffer is full"),
    "SchedDefer": Reason(Waiting.WAIT, "the cluster starts no job at once when it is submitted"),
    "MpiPortsBusy": Reason(Waiting.WAIT, "the ports that it needs are taken"),
    "Constraints": Reason(Waiting.WAIT, "no node with the features that it asks for is free"),
    "BurstBufferStageIn": Reason(Waiting.WAIT, "the burst buffer is being filled"),
    "FedJobLock": Reason(Waiting.WAIT, "another cluster of the federation is starting it"),
    "AssociationJobLimit": Reason(
        Waiting.WAIT, "your account runs as many jobs as it may", _LIMITS
    ),
    "AssociationResourceLimit": Reason(
        Waiting.WAIT, "your account holds as much as it may", _LIMITS
    ),
    "QOSJobLimit": Reason(Waiting.WAIT, "the QOS runs as many jobs as it may", _LIMITS),
    "QOSResourceLimit": Reason(Waiting.WAIT, "the QOS holds as much as it may", _LIMITS),
    "QOSUsageThreshold": Reason(
        Waiting.WAIT,
        "the account has used too much for this QOS",
        "'sshare' shows its usage; another qos in the profile may do",
    ),
    # Reasons that somebody must remove.
    "JobHeldUser": Reason(Waiting.NEVER, "it is held by you", "'scontrol release JOB' lets it run"),
    "JobHeldAdmin": Reason(
        Waiting.NEVER, "it is held by an administrator", "only an administrator can release it"
    ),
    "launch failed requeued held": Reason(
        Waiting.NEVER,
        "it could not be launched on its node, was requeued and is held",
        "'scontrol release JOB' lets it try again; if it fails again, "
        "the node's administrators should look at it",
    ),
    "JobHoldMaxRequeue": Reason(
        Waiting.NEVER,
        "it was requeued as often as the cluster allows and is held",
        "'scontrol release JOB' lets it try again",
    ),
    "job requeued in held state": Reason(
        Waiting.NEVER, "it was requeued and is held", "'scontrol release JOB' lets it run"
    ),
    # States that squeue shows instead of PENDING.
    "SPECIAL_EXIT": Reason(
        Waiting.NEVER,
        "it was requeued for a special exit and is held",
        "'scontrol release JOB' lets it run",
    ),
    "REQUEUE_HOLD": Reason(
        Waiting.NEVER, "it was requeued and is held", "'scontrol release JOB' lets it run"
    ),
    "RESV_DEL_HOLD": Reason(
        Waiting.NEVER,
        "its reservation was deleted and it is held",
        "correct reservation in the profile",
    ),
    "DependencyNeverSatisfied": Reason(
        Waiting.NEVER, "what it depends on cannot happen any more", "'scancel JOB' removes it"
    ),
    "PartitionTimeLimit": Reason(
        Waiting.NEVER,
        "its time limit is above the partition's",
        "lower time in the profile ('sinfo -o \"%P %l\"' lists the partitions' limits) "
        "or choose another partition",
    ),
    "PartitionMaxNodes": Reason(
        Waiting.NEVER,
        "it asks for more nodes than the partition gives",
        "choose another partition in the profile",
    ),
    "PartitionMinNodes": Reason(
        Waiting.NEVER,
        "the partition gives whole groups of nodes only",
        "choose another partition in the profile",
    ),
    "PartitionConfig": Reason(
        Waiting.NEVER,
        "its request does not fit the partition",
        "choose another partition in the profile ('scontrol show partition' lists what each gives)",
    ),
    "DeadLine": Reason(
        Waiting.NEVER,
        "it cannot end before its deadline",
        "correct deadline under sbatch in the profile",
    ),
    "BurstBufferOperation": Reason(
        Waiting.NEVER,
        "an operation of its burst buffer failed, and it is held",
        "'scontrol release JOB' lets it try again",
    ),
    "BadConstraints": Reason(
        Waiting.NEVER,
        "no node has the features that it asks for",
        "correct constraint in the profile ('sinfo -o \"%N %f %G\"' lists the nodes' features)",
    ),
    "ReservationDeleted": Reason(
        Waiting.NEVER, "its reservation is gone", "correct reservation in the profile"
    ),
    "InvalidAccount": Reason(
        Waiting.NEVER, "its account is not valid", "correct account in the profile"
    ),
    "InvalidQOS": Reason(Waiting.NEVER, "its QOS is not valid", "correct qos in the profile"),
    "AccountNotAllowed": Reason(
        Waiting.NEVER,
        "its account may not use the partition",
        "correct account or partition in the profile",
    ),
    "QOSNotAllowed": Reason(
        Waiting.NEVER, "its QOS may not be used here", "correct qos or partition in the profile"
    ),
    "QOSTimeLimit": Reason(
        Waiting.NEVER, "its time limit is above the QOS's", f"lower time in the profile ({_LIMITS})"
    ),
    "AssociationTimeLimit": Reason(
        Waiting.NEVER,
        "its time limit is above your account's",
        f"lower time in the profile ({_LIMITS})",
    ),
    "MaxMemPerLimit": Reason(
        Waiting.NEVER, "it asks for more memory than the cluster gives", "lower mem in the profile"
    ),
    "InactiveLimit": Reason(
        Waiting.NEVER, "the cluster's limit for inactive jobs has been reached"
    ),
    "SystemFailure": Reason(
        Waiting.NEVER,
        "Slurm itself or a file system failed",
        "the cluster's administrators should look at it",
    ),
    "JobLaunchFailure": Reason(
        Waiting.NEVER, "it could not be launched", "'scontrol release JOB' lets it try again"
    ),
}
# Families of limits; the first that fits counts. Waiting does not help against a limit on one job
# (Per Job, Per Node, Min). It helps against a limit on all jobs together.
_FAMILIES: list[tuple[re.Pattern[str], Reason]] = [
    (re.compile(pattern), reason)
    for pattern, reason in [
        (
            r"(QOS|Assoc)Max\w*(WallDuration|Minutes)PerJob(Limit)?",
            Reason(
                Waiting.NEVER,
                "it asks for more time than one job may have",
                f"lower time in the profile ({_LIMITS})",
            ),
        ),
        (
            r"(QOS|Assoc)Max\w*Per(Job|Node)(Limit)?",
            Reason(Waiting.NEVER, "it asks for more than one job may have", _LOWER),
        ),
        (
            r"QOSMin\w+",
            Reason(
                Waiting.NEVER,
                "it asks for less than a job of this QOS must",
                f"ask for more in the profile, or choose another qos ({_LIMITS})",
            ),
        ),
        (
            r"Max\w*PerAccount(Limit)?",
            Reason(
                Waiting.WAIT,
                "jobs of your account hold as much as they may",
                "it starts when others of these jobs have ended, if it alone is not above the "
                f"limit ({_LIMITS})",
            ),
        ),
        (
            r"(QOS|Assoc)\w*Submit\w*",
            Reason(Waiting.WAIT, "as many jobs are submitted as may be", _LIMITS),
        ),
        (
            r"(QOS|Assoc)Grp\w*RunMinutes\w*",
            Reason(
                Waiting.WAIT,
                "the jobs that run take as much of the account's time as they may",
                _LIMITS,
            ),
        ),
        (
            r"(QOS|Assoc)Grp(\w*Minutes\w*|WallLimit)",
            Reason(
                Waiting.WAIT,
                "the time that the account or QOS was granted is used up",
                f"ask for more, or name another account in the profile ({_LIMITS})",
            ),
        ),
        (
            r"(QOS|Assoc)(Grp|Max)\w+",
            Reason(
                Waiting.WAIT,
                "you, your account or the QOS hold as much as they may",
                "it starts when others of these jobs have ended, if it alone is not above the "
                f"limit ({_LIMITS})",
            ),
        ),
    ]
]
_ALLOWED = (
    "('scontrol show partition' lists whom each allows, 'sacctmgr show assoc user=$USER' what you "
    "have)"
)
# Texts that Slurm and sites write in place of a code (slurmctld's state_desc); the first that fits
# counts.
_PHRASES: list[tuple[re.Pattern[str], Reason]] = [
    (re.compile(pattern), reason)
    for pattern, reason in [
        (
            r"account not (permitted|allowed)",
            Reason(
                Waiting.NEVER,
                "its account may not use the partition",
                f"correct account or partition in the profile {_ALLOWED}",
            ),
        ),
        (
            r"qos not (permitted|allowed)",
            Reason(
                Waiting.NEVER,
                "its QOS may not be used in the partition",
                f"correct qos or partition in the profile {_ALLOWED}",
            ),
        ),
        (
            r"env(ironment)? retrieval failed",
            Reason(
                Waiting.NEVER,
                "your environment could not be read on its node, it was requeued and is held",
                "'scontrol release JOB' lets it try again; remove get-user-env from sbatch in "
                "the profile if it is there",
            ),
        ),
        (
            r"not (permitted|allowed)",
            Reason(
                Waiting.NEVER,
                "it asks for what it may not have",
                f"correct partition, account, qos or reservation in the profile {_ALLOWED}",
            ),
        ),
        (
            r"\bheld\b",
            Reason(
                Waiting.NEVER,
                "it is held",
                "'scontrol release JOB' lets it run; if that is refused, only an administrator can",
            ),
        ),
    ]
]
# Why a job ended, where this says more than its state.
_ENDS: dict[str, str] = {
    "None": "",
    "NonZeroExitCode": "",
    "TimeLimit": "it reached its time limit (raise time in the profile)",
    "OutOfMemory": "it used more memory than it asked for (raise mem or mem_per_gpu in the "
    "profile)",
    "NodeDown": "its node went down",
    "SystemFailure": "Slurm itself or a file system failed",
    "JobLaunchFailure": (
        "its node could not launch it, or its shell was killed; a node that cannot open the job's "
        "log reads the same: the results directory must be on a file system that the nodes share"
    ),
    "InactiveLimit": "it reached the cluster's limit for inactive jobs",
}


def waiting_for(code: str) -> Reason:
    """Return what a pending job's reason says.

    An unknown reason counts as one that passes, unless it says that the job is held or asks for
    what it may not have.
    """
    return _known(code) or Reason(Waiting.WAIT, "")


def wait_sentence(code: str, job_id: str) -> str:
    """Return why a job waits as a sentence; Slurm's code if nothing more is known."""
    reason = waiting_for(code)
    return reason.told(code, job_id) if reason.sentence else code


def end_sentence(code: str, job_id: str) -> str:
    """Return why a job ended as a sentence; '' if its state says as much."""
    if code in _ENDS:
        return _ENDS[code]
    if _known(code) is not None:
        # A cancelled job keeps the reason for which it waited.
        return f"it never started: {wait_sentence(code, job_id)}"
    return code


def _known(code: str) -> Reason | None:
    key = _key(code)
    if key in _BY_KEY:
        return _BY_KEY[key]
    name = re.split(r"[,(:]", code.strip("() "))[0]
    found = next((reason for pattern, reason in _FAMILIES if pattern.fullmatch(name)), None)
    if found is not None:
        return found
    words = _words(code)
    return next((reason for pattern, reason in _PHRASES if pattern.search(words)), None)


def _key(code: str) -> str:
    """Return a reason's code in a form that is the same for all its spellings.

    Slurm writes the same reason as one word, as several words, in parentheses, or with names of
    nodes after it.
    """
    text = code.strip("() ")
    if not text.startswith("Nodes required"):
        text = re.split(r"[,(]", text)[0]
    return re.sub(r"[^a-z]", "", text.lower())


def _words(code: str) -> str:
    """Return a reason in lower case with its words separated.

    For example, ``JobHeldBy_site`` becomes ``job held by site``.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", code)
    return " ".join(re.findall(r"[a-z0-9]+", apart.lower()))


_BY_KEY = {_key(code): reason for code, reason in _TABLE.items()}
