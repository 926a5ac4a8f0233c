"""Draft a profile for the cluster that this machine belongs to, or for itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from agenttts.dispatch.slurm import survey
from agenttts.dispatch.slurm.drafted_profile import slurm_profile
from agenttts.errors import cli_command

_LOCAL = "local"


@dataclass(frozen=True)
class GpuHere:
    """A GPU of this machine: its name and its memory in GB; None if that is not known."""

    name: str
    memory_gb: float | None


@dataclass(frozen=True)
class DraftedProfile:
    """The text of a profile, and what the user should check."""

    text: str
    to_check: tuple[str, ...] = ()


def usual_name() -> str:
    """Return the name of this machine's profile: its cluster's, or ``local``.

    It is ``local`` too where Slurm's commands are installed and no cluster answers them.
    """
    if not survey.here():
        return _LOCAL
    found = survey.cluster_name()
    if found is None:
        return _LOCAL
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in found)
    return name.strip("._-") or "mycluster"


def draft_profile(name: str, gpus: Sequence[GpuHere]) -> DraftedProfile:
    """Return a profile for this machine.

    Args:
        name: The profile's name.
        gpus: The GPUs of this machine, for a machine without Slurm.

    Raises:
        QueueUnavailable: Slurm's commands are here, and do not answer.
    """
    if survey.here() and name != _LOCAL:
        text, to_check = slurm_profile(name, survey.survey())
        return DraftedProfile(text, tuple(to_check))
    notes: tuple[str, ...] = ()
    if shutil.which("sbatch") is not None:
        notes = (
            "this is a profile for this machine alone; for the cluster, 'agenttts-hpc init "
            "--cluster NAME' asks Slurm",
        )
    return DraftedProfile(local_profile(name, gpus), notes)


def local_profile(name: str, gpus: Sequence[GpuHere]) -> str:
    """Return the text of a profile for processes of this machine.

    Args:
        name: The profile's name.
        gpus: The GPUs of this machine.
    """
    sizes = [gpu.memory_gb for gpu in gpus if gpu.memory_gb is not None]
    kinds = ", ".join(sorted({gpu.name for gpu in gpus}))
    said = f"nvidia-smi: {kinds}" if gpus else "nvidia-smi lists none here"
    lines = [
        f"# The profile {name}, as 'agenttts-hpc init' drafted it: trials are processes of this "
        "machine,",
        f"# without a container. Check it: {cli_command('doctor', '--cluster', name)}. All keys: "
        "slurm/README.md.",
        "kind: local",
        f"gpus_per_node: {len(gpus)}       # {said}",
    ]
    if sizes:
        lines.append(f"gpu_memory_gb: {min(sizes):.0f}      # the least of them")
    lines += [
        "max_running: 1         # trials at a time; GPUs are not shared out between them",
        "poll_seconds: 0.3",
    ]
    return "\n".join(lines) + "\n"
