"""Why a job waits, in sentences, and whether waiting helps.

Source: squeue(1), "JOB REASON CODES", and job_reason_codes.html of Slurm 22.05 to 25.05 for the
codes themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Waiting(StrEnum):
    """Whether a reason to wait passes.

    - ``OURS``: this project caused it, and it passes.
    - ``WAIT``: it passes without help.
    - ``NEVER``: the job starts only if somebody removes the reason.
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
_LOWER = f"lower the request in the profile ({_LIMITS})"
_NODES = "'sinfo -R' shows why nodes are out of service"

_TABLE: dict[str, Reason] = {
    # Reasons that the project causes.
    "JobArrayTaskLimit": Reason(
        Waiting.OURS, "the number of running jobs has reached the profile's max_running"
    ),
    "Dependency": Reason(
        Waiting.OURS, "it waits for another job to end, such as an earlier controller of the run"
    ),
    "BeginTime": Reason(Waiting.OURS, "it was requeued and may start again soon"),
    "Cleaning": Reason(Waiting.OURS, "it was requeued and its last node is being cleaned up"),
    # Reasons that pass.
    "None": Reason(Waiting.WAIT, "Slurm has not considered it yet"),
    "Priority": Reason(Waiting.WAIT, "jobs of higher priority are ahead of it"),
    "Resources": Reason(Waiting.WAIT, "the resources that it requests are not free"),
    "Licenses": Reason(Waiting.WAIT, "a licence that it requests is in use"),
    "Reservation": Reason(
        Waiting.WAIT,
        "its reservation has not begun",
        "'scontrol show reservation' shows when it begins",
    ),
    "ReqNodeNotAvail": Reason(
        Waiting.WAIT,
        "nodes that it could run on are reserved (e.g. for maintenance) or out of service",
        f"{_NODES}, 'scontrol show reservation' shows until when they are reserved",
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
    # Slurm uses this code for two things. Jobs of one node are within nearly every partition's
    # limits on nodes, so it mostly means nodes out of service.
    "PartitionNodeLimit": Reason(
        Waiting.WAIT,
        "the partition's nodes that it could run on are out of service, "
        "or the number of nodes that it requests is outside the partition's limits",
        f"{_NODES}, or choose another partition in the profile",
    ),
    "NodeDown": Reason(Waiting.WAIT, "a node that it needs is down", _NODES),
    "FrontEndDown": Reason(Waiting.WAIT, "all front end nodes are down"),
    "Prolog": Reason(Waiting.WAIT, "its node is being prepared"),
    "PowerNotAvail": Reason(Waiting.WAIT, "the cluster's power limit is reached"),
    "PowerReserved": Reason(Waiting.WAIT, "the power that it needs is reserved"),
    "BurstBufferResources": Reason(Waiting.WAIT, "the burst buffer is full"),
    "SchedDefer": Reason(
        Waiting.WAIT,
        "the cluster does not start jobs at submission; it starts at the next scheduling cycle",
    ),
    "MpiPortsBusy": Reason(Waiting.WAIT, "the ports that it needs are in use"),
    "Constraints": Reason(Waiting.WAIT, "no node with the features that it requests is free"),
    "BurstBufferStageIn": Reason(Waiting.WAIT, "the burst buffer is being filled"),
    "FedJobLock": Reason(Waiting.WAIT, "another cluster of the federation is starting it"),
    "AssociationJobLimit": Reason(
        Waiting.WAIT, "your account has reached its limit of running jobs", _LIMITS
    ),
    "AssociationResourceLimit": Reason(
        Waiting.WAIT, "your account has reached its limit of resources", _LIMITS
    ),
    "QOSJobLimit": Reason(Waiting.WAIT, "the QOS has reached its limit of running jobs", _LIMITS),
    "QOSResourceLimit": Reason(Waiting.WAIT, "the QOS has reached its limit of resources", _LIMITS),
    "QOSUsageThreshold": Reason(
        Waiting.WAIT,
        "the account's usage is above the threshold of this QOS",
        "'sshare' shows its usage; wait, or choose another qos in the profile",
    ),
    # Reasons that somebody must remove.
    "JobHeldUser": Reason(Waiting.NEVER, "it is held by you", "'scontrol release JOB' releases it"),
    "JobHeldAdmin": Reason(
        Waiting.NEVER, "it is held by an administrator", "only an administrator can release it"
    ),
    "launch failed requeued held": Reason(
        Waiting.NEVER,
        "its launch on the node failed; it was requeued and is held",
        "'scontrol release JOB' starts it again; if it fails again, "
        "tell the cluster's administrators",
    ),
    "JobHoldMaxRequeue": Reason(
        Waiting.NEVER,
        "it reached the cluster's limit of requeues and is held",
        "'scontrol release JOB' starts it again",
    ),
    "job requeued in held state": Reason(
        Waiting.NEVER, "it was requeued and is held", "'scontrol release JOB' releases it"
    ),
    # States that squeue shows instead of PENDING.
    "SPECIAL_EXIT": Reason(
        Waiting.NEVER,
        "it was requeued for a special exit and is held",
        "'scontrol release JOB' releases it",
    ),
    "REQUEUE_HOLD": Reason(
        Waiting.NEVER, "it was requeued and is held", "'scontrol release JOB' releases it"
    ),
    "RESV_DEL_HOLD": Reason(
        Waiting.NEVER,
        "its reservation was deleted and it is held",
        "correct the key reservation in the profile",
    ),
    "DependencyNeverSatisfied": Reason(
        Waiting.NEVER, "its dependency can no longer be satisfied", "'scancel JOB' removes it"
    ),
    "PartitionTimeLimit": Reason(
        Waiting.NEVER,
        "its time limit is above the partition's limit",
        "lower the key time in the profile ('sinfo -o \"%P %l\"' lists the partitions' limits) "
        "or choose another partition",
    ),
    "PartitionMaxNodes": Reason(
        Waiting.NEVER,
        "it requests more nodes than the partition allows",
        "choose another partition in the profile",
    ),
    "PartitionMinNodes": Reason(
        Waiting.NEVER,
        "the partition accepts only jobs of several nodes",
        "choose another partition in the profile",
    ),
    "PartitionConfig": Reason(
        Waiting.NEVER,
        "its request does not fit the partition",
        "choose another partition in the profile ('scontrol show partition' lists their limits)",
    ),
    "DeadLine": Reason(
        Waiting.NEVER,
        "it cannot end before its deadline",
        "correct the key deadline under sbatch in the profile",
    ),
    "BurstBufferOperation": Reason(
        Waiting.NEVER,
        "an operation of its burst buffer failed, and it is held",
        "'scontrol release JOB' starts it again",
    ),
    "BadConstraints": Reason(
        Waiting.NEVER,
        "no node has the features that it requests",
        "correct the key constraint in the profile ('sinfo -o \"%N %f %G\"' lists the nodes' "
        "features)",
    ),
    "ReservationDeleted": Reason(
        Waiting.NEVER, "its reservation was deleted", "correct the key reservation in the profile"
    ),
    "InvalidAccount": Reason(
        Waiting.NEVER, "its account is not valid", "correct the key account in the profile"
    ),
    "InvalidQOS": Reason(
        Waiting.NEVER, "its QOS is not valid", "correct the key qos in the profile"
    ),
    "AccountNotAllowed": Reason(
        Waiting.NEVER,
        "its account is not allowed in the partition",
        "correct the key account or partition in the profile",
    ),
    "QOSNotAllowed": Reason(
        Waiting.NEVER,
        "its QOS is not allowed in the partition",
        "correct the key qos or partition in the profile",
    ),
    "QOSTimeLimit": Reason(
        Waiting.NEVER,
        "its time limit is above the limit of the QOS",
        f"lower the key time in the profile ({_LIMITS})",
    ),
    "AssociationTimeLimit": Reason(
        Waiting.NEVER,
        "its time limit is above your account's limit",
        f"lower the key time in the profile ({_LIMITS})",
    ),
    "MaxMemPerLimit": Reason(
        Waiting.NEVER,
        "it requests more memory than the cluster's limit",
        "lower the key mem in the profile",
    ),
    "InactiveLimit": Reason(
        Waiting.NEVER, "the cluster's limit for inactive jobs has been reached"
    ),
    "SystemFailure": Reason(
        Waiting.NEVER,
        "Slurm or a file system failed",
        "tell the cluster's administrators",
    ),
    "JobLaunchFailure": Reason(
        Waiting.NEVER, "it could not be launched", "'scontrol release JOB' starts it again"
    ),
}
# Families of limits; the first pattern that matches is used. Waiting does not help against a limit
# on one job (Per Job, Per Node, Min). It helps against a limit on all jobs together.
_FAMILIES: list[tuple[re.Pattern[str], Reason]] = [
    (re.compile(pattern), reason)
    for pattern, reason in [
        (
            r"(QOS|Assoc)Max\w*(WallDuration|Minutes)PerJob(Limit)?",
            Reason(
                Waiting.NEVER,
                "its time limit is above the limit for one job",
                f"lower the key time in the profile ({_LIMITS})",
            ),
        ),
        (
            r"(QOS|Assoc)Max\w*Per(Job|Node)(Limit)?",
            Reason(Waiting.NEVER, "its request is above the limit for one job", _LOWER),
        ),
        (
            r"QOSMin\w+",
            Reason(
                Waiting.NEVER,
                "its request is below the minimum of this QOS",
                f"raise the request in the profile, or choose another qos ({_LIMITS})",
            ),
        ),
        (
            r"Max\w*PerAccount(Limit)?",
            Reason(
                Waiting.WAIT,
                "the jobs of your account have reached their limit",
                "it starts when other jobs that count against the limit have ended; a request that "
                f"is above the limit itself never starts ({_LIMITS})",
            ),
        ),
        (
            r"(QOS|Assoc)\w*Submit\w*",
            Reason(Waiting.WAIT, "the limit of submitted jobs is reached", _LIMITS),
        ),
        (
            r"(QOS|Assoc)Grp\w*RunMinutes\w*",
            Reason(
                Waiting.WAIT,
                "the running jobs have reached the account's limit of remaining time",
                _LIMITS,
            ),
        ),
        (
            r"(QOS|Assoc)Grp(\w*Minutes\w*|WallLimit)",
            Reason(
                Waiting.WAIT,
                "the time granted to the account or QOS is used up",
                f"apply for more, or name another account in the profile ({_LIMITS})",
            ),
        ),
        (
            r"(QOS|Assoc)(Grp|Max)\w+",
            Reason(
                Waiting.WAIT,
                "you, your account or the QOS have reached a limit",
                "it starts when other jobs that count against the limit have ended; a request that "
                f"is above the limit itself never starts ({_LIMITS})",
            ),
        ),
    ]
]
_ALLOWED = (
    "('scontrol show partition' lists what each partition allows; "
    "'sacctmgr show assoc user=$USER' lists your accounts and QOS)"
)
# Texts that Slurm and sites write in place of a code (slurmctld's state_desc); the first pattern
# that matches is used.
_PHRASES: list[tuple[re.Pattern[str], Reason]] = [
    (re.compile(pattern), reason)
    for pattern, reason in [
        (
            r"account not (permitted|allowed)",
            Reason(
                Waiting.NEVER,
                "its account is not allowed in the partition",
                f"correct the key account or partition in the profile {_ALLOWED}",
            ),
        ),
        (
            r"qos not (permitted|allowed)",
            Reason(
                Waiting.NEVER,
                "its QOS is not allowed in the partition",
                f"correct the key qos or partition in the profile {_ALLOWED}",
            ),
        ),
        (
            r"env(ironment)? retrieval failed",
            Reason(
                Waiting.NEVER,
                "your login environment could not be read on its node; it was requeued and is held",
                "'scontrol release JOB' starts it again; remove get-user-env from sbatch "
                "in the profile if it is there",
            ),
        ),
        (
            r"not (permitted|allowed)",
            Reason(
                Waiting.NEVER,
                "a part of its request is not allowed",
                f"correct the key partition, account, qos or reservation in the profile {_ALLOWED}",
            ),
        ),
        (
            r"\bheld\b",
            Reason(
                Waiting.NEVER,
                "it is held",
                "'scontrol release JOB' releases it; if that is refused, "
                "ask an administrator to release it",
            ),
        ),
    ]
]
# Why a job ended; empty if the reason says no more than the state.
_ENDS: dict[str, str] = {
    "None": "",
    "NonZeroExitCode": "",
    "TimeLimit": "it reached its time limit (raise time in the profile)",
    "OutOfMemory": (
        "it used more memory than it requested (raise mem or mem_per_gpu in the profile)"
    ),
    "NodeDown": "its node went down",
    "SystemFailure": "Slurm or a file system failed",
    "JobLaunchFailure": (
        "its node could not launch it, or its shell was killed. "
        "The cause may be that the node cannot open the job's log: the results directory must "
        "be on a file system that the nodes share. Choose a DIR on such a file system, and launch "
        "again with 'agenttts-hpc launch SPEC --results DIR'"
    ),
    "InactiveLimit": "it reached the cluster's limit for inactive jobs",
}
# slurmstepd ends a batch job with this signal, which no program sends, if it cannot open the log:
# "RaisedSignal:53(Real-time_signal_19)". Slurm 22.05 writes JobLaunchFailure instead.
_NO_LOG = "RaisedSignal:53"


def waiting_for(code: str) -> Reason:
    """Return what a pending job's reason says.

    An unknown reason counts as one that passes, unless its text says that the job is held or that
    its request is not allowed.
    """
    return _known(code) or Reason(Waiting.WAIT, "")


def wait_sentence(code: str, job_id: str) -> str:
    """Return why a job waits as a sentence; Slurm's code if nothing more is known."""
    reason = waiting_for(code)
    return reason.told(code, job_id) if reason.sentence else code


def end_sentence(code: str, job_id: str) -> str:
    """Return why a job ended as a sentence; '' if its state says the same."""
    if code.startswith(_NO_LOG):
        code = "JobLaunchFailure"
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
