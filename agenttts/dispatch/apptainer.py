"""The container's command line: a clean environment, and exactly the directories the trial needs.

Works for Apptainer and for Singularity 3.x, which share the options used here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.node.devices import inside_container
from agenttts.errors import MissingRequirement, Unavailable, UserError

# A container for batch inference needs no hub and sends no usage statistics.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


# Each job has a scratch directory of its own on the node; the job fills its path in (dispatch.job).
SCRATCH = "{scratch}"
# Below SCRATCH, which is /tmp inside. What compilers leave in CACHE_FOLDER is kept between jobs
# (dispatch.cache).
CACHE_FOLDER = "cache"
HOME_FOLDER = "home"
CACHES = {
    "XDG_CACHE_HOME": f"/tmp/{CACHE_FOLDER}",
    "VLLM_CACHE_ROOT": f"/tmp/{CACHE_FOLDER}/vllm",
    "TORCHINDUCTOR_CACHE_DIR": f"/tmp/{CACHE_FOLDER}/inductor",
    "TRITON_CACHE_DIR": f"/tmp/{CACHE_FOLDER}/triton",
    "CUDA_CACHE_PATH": f"/tmp/{CACHE_FOLDER}/cuda",
    # flashinfer makes directories below this one when it is imported, with any model on CUDA.
    "FLASHINFER_WORKSPACE_BASE": f"/tmp/{CACHE_FOLDER}/flashinfer",
    # vLLM (0.33 on) then keeps what it measured of the model's memory there, too.
    "VLLM_ENABLE_STARTUP_PLAN": "1",
}


@dataclass(frozen=True)
class Container:
    """The image trials run in and how it is started.

    ``binds`` are ``HOST[:CONTAINER[:OPTIONS]]``.
    """

    image: Path
    runtime: str = "apptainer"
    nv: bool = True
    binds: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def exec_command(
    container: Container,
    command: Sequence[str],
    *,
    read_only: Iterable[Path],
    writable: Iterable[Path],
) -> tuple[str, ...]:
    """``RUNTIME exec ... IMAGE COMMAND``.

    ``writable`` and ``read_only`` are bound at the same path inside, the job's scratch directory as
    ``/tmp``; where links in a ``read_only`` directory lead out of it (as in a Hugging Face
    snapshot), their targets are bound too. The container sees none of the user's home directory, no
    host environment and its own process tree: what it starts ends with it. HOME is an empty,
    writable directory. Raises `UserError` for a path that ``--bind`` cannot take.
    """
    arguments = [container.runtime, "--quiet", "exec", "--containall", "--no-home"]
    arguments += ["--bind", f"{SCRATCH}:/tmp"]
    if container.nv:
        arguments.append("--nv")
    bound: list[Path] = []
    # Writable first, shortest first: a path inside one that is bound already needs no bind of its
    # own.
    for path in sorted(set(writable), key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(other) for other in bound):
            check_bindable("container", path)
            bound.append(path)
            arguments += ["--bind", f"{path}:{path}"]
    sources = {place for path in read_only for place in (path, *link_targets(path))}
    for path in sorted(sources, key=lambda p: (len(p.parts), p)):
        if not any(path.is_relative_to(other) for other in bound):
            check_bindable("container", path)
            bound.append(path)
            arguments += ["--bind", f"{path}:{path}:ro"]
    for bind in container.binds:
        arguments += ["--bind", bind]
    arguments += container.options
    # Inside, because Apptainer refuses to take HOME from its environment ("Overriding HOME ... is
    # not permitted").
    home = ("env", f"HOME=/tmp/{HOME_FOLDER}")
    return (*arguments, str(container.image), *home, *command)


def check_bindable(key: str, path: Path) -> None:
    """Raise `UserError` naming the ``key`` whose path cannot be bound: ``--bind`` ends a path
    at a colon or a comma.
    """
    for mark, name in ((":", "colon"), (",", "comma")):
        if mark in str(path):
            raise UserError(
                f"{key}: {path} has a {name} in it, and cannot be bound into a container (--bind takes a {name} for the end "
                f"of a path); rename it, or give a symbolic link to it whose own path has none"
            )


def link_targets(place: Path) -> list[Path]:
    """What symbolic links in a directory lead through or to outside of it, as directories,
    deepest links included; of a file that is a link itself, the files that it leads through and
    to.
    """
    if not place.is_dir():
        return _hops(place)
    directory = place
    found: dict[Path, None] = {}
    seen: set[Path] = set()
    waiting = [directory]
    while waiting:
        real = waiting.pop().resolve()
        if real in seen or not real.is_dir():
            continue
        seen.add(real)
        for entry in os.scandir(real):
            if entry.is_symlink():
                for hop in _hops(Path(entry.path)):
                    folder = hop if hop.is_dir() else hop.parent
                    if not folder.is_relative_to(directory):
                        found[folder] = None
                    if hop.is_dir():
                        waiting.append(hop)
            elif entry.is_dir():
                waiting.append(Path(entry.path))
    return list(found)


def _hops(link: Path) -> list[Path]:
    """Where a symbolic link leads, link by link; none of what does not exist."""
    hops: list[Path] = []
    place = link
    while place.is_symlink() and place.exists():
        target = place.parent / place.readlink()
        place = target.parent.resolve() / target.name
        hops.append(place)
    return hops


def container_env(env: Mapping[str, str]) -> dict[str, str]:
    """Variables for the runtime's own environment that appear as ``env`` inside, whichever
    runtime it is.
    """
    return {
        f"{prefix}_{name}": value
        for prefix in ("APPTAINERENV", "SINGULARITYENV")
        for name, value in env.items()
    }


def granted_devices() -> dict[str, str]:
    """The GPUs that Slurm granted this job, for inside a container, whose clean environment
    would hide them.
    """
    granted = {
        "CUDA_VISIBLE_DEVICES": inside_container(os.environ),
        "ROCR_VISIBLE_DEVICES": os.environ.get("ROCR_VISIBLE_DEVICES"),
    }
    return container_env({name: value for name, value in granted.items() if value is not None})


def check_runtime(container: Container) -> None:
    """Raise `MissingRequirement` when the container runtime is not there."""
    if shutil.which(container.runtime) is None:
        raise MissingRequirement(
            f"{container.runtime} is not on this machine's PATH",
            fix=f"load it first (e.g. 'module load {container.runtime}'), or run containers/install-apptainer.sh",
        )


def check_image(container: Container) -> None:
    """Raise `MissingRequirement` when the image is not there."""
    if not container.image.exists():
        raise MissingRequirement(
            f"container.image: there is no image {container.image}",
            fix=f"agenttts-hpc image build --output {container.image}",
        )


def check_binds(container: Container) -> None:
    """Raise `Unavailable` when a bound directory is not there."""
    for bind in container.binds:
        source = bind.split(":")[0]
        if not Path(source).exists():
            raise Unavailable(
                f"container.binds: '{bind}' binds {source}, which does not exist",
                fix="valid: HOST[:CONTAINER[:ro]]",
            )
