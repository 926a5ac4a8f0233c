"""The GPUs granted to a job, by ``nvidia-smi -L``.

It tells whether they answer, and by which numbers engines know them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from agenttts.errors import counted
from agenttts.files.commands import ask

DEADLINE_S = 5.0
_UUID = re.compile(r"(GPU|MIG)-[^\s,()]+")
_LINE = re.compile(r"^\s*(?:GPU \d+:|MIG +(?P<type>\S+)).*\(UUID: (?P<uuid>[^)]+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Listing:
    """The answer of ``nvidia-smi -L``.

    ``gpus`` are the UUIDs of the whole GPUs, and ``mig`` the UUIDs of the MIG devices with their
    types, such as ``1g.10gb``; both are in order. ``problem`` is an error in the answer.
    """

    gpus: tuple[str, ...] = ()
    mig: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


def list_devices(deadline: float = DEADLINE_S) -> Listing | None:
    """Return the GPUs that this process may see.

    None if `nvidia-smi` is absent or does not answer in time.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    answer = ask([program, "-L"], deadline)
    if answer.problem is not None:
        return None
    if not answer.succeeded:
        return Listing(problem=f"nvidia-smi -L {answer.failure()}")
    lost = next((line for line in answer.text.splitlines() if "error" in line.lower()), None)
    found = [(match["type"], match["uuid"].strip()) for match in _LINE.finditer(answer.text)]
    return Listing(
        gpus=tuple(uuid for kind, uuid in found if kind is None),
        mig={uuid: kind for kind, uuid in found if kind is not None},
        problem=f"nvidia-smi -L: {lost.strip()[:300]}" if lost else None,
    )


def device_problem(gpus: int, env: Mapping[str, str], deadline: float = DEADLINE_S) -> str | None:
    """Return what is wrong with the ``gpus`` GPUs of a job.

    CUDA_VISIBLE_DEVICES of ``env`` lists them, if the scheduler hands out GPUs. None if no problem
    is known.
    """
    listing = list_devices(deadline) if gpus else None
    if listing is None:
        return None
    if listing.problem:
        return listing.problem
    granted = _granted(env)
    known = (*listing.gpus, *listing.mig)
    missing = [d for d in granted if _UUID.fullmatch(d) and "/" not in d and d not in known]
    if missing:
        return f"nvidia-smi -L does not list the granted device {missing[0]}"
    if any(device.startswith("MIG-") for device in granted):
        return None
    if len(listing.gpus) < gpus:
        return f"the job needs {counted(gpus, 'GPU')}, and nvidia-smi -L lists {len(listing.gpus)}"
    if "CUDA_VISIBLE_DEVICES" in env and len(granted) < gpus:
        return (
            f"the job needs {counted(gpus, 'GPU')}, and CUDA_VISIBLE_DEVICES lists {len(granted)} "
            f"('{env['CUDA_VISIBLE_DEVICES']}')"
        )
    return None


def engine_devices(env: Mapping[str, str], deadline: float = DEADLINE_S) -> str | None:
    """Return CUDA_VISIBLE_DEVICES for engines; None if it is not set.

    UUIDs (of MIG devices or of GPUs) become 0, 1, ... if these are all devices that the job can
    see, because vLLM reads only numbers. Otherwise they stay: a number would name another job's
    device.
    """
    value = env.get("CUDA_VISIBLE_DEVICES")
    granted = _granted(env)
    if not granted or not all(_UUID.fullmatch(device) for device in granted):
        return value
    listing = list_devices(deadline)
    if listing is None or listing.problem:
        return value
    mig = granted[0].startswith("MIG-")
    visible = list(listing.mig) if mig else listing.gpus
    # CUDA numbers the MIG devices of a GPU if it has some, else the GPU itself. If there are more
    # GPUs than MIG devices, some GPU has no MIG device.
    alone = not mig or len(listing.gpus) <= len(visible)
    if sorted(visible) == sorted(granted) and alone:
        return ",".join(str(number) for number in range(len(granted)))
    return value


def granted_mig_types(env: Mapping[str, str], deadline: float = DEADLINE_S) -> list[str]:
    """Return the types of the granted MIG devices, sorted.

    CUDA_VISIBLE_DEVICES of ``env`` lists the devices. If `nvidia-smi` does not know these, the
    result is the types of all that it lists.
    """
    granted = [device for device in _granted(env) if device.startswith("MIG-")]
    listing = list_devices(deadline) if granted else None
    known = listing.mig if listing is not None else {}
    return sorted({known[d] for d in granted if d in known} or set(known.values()))


def numbered_devices(env: Mapping[str, str] = os.environ) -> list[int]:
    """Return the numbers of the GPUs that CUDA_VISIBLE_DEVICES lists.

    It may list them by numbers, or by UUIDs or their beginnings, which `nvidia-smi` knows. The
    result is empty for anything else.
    """
    granted = _granted(env)
    if granted and all(device.startswith("GPU-") for device in granted):
        listing = list_devices()
        known = listing.gpus if listing is not None else ()
        found = [[n for n, uuid in enumerate(known) if uuid.startswith(d)] for d in granted]
        granted = [str(one[0]) if len(one) == 1 else "" for one in found]
    numbered = all(device.isascii() and device.isdecimal() for device in granted)
    return list(dict.fromkeys(map(int, granted))) if numbered else []


def _granted(env: Mapping[str, str]) -> list[str]:
    return [part for part in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
