"""Judge the facts of ``doctor --submit``.

The functions are pure: they make checks of what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agenttts import __version__
from agenttts.dispatch.apptainer import building
from agenttts.dispatch.check import Check
from agenttts.dispatch.node.preflight import SCRATCH_BYTES
from agenttts.dispatch.profile import Profile
from agenttts.doctor.limits import limit_check, limits_fix
from agenttts.doctor.probe import Seen
from agenttts.doctor.probe_job import SCRATCH_DIRECTORY, TMPDIR
from agenttts.errors import counted
from agenttts.images.cuda import Gpu, driver_problem, memory_problem

_CLOCK_S = 2.0
_TEMPORARY = "temporary directory"
_NODES_WITH_GPUS = "set trial.partition to one whose nodes have GPUs"
_OTHER_TMPDIR = (
    "set TMPDIR to another place in the profile's setup lines, e.g. 'export TMPDIR=/local/$USER'"
)


def probe_checks(seen: Seen, profile: Profile, image_cuda: str | None = None) -> list[Check]:
    """Return the checks of one job of ``doctor --submit``.

    Args:
        seen: What became of the job.
        profile: The profile.
        image_cuda: The CUDA version that the image was built for, as the image says.
    """
    if seen.facts is None:
        return [Check(f"{seen.what} job", False, seen.problem or "no report", seen.fix)]
    facts = seen.facts
    found = [
        Check(
            f"{seen.what} job",
            True,
            "it ran"
            + ("" if seen.waited is None else f", {seen.waited:.0f} s after it was submitted"),
        ),
        _settle_check(seen, profile),
        _python_check(facts),
        *_directory_checks(facts, profile),
        _limit_check(seen, profile),
        *_gpu_checks(facts, profile),
        *_environment_checks(facts, profile, image_cuda),
        *_slurm_checks(facts["slurm"]),
        *_clock_checks(seen),
        *_mark_checks(seen),
    ]
    return [
        replace(check, where=f"{seen.what} job {seen.job_id} on {facts['node']}") for check in found
    ]


def _settle_check(seen: Seen, profile: Profile) -> Check:
    what = "files to the node and back"
    limit = 120.0 if profile.settle_seconds is None else profile.settle_seconds
    if seen.round_trip is None:
        return Check(
            what,
            False,
            "while the job ran, its node did not see a file that was written here",
            "put the results directory on a file system that the login node and the nodes share "
            "(--results DIR)",
        )
    if seen.round_trip > limit:
        return Check(
            what,
            False,
            f"{seen.round_trip:.1f} s, more than settle_seconds ({limit:g})",
            f"set settle_seconds: {2 * seen.round_trip:.0f} in the profile",
        )
    return Check(what, True, f"{seen.round_trip:.1f} s (settle_seconds {limit:g})")


def _python_check(facts: Mapping[str, Any]) -> Check:
    python = facts["python"]
    text = f"Python {python['version']} at {python['path']}, agenttts {facts['agenttts']}"
    if facts["agenttts"] != __version__:
        return Check(
            "Python of the jobs",
            False,
            f"{text}, but this is agenttts {__version__}",
            "install one version in an environment that the login node and the nodes share",
        )
    return Check("Python of the jobs", True, text)


def _directory_checks(facts: Mapping[str, Any], profile: Profile) -> list[Check]:
    directories = facts["directories"]
    on_gpus = facts["devices"]["asked"] > 0
    code = [
        _code_check(what, entry["path"], profile, on_gpus)
        for what, entry in directories.items()
        if entry.get("noexec") and (profile.in_containers or profile.cache)
    ]
    found = (
        _space(what, entry["path"], entry["problem"], entry["free"])
        for what, entry in directories.items()
    )
    return [*found, *code]


def _limit_check(seen: Seen, profile: Profile) -> Check:
    facts, on_trial = seen.facts or {}, seen.what == "trial"
    section = profile.trial if on_trial else profile.controller
    return limit_check(
        facts["limits"],
        on_gpus=facts["devices"]["asked"] > 0,
        # The controller mostly waits.
        seconds=profile.trial_seconds if on_trial else 0.0,
        fix=limits_fix(section.sbatch),
    )


def _code_check(what: str, path: str, profile: Profile, on_gpus: bool) -> Check:
    """Return what a directory without execution means for engines that compile."""
    detail = f"{path} is mounted noexec, so "
    if not profile.in_containers:
        detail += "the profile's cache is not used: engines compile in their usual places"
    else:
        detail += "vLLM in containers cannot load the code that it compiles there"
    if on_gpus and profile.in_containers:
        return Check(f"code in the {what}", False, detail, _OTHER_TMPDIR)
    return Check(f"code in the {what}", None, f"{detail}; {_OTHER_TMPDIR}")


def _space(what: str, path: str, problem: str | None, free: int | None) -> Check:
    """Check that a directory can be written and has the space that a job takes there."""
    temporary = what in (SCRATCH_DIRECTORY, TMPDIR)
    place = (
        _OTHER_TMPDIR
        if temporary or what.startswith(_TEMPORARY)
        else "choose a directory that the nodes can write to (--results DIR; cache in the profile)"
    )
    if problem:
        return Check(what, False, f"{path} cannot be written: {problem}", place)
    if free is None:
        return Check(what, True, f"{path} can be written")
    detail = f"{path} can be written, {free / 1e9:.1f} GB free"
    if free >= SCRATCH_BYTES:
        return Check(what, True, detail)
    if temporary:
        return Check(what, False, f"{detail}; {SCRATCH_BYTES / 1e9:.0f} GB are needed", place)
    return Check(what, None, f"{detail}, which may be too little")


def _gpu_checks(facts: Mapping[str, Any], profile: Profile) -> list[Check]:
    devices = facts["devices"]
    asked, granted = devices["asked"], [d for d in devices["granted"].split(",") if d]
    if not asked:
        return []
    if devices["problem"]:
        fix = "tell the cluster's administrators; trial.exclude in the profile avoids a node"
        if profile.trial.gpu_request == "none":
            fix = f"{_NODES_WITH_GPUS}; if the nodes have GPUs, {fix}"
        return [Check("GPUs granted", False, devices["problem"], fix)]
    if profile.trial.gpu_request == "none":
        granted_check = _whole_node_check(devices["listed"], profile.gpus_per_node)
        return [granted_check, *_memory_checks(facts, profile)]
    if len(granted) < asked:
        said = (
            "CUDA_VISIBLE_DEVICES is not set"
            if not granted
            else f"CUDA_VISIBLE_DEVICES is {devices['granted']}"
        )
        return [
            Check(
                "GPUs granted",
                False,
                f"{asked} requested, but {said}",
                "try another gpu_request in the profile (gpus-per-node, gres or gpus; none where "
                "jobs get whole nodes and sinfo shows no GPUs)",
            )
        ]
    text = f"{asked} requested, granted: {devices['granted']}"
    if devices["listed"] is None:
        return [Check("GPUs granted", None, f"{text}; nvidia-smi is missing or does not answer")]
    shown = Check("GPUs granted", True, f"{text}, nvidia-smi lists {devices['listed']}")
    return [shown, *_memory_checks(facts, profile)]


def _whole_node_check(listed: int | None, most: int) -> Check:
    """Return whether a node has the GPUs of the largest trial, which no job requests."""
    shows = "is missing or does not answer" if listed is None else f"lists {listed}"
    detail = f"none requested (gpu_request: none), nvidia-smi {shows}; gpus_per_node is {most}"
    if listed is not None and listed >= most:
        return Check("GPUs granted", True, detail)
    return Check(
        "GPUs granted",
        False,
        detail,
        f"{_NODES_WITH_GPUS}, or correct gpus_per_node",
    )


def _memory_checks(facts: Mapping[str, Any], profile: Profile) -> list[Check]:
    gpus = [Gpu(**gpu) for gpu in facts["gpus"]]
    return [memory_check(gpus, profile.gpu_memory_gb)] if gpus else []


def memory_check(gpus: list[Gpu], gpu_memory_gb: float | None) -> Check:
    """Return whether the GPUs have the memory of the profile's ``gpu_memory_gb``."""
    names = ", ".join(sorted({gpu.name for gpu in gpus}))
    problem = memory_problem(gpus, gpu_memory_gb)
    if problem:
        return Check("GPU memory", False, *problem)
    sizes = sorted({gpu.memory_gb for gpu in gpus if gpu.memory_gb is not None})
    held = f"{sizes[0]:.0f} GB" if sizes else "memory not known"
    said = "not set" if gpu_memory_gb is None else f"{gpu_memory_gb:g}"
    return Check("GPU memory", True, f"{names}, {held} (gpu_memory_gb {said})")


def driver_check(gpus: list[Gpu], cuda: str | None, whose: str) -> Check | None:
    """Return whether the driver is new enough for a CUDA version; None without GPUs.

    Args:
        gpus: The GPUs.
        cuda: The CUDA version that torch was built for; None: not known.
        whose: Where this torch is, for messages.
    """
    if not gpus:
        return None
    driver = ", ".join(sorted({gpu.driver for gpu in gpus}))
    if cuda is None:
        return Check("driver", None, f"{driver}; the CUDA version that {whose} needs is not known")
    problem = driver_problem(gpus, cuda)
    if problem:
        return Check("driver", False, *problem)
    return Check("driver", True, f"{driver}, enough for CUDA {cuda} of {whose}")


def _environment_checks(
    facts: Mapping[str, Any], profile: Profile, image_cuda: str | None
) -> list[Check]:
    environment = facts["environment"]
    if environment is None:
        return []
    boxed = profile.in_containers
    whose = "the image" if boxed else "the Python of the trials"
    if environment["error"]:
        failed = Check(
            whose,
            False,
            f"it does not start: {environment['error']}",
            "load the container runtime in the profile's setup lines, and put the image on a file "
            "system that all nodes share"
            if boxed
            else (
                "install this environment on a file system that the login node and the nodes share"
            ),
        )
        return [failed, *_driver_checks(facts, None, image_cuda, whose)]
    packages = {name: version for name, version in environment["packages"].items() if version}
    text = ", ".join(
        [f"Python {environment['python']}", *(f"{n} {v}" for n, v in packages.items())]
    )
    installed = packages.get("agenttts-hpc")
    if boxed and installed != __version__:
        has = "has no agenttts-hpc" if installed is None else f"has agenttts-hpc {installed}"
        started = Check(
            whose,
            False,
            f"it {has}, but this is agenttts-hpc {__version__} ({text})",
            building("IMAGE", again=True),
        )
    else:
        started = Check(whose, True, f"{text} (started in {environment['seconds']:.1f} s)")
    places = {"home directory": environment["home"], _TEMPORARY: environment["temporary"]}
    return [
        started,
        *(
            _space(f"{what} of {whose}", place["path"], place["error"], place["free"])
            for what, place in places.items()
        ),
        *bytecode_checks(environment.get("without_bytecode", ()), whose, boxed),
        *_driver_checks(facts, environment["driver"], environment["cuda"] or image_cuda, whose),
    ]


def bytecode_checks(packages: Sequence[str], whose: str, boxed: bool) -> list[Check]:
    """Return a note on packages without bytecode, if there are any.

    Their modules are compiled at every start of an engine.

    Args:
        packages: Their names.
        whose: Whose they are: the image's or a Python's.
        boxed: Whether they are in an image.
    """
    if not packages:
        return []
    fix = (
        building("IMAGE", again=True)
        if boxed
        else "python -m compileall -q -j 0 SITE_PACKAGES, by who may write there"
    )
    return [
        Check(
            f"bytecode of {whose}",
            None,
            f"{', '.join(packages)}: none, and none can be kept, so every start of an engine "
            f"compiles their modules again (9 s on a GPU node); to make it: {fix}",
        )
    ]


def _driver_checks(
    facts: Mapping[str, Any], driver: Mapping[str, Any] | None, cuda: str | None, whose: str
) -> list[Check]:
    """Return the checks of the driver's version and of the driver's library.

    The library is asked in the trials' environment. ``driver`` is None if it could not be asked.
    """
    gpus = [Gpu(**gpu) for gpu in facts["gpus"]]
    if not facts["devices"]["asked"] or not gpus:
        return []
    found = driver_check(gpus, cuda, whose)
    checks = [found] if found else []
    if driver is None:
        return checks
    what = f"CUDA in {whose}"
    if "error" in driver:
        fix = (
            "set container.nv: true in the profile, so that the container can use the node's "
            "driver; run 'nvidia-smi' on the node to see whether the driver works"
        )
        return [*checks, Check(what, False, driver["error"], fix)]
    devices = counted(driver.get("devices", 0), "device")
    seen = f"{devices}, the driver supports CUDA {driver.get('cuda', '?')}"
    return [*checks, Check(what, True, seen)]


def _slurm_checks(slurm: Mapping[str, str | None] | None) -> list[Check]:
    if slurm is None:
        return []
    needed = {name: problem for name, problem in slurm.items() if name != "sacct"}
    said = "; ".join(f"{name}: {problem}" for name, problem in needed.items() if problem)
    if said:
        found = Check(
            "scheduler commands",
            False,
            f"a controller that runs as a job could not use the scheduler: {said}",
            "set controller: {where: here} in the profile, so that the controller runs "
            "on the login node",
        )
    else:
        found = Check(
            "scheduler commands",
            True,
            f"{', '.join(needed)} answer, and sbatch accepts the largest trial",
        )
    problem = slurm.get("sacct")
    if problem is None:
        return [found]
    return [found, Check("accounting (sacct)", None, f"{problem}; not needed: squeue is enough")]


def _mark_checks(seen: Seen) -> list[Check]:
    if seen.marked is not False:
        return []
    return [
        Check(
            "comment",
            None,
            "the queue does not show the comment that the job was submitted with (a plugin of the "
            "site may replace it). Jobs are then not found again if sbatch gave no answer, so that "
            "trials may run twice, and only the batch files tell them from jobs of other runs; ask "
            "the site to keep comments that begin with 'agenttts'",
        )
    ]


def _clock_checks(seen: Seen) -> list[Check]:
    if seen.clock is None or abs(seen.clock) < _CLOCK_S:
        return []
    way = "ahead of" if seen.clock > 0 else "behind"
    return [
        Check(
            "clock",
            None,
            f"it is {abs(seen.clock):.0f} s {way} the clock of this machine; "
            "times in tables and logs differ by as much",
        )
    ]
