"""What the facts of ``doctor --submit`` mean: pure functions from what was seen to checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agenttts import __version__
from agenttts.dispatch.check import Check
from agenttts.dispatch.cuda import Gpu, driver_problem, memory_problem
from agenttts.dispatch.preflight import SCRATCH_BYTES
from agenttts.dispatch.probe import Seen
from agenttts.dispatch.profile import Profile

_CLOCK_S = 2.0
_RESULTS_BYTES = 10**9


def probe_checks(seen: Seen, profile: Profile) -> list[Check]:
    """The checks of one job of ``doctor --submit``."""
    if seen.facts is None:
        return [Check(f"{seen.what} job", False, seen.problem or "no report", seen.fix)]
    facts = seen.facts
    found = [
        Check(
            f"{seen.what} job",
            True,
            f"job {seen.job_id} ran on {facts['node']}"
            + ("" if seen.waited is None else f", {seen.waited:.0f} s after it was submitted"),
        ),
        _settle_check(seen, profile),
        _python_check(facts),
        *_directory_checks(facts["directories"]),
        *_gpu_checks(facts, profile),
        *_environment_checks(facts, profile),
        *_slurm_checks(facts["slurm"]),
        *_clock_checks(seen),
    ]
    return [_named(check, str(facts["node"])) for check in found]


def _named(check: Check, node: str) -> Check:
    return check if node in check.detail else Check(check.what, check.ok, f"on {node}: {check.detail}", check.fix)  # fmt: skip


def _settle_check(seen: Seen, profile: Profile) -> Check:
    what = "files to the node and back"
    limit = 120.0 if profile.settle_seconds is None else profile.settle_seconds
    if seen.round_trip is None:
        return Check(
            what,
            False,
            "the node did not see a file that was written here while it ran",
            "put the results directory on a file system that the login node and the nodes share (--results DIR)",
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
            f"{text}, here it is {__version__}",
            "install one version in one environment that the login node and the nodes share",
        )
    return Check("Python of the jobs", True, text)


def _directory_checks(directories: Mapping[str, Mapping[str, Any]]) -> list[Check]:
    return [
        _space(what, entry["path"], entry["problem"], entry["free"])
        for what, entry in directories.items()
    ]


def _space(what: str, path: str, problem: str | None, free: int | None) -> Check:
    if problem:
        fix = (
            "TMPDIR in the profile's setup lines chooses another place"
            if what in _TEMPORARY
            else None
        )
        return Check(
            what,
            False,
            problem,
            fix
            or "choose a directory that the nodes may write to (--results DIR, cache in the profile)",
        )
    if free is None:
        return Check(what, True, f"{path} can be written")
    detail = f"{path} can be written, {free / 1e9:.1f} GB free"
    if what in _TEMPORARY and free < SCRATCH_BYTES:
        return Check(
            what,
            False,
            f"{detail}; {SCRATCH_BYTES / 1e9:.1f} GB are needed",
            "set TMPDIR to a larger place in the profile's setup lines, e.g. 'export TMPDIR=/local'",
        )
    if free < _RESULTS_BYTES and what not in _TEMPORARY:
        return Check(what, None, f"{detail}, which is little")
    return Check(what, True, detail)


_TEMPORARY = ("scratch directory",)


def _gpu_checks(facts: Mapping[str, Any], profile: Profile) -> list[Check]:
    devices = facts["devices"]
    asked, granted = devices["asked"], [d for d in devices["granted"].split(",") if d]
    if not asked:
        return []
    if devices["problem"]:
        return [Check("GPUs granted", False, devices["problem"], "tell the cluster's administrators; trial.exclude in the profile avoids a node")]  # fmt: skip
    if len(granted) < asked:
        said = "CUDA_VISIBLE_DEVICES is not set" if not granted else f"CUDA_VISIBLE_DEVICES is {devices['granted']}"  # fmt: skip
        return [Check("GPUs granted", False, f"{asked} asked for, {said}", "try another gpu_request in the profile (gpus-per-node, gres or gpus)")]  # fmt: skip
    text = f"{asked} asked for, granted {devices['granted']}"
    gpus = [Gpu(**gpu) for gpu in facts["gpus"]]
    if devices["listed"] is None:
        return [Check("GPUs granted", None, f"{text}; there is no nvidia-smi, or it does not answer")]  # fmt: skip
    checks = [Check("GPUs granted", True, f"{text}, nvidia-smi lists {devices['listed']}")]
    if gpus:
        checks.append(memory_check(gpus, profile.gpu_memory_gb))
    return checks


def memory_check(gpus: list[Gpu], gpu_memory_gb: float | None) -> Check:
    """Whether the GPUs hold what the profile's ``gpu_memory_gb`` says."""
    names = ", ".join(sorted({gpu.name for gpu in gpus}))
    problem = memory_problem(gpus, gpu_memory_gb)
    if problem:
        return Check("GPU memory", False, *problem)
    sizes = sorted({gpu.memory_gb for gpu in gpus if gpu.memory_gb is not None})
    held = f"{sizes[0]:.0f} GB" if sizes else "memory not told"
    said = "not set" if gpu_memory_gb is None else f"{gpu_memory_gb:g}"
    return Check("GPU memory", True, f"{names}, {held} (gpu_memory_gb {said})")


def driver_check(gpus: list[Gpu], cuda: str | None, whose: str) -> Check | None:
    """Whether the driver is new enough for the CUDA of ``whose`` torch; None where there is nothing to compare."""
    if not gpus:
        return None
    driver = ", ".join(sorted({gpu.driver for gpu in gpus}))
    if cuda is None:
        return Check("driver", None, f"{driver}; which CUDA {whose} needs is not known")
    problem = driver_problem(gpus, cuda)
    if problem:
        return Check("driver", False, *problem)
    return Check("driver", True, f"{driver}, enough for CUDA {cuda} of {whose}")


def _environment_checks(facts: Mapping[str, Any], profile: Profile) -> list[Check]:
    environment = facts["environment"]
    if environment is None:
        return []
    boxed = profile.container is not None and profile.container.runtime != "none"
    whose = "the image" if boxed else "the Python of the trials"
    if environment["error"]:
        return [
            Check(
                whose,
                False,
                f"it does not start: {environment['error']}",
                "load the container runtime in the profile's setup lines and put the image where all nodes see it"
                if boxed
                else None,
            )
        ]
    packages = {name: version for name, version in environment["packages"].items() if version}
    text = f"Python {environment['python']}, " + ", ".join(f"{n} {v}" for n, v in packages.items())
    checks = [Check(whose, True, f"{text} (started in {environment['seconds']:.1f} s)")]
    if packages.get("agenttts-hpc") not in (None, __version__):
        checks = [
            Check(
                whose,
                False,
                f"{text}; here it is agenttts-hpc {__version__}",
                "agenttts-hpc image build --force --output IMAGE",
            )
        ]
    for what, place in (("home", environment["home"]), ("temporary directory", environment["temporary"])):  # fmt: skip
        label = f"{what} of {whose}"
        if place["error"]:
            checks.append(
                Check(label, False, f"{place['path']} cannot be written: {place['error']}")
            )
        elif place["free"] is not None:
            checks.append(
                Check(
                    label,
                    True,
                    f"{place['path']} can be written, {place['free'] / 1e9:.1f} GB free",
                )
            )
    if facts["devices"]["asked"]:
        checks += _driver_checks(facts, environment, whose)
    return checks


def _driver_checks(
    facts: Mapping[str, Any], environment: Mapping[str, Any], whose: str
) -> list[Check]:
    gpus = [Gpu(**gpu) for gpu in facts["gpus"]]
    found = driver_check(gpus, environment["cuda"], whose)
    checks = [found] if found else []
    driver = environment["driver"]
    if not gpus:
        return checks
    if "error" in driver:
        checks.append(
            Check(
                f"CUDA in {whose}",
                False,
                driver["error"],
                "container.nv: true in the profile passes the driver in; 'nvidia-smi' on the node shows whether it works",
            )
        )
    else:
        checks.append(
            Check(
                f"CUDA in {whose}",
                True,
                f"{driver.get('devices', 0)} devices, the driver knows CUDA {driver.get('cuda', '?')}",
            )
        )
    return checks


def _slurm_checks(slurm: Mapping[str, str | None] | None) -> list[Check]:
    if slurm is None:
        return []
    needed = {name: problem for name, problem in slurm.items() if name != "sacct"}
    said = "; ".join(f"{name}: {problem}" for name, problem in needed.items() if problem)
    if said:
        found = Check(
            "Slurm commands",
            False,
            f"a controller in a job could not work: {said}",
            "set controller: {where: here} in the profile: the controller then runs on the login node",
        )
    else:
        found = Check(
            "Slurm commands",
            True,
            f"{', '.join(needed)} answer, and sbatch would take the largest trial",
        )
    problem = slurm.get("sacct")
    if problem is None:
        return [found]
    return [found, Check("accounting (sacct)", None, f"{problem}; squeue alone is enough")]


def _clock_checks(seen: Seen) -> list[Check]:
    if seen.clock is None or abs(seen.clock) < _CLOCK_S:
        return []
    way = "ahead of" if seen.clock > 0 else "behind"
    return [Check("clock", None, f"it is {abs(seen.clock):.0f} s {way} this machine's: times in tables and logs differ by that")]  # fmt: skip
