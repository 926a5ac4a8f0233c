"""The driver that a CUDA version needs, and the drivers and GPUs of this machine."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from agenttts.dispatch.node.devices import DEADLINE_S
from agenttts.files.commands import ask

# The oldest driver, by CUDA's major version. Source: docs.nvidia.com/deploy/cuda-compatibility,
# "Minor Version Compatibility", table 1.
MINIMUM_DRIVER = {11: "450", 12: "525", 13: "580"}
# The lowest compute capability, by CUDA's major version. Source: the release notes of CUDA 11.0,
# 12.0 and 13.0 (architectures removed).
MINIMUM_CAPABILITY = {11: 3.5, 12: 5.0, 13: 7.5}
# Share of a GPU's nominal memory that nvidia-smi lists at least (A10: 23028 MiB of 24 GiB, with ECC
# 22.5).
_LISTED_SHARE = 0.9
# Drivers before 510 refuse a query for compute_cap.
_QUERIES = ("driver_version,name,memory.total,compute_cap", "driver_version,name,memory.total")


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi describes it; None for a field that it does not report."""

    driver: str
    name: str
    memory_mib: float | None
    capability: float | None

    @property
    def memory_gb(self) -> float | None:
        """The memory in GB of 1e9 bytes, as in profiles."""
        return None if self.memory_mib is None else self.memory_mib * 2**20 / 1e9


def driver_facts(deadline: float = DEADLINE_S) -> list[Gpu]:
    """Return the GPUs that this process may see.

    The list is empty if ``nvidia-smi`` is absent or does not answer within ``deadline`` seconds.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    for query in _QUERIES:
        command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
        answer = ask(command, deadline)
        if answer.succeeded:
            return read_gpus(answer.text)
        if answer.problem is not None:
            return []
    return []


def read_gpus(answer: str) -> list[Gpu]:
    """Return the GPUs in an answer of ``nvidia-smi --query-gpu``.

    Lines of another form are skipped.
    """
    gpus = []
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) in (3, 4) and re.fullmatch(r"\d+(\.\d+)*", parts[0]):
            capability = _number(parts[3]) if len(parts) == 4 else None
            gpus.append(Gpu(parts[0], parts[1], _number(parts[2]), capability))
    return gpus


def driver_problem(gpus: list[Gpu], cuda: str) -> tuple[str, str] | None:
    """Return why a program built for ``cuda`` cannot run on these GPUs, and the fix.

    It is None if the program can run, or if nothing is known.
    """
    major = _major(cuda)
    if major not in MINIMUM_DRIVER:
        return None
    for gpu in gpus:
        needed = MINIMUM_DRIVER[major]
        if _version(gpu.driver) < _version(needed):
            return (
                f"the driver is {gpu.driver}, but CUDA {cuda} needs {needed} or newer",
                "build the image on an older base ('agenttts-hpc image build --build-arg "
                "base=IMAGE:TAG', containers/README.md), or request nodes with a newer driver "
                "(trial.constraint)",
            )
        lowest = MINIMUM_CAPABILITY[major]
        if gpu.capability is not None and gpu.capability < lowest:
            return (
                f"the {gpu.name} has compute capability {gpu.capability}, "
                f"but CUDA {cuda} needs {lowest} or higher",
                "request newer GPUs (trial.gpu_type or trial.constraint), "
                "or build the image on an older base (containers/README.md)",
            )
    return None


def memory_problem(gpus: list[Gpu], gpu_memory_gb: float | None) -> tuple[str, str] | None:
    """Return why models perhaps do not fit these GPUs, and the fix.

    The models are sized for ``gpu_memory_gb``. It is None if they fit.
    """
    sizes = [gpu.memory_gb for gpu in gpus if gpu.memory_gb is not None]
    # The driver keeps a part of the memory: a card sold as 80 GB lists 79.6 GiB or fewer.
    if gpu_memory_gb is None or not sizes or min(sizes) >= gpu_memory_gb * _LISTED_SHARE:
        return None
    return (
        f"a GPU has {min(sizes):.0f} GB, but the profile's gpu_memory_gb is {gpu_memory_gb:g}: "
        "models that are sized by it do not fit",
        f"set gpu_memory_gb: {int(min(sizes))} in the profile, or request larger GPUs "
        "(trial.gpu_type or trial.constraint)",
    )


def _major(cuda: str) -> int:
    head = cuda.partition(".")[0]
    return int(head) if head.isdecimal() else 0


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", e.g. of a MIG device
        return None
