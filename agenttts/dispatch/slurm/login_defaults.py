"""Defaults for profiles from the variables of the user's login shell.

sbatch reads them too (``SBATCH_ACCOUNT`` and the like). They are read at launch and frozen into the
run's profile, and not read again later: inside a job, such as the controller's, Slurm has set
variables of its own, and the user's exported ones may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.syntax import memory, memory_times
from agenttts.errors import UserError

Resources = TypeVar("Resources", bound=JobResources)

# Source: sbatch(1), "INPUT ENVIRONMENT VARIABLES". The project itself sets what is not listed here,
# for every job.
_KEYS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_WCKEY": "wckey",
    "SBATCH_TIMELIMIT": "time",
}
_OPTIONS = {
    "SBATCH_ACCTG_FREQ": "acctg-freq",
    "SBATCH_BATCH": "batch",
    "SBATCH_CORE_SPEC": "core-spec",
    "SBATCH_DELAY_BOOT": "delay-boot",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_EXPORT": "export",
    "SBATCH_GPU_BIND": "gpu-bind",
    "SBATCH_GPU_FREQ": "gpu-freq",
    "SBATCH_GRES_FLAGS": "gres-flags",
    "SBATCH_HINT": "hint",
    "SBATCH_NETWORK": "network",
    "SBATCH_POWER": "power",
    "SBATCH_PROFILE": "profile",
    "SBATCH_THREAD_SPEC": "thread-spec",
    "SBATCH_THREADS_PER_CORE": "threads-per-core",
}


# Variables for memory; sbatch takes only one of them.
_MEMORY = ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_GPU", "SBATCH_MEM_PER_CPU")


def with_login_defaults(profile: Profile, environment: Mapping[str, str]) -> Profile:
    """Return the profile, completed from the variables of a login shell.

    A key that the profile has, even as ``null``, is not changed.

    Raises:
        UserError: sbatch would not take a variable's value; the message names the variable.
    """
    said = {name: getattr(profile, name) for name in profile.model_fields_set}
    for what in ("controller", "trial"):
        said[what] = _completed(getattr(profile, what), environment)
    try:
        return Profile(**said)
    except ValidationError as error:  # a time limit shorter than grace_seconds
        raise UserError(
            f"SBATCH_TIMELIMIT in the environment: {error.errors()[0]['msg']}"
        ) from None


def _completed(resources: Resources, environment: Mapping[str, str]) -> Resources:
    said = {name: text for name, text in environment.items() if name in {*_KEYS, *_OPTIONS}}
    keys = {
        _KEYS[name]: text
        for name, text in said.items()
        if name in _KEYS and text and _KEYS[name] not in resources.model_fields_set
    }
    options = {
        # sbatch takes an empty SBATCH_EXCLUSIVE as the option without a value.
        _OPTIONS[name]: text or "true"
        for name, text in said.items()
        if name in _OPTIONS and (text or name == "SBATCH_EXCLUSIVE")
    }
    variable = next((name for name in _MEMORY if environment.get(name)), None)
    if variable is not None and not {"mem", "mem_per_gpu"} & resources.model_fields_set:
        keys |= _memory(variable, environment[variable], resources.cpus)
    if not keys and not options:
        return resources
    more: dict[str, Any] = {**keys, "sbatch": {**options, **resources.sbatch}}
    try:
        return type(resources)(**{**resources.model_dump(exclude_unset=True), **more})
    except ValidationError as error:
        raise _refused(error, said) from None


def _memory(name: str, text: str, cpus: int) -> dict[str, str]:
    """Return the profile's keys for one of the variables for memory.

    CPUs count per GPU if a job has GPUs.
    """
    try:
        amount = memory(text)
        each = memory_times(text, cpus)
    except ValueError as error:
        raise UserError(
            f"{name} in the environment: {error}; unset it, or give the profile the key mem"
        ) from None
    if name == "SBATCH_MEM_PER_NODE":
        return {"mem": amount}
    return (
        {"mem_per_gpu": amount}
        if name == "SBATCH_MEM_PER_GPU"
        else {"mem": each, "mem_per_gpu": each}
    )


def _refused(error: ValidationError, said: Mapping[str, str]) -> UserError:
    problem = error.errors()[0]
    cause = (problem.get("ctx") or {}).get("error")
    places = {**_KEYS, **_OPTIONS}
    text = str(cause or problem["msg"])
    key = str(problem["loc"][0]) if problem["loc"] else ""
    names = [name for name in said if places[name] == key or f"'{places[name]}'" in text]
    return UserError(
        f"{names[0] if names else 'SBATCH_*'} in the environment: {text}; "
        "unset it, or give the profile the key"
    )
