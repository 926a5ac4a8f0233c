"""The container's command line: a clean environment and the trial's directories.

The container gets exactly the directories that the trial needs. This works for Apptainer and for
Singularity 3.x, which share the options used here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.node.devices import engine_devices
from agenttts.errors import KeyPath, MissingRequirement, Unavailable, UserError, cli_command
from agenttts.files.access import read_problem
from agenttts.inference.startup_plan import STARTUP_PLAN

# A container for batch inference needs no hub and must send no usage statistics.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


# Each job has a scratch directory of its own on the node; the job fills its path in
# (`agenttts.dispatch.node.job`).
SCRATCH = "{scratch}"
# The longest time in which the driver of a node answers. Where no program keeps it loaded, it wakes
# GPU by GPU.
_DRIVER_SECONDS = 30.0
# Folders in SCRATCH, which is /tmp inside the container. What compilers leave in CACHE_FOLDER is
# kept between jobs (`agenttts.dispatch.node.compile_cache`).
CACHE_FOLDER = "cache"
HOME_FOLDER = "home"


def in_container(command: Sequence[str]) -> bool:
    """Return whether a command is one of `exec_command`.

    It then names the job's scratch directory.
    """
    return any(SCRATCH in part for part in command)


def with_scratch(command: Sequence[str], scratch: Path) -> list[str]:
    """Return a command with the path of the job's scratch directory."""
    return [part.replace(SCRATCH, str(scratch)) for part in command]


def compiler_caches(folder: str) -> dict[str, str]:
    """Return the variables that make engines keep in ``folder`` what they compile."""
    return {
        "VLLM_CACHE_ROOT": f"{folder}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "CUDA_CACHE_PATH": f"{folder}/cuda",
        # flashinfer makes directories below this one when it is imported, with any model on CUDA.
        "FLASHINFER_WORKSPACE_BASE": f"{folder}/flashinfer",
        # With this, vLLM (0.33 on) also keeps there what it measured of the model's memory.
        STARTUP_PLAN: "1",
    }


CACHES = {"XDG_CACHE_HOME": f"/tmp/{CACHE_FOLDER}", **compiler_caches(f"/tmp/{CACHE_FOLDER}")}


@dataclass(frozen=True)
class Container:
    """The image that trials run in and how it is started.

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
    """Return the command ``RUNTIME exec ... IMAGE COMMAND``.

    The container sees nothing of the user's home directory and of the host's environment. It has
    its own process tree, so everything that it starts ends with it. HOME is an empty, writable
    directory, and ``/tmp`` is the job's scratch directory.

    Args:
        container: The image and the runtime's options.
        command: The command to run inside.
        read_only: Paths to bind at the same path inside, read-only. Where links in such a directory
            lead out of it (as in a Hugging Face snapshot), their targets are bound too.
        writable: Paths to bind at the same path inside, writable.

    Raises:
        UserError: ``--bind`` cannot take one of the paths.
    """
    arguments = [container.runtime, "--quiet", "exec", "--containall", "--no-home"]
    arguments += ["--bind", f"{SCRATCH}:/tmp"]
    if container.nv:
        arguments.append("--nv")
    bound: list[Path] = []
    # Writable paths first, the shortest first: a path inside one that is bound already needs no
    # bind of its own.
    for path in sorted(set(writable), key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(other) for other in bound):
            check_bindable(path)
            bound.append(path)
            arguments += ["--bind", f"{path}:{path}"]
    sources = {place for path in read_only for place in (path, *link_targets(path))}
    for path in sorted(sources, key=lambda p: (len(p.parts), p)):
        if not any(path.is_relative_to(other) for other in bound):
            check_bindable(path)
            bound.append(path)
            arguments += ["--bind", f"{path}:{path}:ro"]
    for bind in container.binds:
        arguments += ["--bind", bind]
    arguments += container.options
    # HOME is set inside, because Apptainer refuses to take it from its environment ("Overriding
    # HOME ... is not permitted").
    home = ("env", f"HOME=/tmp/{HOME_FOLDER}")
    return (*arguments, str(container.image), *home, *command)


def check_bindable(path: Path, at: KeyPath | None = None) -> None:
    """Check that a path can be bound: ``--bind`` ends a path at a colon or a comma.

    Args:
        path: The path.
        at: The keys of the path in the spec, for the error; None: the spec does not give it.

    Raises:
        UserError: It cannot be bound.
    """
    for mark, name in ((":", "colon"), (",", "comma")):
        if mark in str(path):
            raise UserError(
                f"{path} contains a {name} and cannot be bound into "
                f"a container (for --bind, a {name} is the end of a path); rename it, "
                f"or give a symbolic link to it whose own path contains no {name}",
                at=at,
            )


def check_links(place: Path, at: KeyPath) -> None:
    """Check that links in a bound path can be followed and their targets bound.

    Args:
        place: The path.
        at: The keys of the path in the spec, for the error.

    Raises:
        UserError: As `check_bindable`.
        Unavailable: It, or where a link in it leads, is closed.
    """
    try:
        targets = link_targets(place)
    except OSError as error:
        raise Unavailable(
            f"{error.filename or place} cannot be read ({error.strerror}), and its links could not "
            "be followed for the container",
            fix="make it readable for you, or name a folder of links to the files that are needed",
            at=at,
        ) from None
    for target in targets:
        check_bindable(target, at)


def link_targets(place: Path) -> list[Path]:
    """Return the paths outside of ``place`` that its symbolic links lead to.

    Paths that a link leads through are included. For a directory, the result is directories, also
    those of the deepest links. For a file that is a link itself, it is files. Closed folders in a
    directory, such as ``lost+found``, are left out.

    Raises:
        OSError: The directory, or where a link leads, is closed.
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
            elif entry.is_dir() and read_problem(Path(entry.path)) is None:
                waiting.append(Path(entry.path))
    return list(found)


def _hops(link: Path) -> list[Path]:
    """Return where a symbolic link leads, link by link.

    Targets that do not exist are left out.
    """
    hops: list[Path] = []
    place = link
    while place.is_symlink() and place.exists():
        target = place.parent / place.readlink()
        place = target.parent.resolve() / target.name
        hops.append(place)
    return hops


def container_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make the runtime set ``env`` inside the container.

    They work for both Apptainer and Singularity.
    """
    return {
        f"{prefix}_{name}": value
        for prefix in ("APPTAINERENV", "SINGULARITYENV")
        for name, value in env.items()
    }


def granted_devices() -> dict[str, str]:
    """Return the variables by which engines find the GPUs granted by Slurm.

    `container_env` passes them into a container, whose clean environment would hide them.
    """
    granted = {
        "CUDA_VISIBLE_DEVICES": engine_devices(os.environ, _DRIVER_SECONDS),
        "ROCR_VISIBLE_DEVICES": os.environ.get("ROCR_VISIBLE_DEVICES"),
    }
    return {name: value for name, value in granted.items() if value is not None}


def device_order() -> dict[str, str]:
    """Return the variables that make CUDA number GPUs as Slurm and nvidia-smi do.

    They work on the host and in a container. By default the fastest GPU is CUDA's number 0. On a
    node with several models of GPU, where jobs see all of them, a job would use a GPU of another
    one, and vLLM, which asks NVML, would take one model for another.
    """
    order = {"CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER") or "PCI_BUS_ID"}
    return {**order, **container_env(order)}


PASSED_VARIABLES = "AGENTTTS_PASSED_VARIABLES"
"""The variable of a job that names the variables to pass into its container, such as keys."""


def passed_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that pass values of a job's environment into its container.

    Only their names are written to the job's files. The values stay in environments.
    """
    names = env.get(PASSED_VARIABLES, "").split()
    return container_env({name: os.environ[name] for name in names if name in os.environ})


def check_runtime(container: Container, setup: Sequence[str] = ()) -> None:
    """Raise `MissingRequirement` if the container runtime is absent.

    Args:
        container: The container.
        setup: The lines that run on a node before the job; none for trials of this machine. Some
            sites have the runtime on their nodes alone. If a line names it, the job checks it.
    """
    if shutil.which(container.runtime) is None and not named_in(container.runtime, setup):
        raise MissingRequirement(
            f"{container.runtime} is not on this machine's PATH",
            fix=f"load it first (e.g. 'module load {container.runtime}'), or run "
            "containers/install-apptainer.sh; if only a cluster's nodes have it, name it in a "
            f"line of the profile's setup, e.g. 'command -v {container.runtime}'",
        )


def named_in(runtime: str, setup: Sequence[str]) -> bool:
    """Return whether a setup line names the runtime, e.g. ``module load apptainer``."""
    return any(runtime in line for line in setup)


def building(image: Path | str, *, again: bool = False) -> str:
    """Return how an image is built, for messages.

    Args:
        image: The file.
        again: Whether it exists.
    """
    force = ["--force"] if again else []
    command = cli_command("image", "build", "DEF", *force, "--output", image)
    return (
        f"{command}, in a checkout of agenttts-hpc; "
        "DEF: Apptainer.def for GPUs, containers/cpu.def for machines without"
    )


def check_image(container: Container) -> None:
    """Raise `MissingRequirement` if the image is absent."""
    problem = read_problem(container.image)
    if isinstance(problem, FileNotFoundError):
        raise MissingRequirement(
            f"{container.image} does not exist",
            fix=building(container.image),
            at=("container", "image"),
        )
    if problem is not None:
        raise MissingRequirement(
            f"{container.image} cannot be read ({problem.strerror})",
            fix="make it readable for you, or name an image that is",
            at=("container", "image"),
        )


def check_binds(container: Container) -> None:
    """Raise `Unavailable` if a bound directory is absent."""
    for bind in container.binds:
        source = bind.split(":")[0]
        try:
            Path(source).stat()
        except FileNotFoundError:
            raise Unavailable(
                f"'{bind}' binds {source}, which does not exist",
                fix=(
                    "valid: HOST[:CONTAINER[:ro]]; a place that only a cluster's nodes have is "
                    "named in the profile under container: 'options: [--bind=HOST:CONTAINER]'"
                ),
                at=("container", "binds"),
            ) from None
        except OSError as error:
            raise Unavailable(
                f"'{bind}' binds {source}, which cannot be reached ({error.strerror})",
                fix="name a place that you may enter",
                at=("container", "binds"),
            ) from None
