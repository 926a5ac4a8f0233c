"""The options of sbatch: which ones the project sets, and how each is written.

Pure. Source: sbatch(1), "OPTIONS" (22.05 to 25.05).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agenttts.dispatch.slurm import syntax as slurm_syntax

# Options that the project sets itself → what to use instead.
_OURS = {
    "comment": "it holds the token by which jobs are found again after a crash",
    "job-name": "it shows run and trial in squeue",
    "array": "use the profile's keys max_running and max_pending",
    "signal": "use the profile's key grace_seconds",
    "requeue": "use the key requeue beside sbatch (true or false)",
    "no-requeue": "use the key requeue beside sbatch (false)",
    "output": "logs are in the run's folder slurm/",
    "error": "logs are in the run's folder slurm/",
    "open-mode": "a requeued job appends to its log",
    "dependency": "the project sets it for the controllers of a run; trials have no dependencies",
    "nodes": "a job takes one node",
    "ntasks": (
        "a job is one task; use the key cpus beside sbatch for more CPUs, and ntasks-per-node: 1 "
        "where the cluster refuses jobs without a number of tasks"
    ),
    "time": "use the key time beside sbatch",
    "time-min": (
        "use the key time beside sbatch: a job must know its time limit to store its samples "
        "in time"
    ),
    "partition": "use the key partition beside sbatch",
    "account": "use the key account beside sbatch",
    "qos": "use the key qos beside sbatch",
    "constraint": "use the key constraint beside sbatch",
    "reservation": "use the key reservation beside sbatch",
    "wckey": "use the key wckey beside sbatch",
    "nodelist": "use the key nodelist beside sbatch",
    "nodefile": "use the key nodelist beside sbatch",
    "exclude": "use the key exclude beside sbatch",
    "cpus-per-task": "use the key cpus beside sbatch",
    "cpus-per-gpu": "use the key cpus beside sbatch, which counts per GPU",
    "mem": "use the key mem beside sbatch",
    "mem-per-cpu": "use the keys mem or mem_per_gpu beside sbatch",
    "mem-per-gpu": "use the key mem_per_gpu beside sbatch",
    "gpus": "use the keys gpu_request (gpus) and gpu_type beside sbatch",
    "gpus-per-node": "use the keys gpu_request (gpus-per-node) and gpu_type beside sbatch",
    "gpus-per-task": "use the keys gpu_request and gpu_type beside sbatch",
    "gpus-per-socket": "use the keys gpu_request and gpu_type beside sbatch",
    "ntasks-per-gpu": "a job is one task",
    "tres-per-task": "use the keys cpus, gpu_request and gpu_type beside sbatch",
    "hold": "a held job never starts",
    "wrap": "the project writes the batch file",
    "wait": "sbatch would return only after the end of the job",
    "test-only": "nothing would be submitted",
    "parsable": "the job's number is read from the output of sbatch",
    "quiet": "the job's number is read from the output of sbatch",
    "clusters": (
        "the controller watches jobs of its own cluster only; run on a login node of the other "
        "cluster"
    ),
    "help": "it does not request anything",
    "usage": "it does not request anything",
    "version": "it does not request anything",
}
_SHORT = {
    "A": "account",
    "C": "constraint",
    "D": "chdir",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "J": "job-name",
    "L": "licenses",
    "M": "clusters",
    "N": "nodes",
    "O": "overcommit",
    "Q": "quiet",
    "S": "core-spec",
    "W": "wait",
    "a": "array",
    "b": "begin",
    "c": "cpus-per-task",
    "d": "dependency",
    "e": "error",
    "i": "input",
    "k": "no-kill",
    "m": "distribution",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "s": "oversubscribe",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
}
# Flags: options without a value. Some of them may also take one.
_FLAGS = {
    "contiguous",
    "exclusive",
    "get-user-env",
    "ignore-pbs",
    "nice",
    "no-kill",
    "overcommit",
    "oversubscribe",
    "propagate",
    "reboot",
    "spread-job",
    "use-min-nodes",
    "verbose",
}
_NEGATED = {"requeue": "no-requeue"}
_YES_NO = {"kill-on-invalid-dep": ("yes", "no"), "wait-all-nodes": ("1", "0")}
_VALUED = {
    "acctg-freq",
    "batch",
    "bb",
    "bbf",
    "begin",
    "chdir",
    "cluster-constraint",
    "container",
    "core-spec",
    "cores-per-socket",
    "cpu-freq",
    "deadline",
    "delay-boot",
    "distribution",
    "export",
    "export-file",
    "extra-node-info",
    "gid",
    "gpu-bind",
    "gpu-freq",
    "gres",
    "gres-flags",
    "hint",
    "input",
    "licenses",
    "mail-type",
    "mail-user",
    "mcs-label",
    "mem-bind",
    "mincpus",
    "network",
    "ntasks-per-core",
    "ntasks-per-node",
    "ntasks-per-socket",
    "power",
    "prefer",
    "priority",
    "profile",
    "sockets-per-node",
    "switches",
    "thread-spec",
    "threads-per-core",
    "tmp",
    "uid",
}
# Lists of features, joined by & and |.
_FEATURES = {"batch", "cluster-constraint", "licenses", "prefer"}
_KNOWN = {*_OURS, *_FLAGS, *_YES_NO, *_VALUED}
_LONG_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TRUE = {"true", "yes", "on"}
_FALSE = {"false", "no", "off"}


def check_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a profile's ``sbatch:`` by their long names.

    Raises:
        ValueError: The project sets an option itself (the message says what to use instead), or
            Slurm would not take a value literally.
    """
    checked: dict[str, str] = {}
    for given, text in options.items():
        name = _long_name(given)
        if name in checked:
            raise ValueError(f"'{given}' is given twice; keep one of the two")
        try:
            checked[name] = _check_value(name, text)
        except ValueError as error:
            raise ValueError(f"'{given}': {error}") from None
    return checked


def flag_line(name: str, text: str) -> str | None:
    """Return an option as in a batch file or command line; None if it is left out.

    The forms are ``--name=text`` and ``--name``.
    """
    word = text.lower()
    if word in _TRUE | _FALSE:
        if name in _YES_NO:
            return f"--{name}={_YES_NO[name][word in _FALSE]}"
        # What the profile's own keys hold are names: an account may be called "no".
        if name not in _VALUED and (name in _NEGATED or name not in _OURS):
            if word in _TRUE:
                return f"--{name}"
            return f"--{_NEGATED[name]}" if name in _NEGATED else None
    return f"--{name}={text}"


def _long_name(given: str) -> str:
    """Return the option's name as sbatch spells it.

    Raises:
        ValueError: It is not an option, or the project sets it itself.
    """
    name = given.replace("_", "-")
    if name in _SHORT:
        raise ValueError(
            f"'{given}' is a short name; write the long name, {_SHORT[name]}"
            + _instead(_SHORT[name])
        )
    if not _LONG_NAME.fullmatch(name):
        raise ValueError(
            f"{given!r} is not a valid option; valid: a long name without dashes before it, "
            "e.g. mail-type"
        )
    if name in _OURS:
        raise ValueError(f"'{given}' is set by the project" + _instead(name))
    # sbatch accepts the beginning of a name for the whole name.
    longer = sorted(other for other in _OURS if other.startswith(name))
    if longer and name not in _KNOWN:
        raise ValueError(
            f"'{given}' is short for {longer[0]}, which is set by the project" + _instead(longer[0])
        )
    return name


def _instead(name: str) -> str:
    return f": {_OURS[name]}" if name in _OURS else ""


def _check_value(name: str, text: str) -> str:
    slurm_syntax.value(text, "&|" if name in _FEATURES else "")
    if name in _VALUED and text.lower() in {"true", "false"}:
        raise ValueError("its value cannot be true or false; to omit the option, remove the key")
    if name == "ntasks-per-node" and text != "1":
        raise ValueError(
            "a job is one task, and Slurm would give it the CPUs of several; valid: 1; use the key "
            "cpus beside sbatch for more CPUs"
        )
    if name == "gres" and any(
        re.split("[:=]", item.strip())[0] == "gpu" for item in text.split(",")
    ):
        raise ValueError(
            "the project requests GPUs itself; use the keys gpu_request (gres) "
            "and gpu_type beside sbatch"
        )
    return text
