"""The sbatch options of a job.

Pure: a function from `JobResources` and `JobNeeds` to options.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agenttts.dispatch.profile import JobResources
from agenttts.dispatch.slurm.node_lists import request_lists
from agenttts.dispatch.slurm.syntax import minutes

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONGEST_COMMENT = 900
"""Bytes of a comment. Slurm refuses more than 1,024 (slurmctld/job_mgr.c, ``_test_strlen``).

The rest is for the mark of a job that is given up (`agenttts.dispatch.slurm.queue.give_up`).
"""


@dataclass(frozen=True)
class JobNeeds:
    """What one job needs beyond its profile.

    Attributes:
        name: The job's name in the queue.
        comment: The job's comment in the queue.
        gpus: The job's GPUs.
        grace_seconds: Seconds before the time limit at which it gets its signal.
        requeue: Whether Slurm may start it again.
        dependency: What it waits for, in sbatch's syntax.
        exclude: Nodes that it must not run on, besides the profile's.
    """

    name: str
    comment: str
    gpus: int
    grace_seconds: int
    requeue: bool = True
    dependency: str | None = None
    exclude: tuple[str, ...] = ()


def sbatch_options(
    resources: JobResources, needs: JobNeeds, cluster: Sequence[str] = ()
) -> dict[str, str]:
    """Return the options of sbatch for a job, by long name.

    The options of arrays and of logs are not included. Flags have the value ``true`` or ``false``
    (`agenttts.dispatch.slurm.sbatch_options.flag_line`).

    Args:
        resources: The profile's section.
        needs: What the job needs besides.
        cluster: `agenttts.dispatch.slurm.cluster_nodes.nodes_besides` of the section.
    """
    exclude, nodelist = request_lists(resources.exclude, resources.nodelist, needs.exclude, cluster)
    options: dict[str, str | None] = {
        "job-name": _one_line(needs.name),
        "comment": _one_line(needs.comment),
        "time": str(minutes(resources.time)),
        "nodes": "1",
        "cpus-per-task": str(resources.cpus * max(1, needs.gpus)),
        "mem": resources.memory_text(needs.gpus),
        "signal": f"B:USR2@{needs.grace_seconds}",
        "requeue": "true" if needs.requeue and resources.requeue else "false",
        "dependency": needs.dependency,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "reservation": resources.reservation,
        "wckey": resources.wckey,
        "exclude": exclude,
        "nodelist": nodelist,
        **resources.sbatch,
    }
    gpus = _gpus(resources, needs.gpus)
    if "gres" in gpus and options.get("gres"):
        gpus["gres"] += f",{options['gres']}"
    return {name: text for name, text in {**options, **gpus}.items() if text is not None}


def marked(comment: str, *marks: str) -> str:
    """Return a job's comment that ends with the marks by which the job is found.

    If it would be too long for Slurm, the end of the text before the marks is left out.
    """
    end = "".join(f" {mark}" for mark in marks)
    room = _LONGEST_COMMENT - len(end.encode())
    if len(comment.encode()) > room:
        cut = comment.encode()[: room - len("...")].decode(errors="ignore")
        comment = cut[: 1 + max(cut.rfind(" "), cut.rfind(","))] + "..."
    return comment + end


def _gpus(resources: JobResources, gpus: int) -> dict[str, str]:
    if not gpus or resources.gpu_request == "none":
        return {}
    counted = f"{resources.gpu_type}:{gpus}" if resources.gpu_type else str(gpus)
    if resources.gpu_request == "gres":
        return {"gres": f"gpu:{counted}"}
    return {resources.gpu_request: counted}


def _one_line(text: str) -> str:
    """Return a name or comment on one line.

    It may hold the name of a model, which the user has chosen.
    """
    return _CONTROL.sub(" ", text)
