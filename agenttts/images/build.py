"""Build container images, and identify the image that a run uses.

An image is built from a definition file (``Apptainer.def``, ``containers/cpu.def``) with the host's
own pip settings: its indexes, wheel folders, proxies and CA bundle. uv gets these settings too. The
settings are not written into the image.

An image ``X.sif`` has a record beside it, ``X.sif.json``. The record says what the image was built
from. It also has the image's SHA-256, so that a launch need not read the whole image.

Folders of the host that pip needs (wheels, cache, CA bundle) are mounted during ``%post``. The
definition has to make the mount points of these folders in ``%setup``, from the variable
``AGENTTTS_BUILD_MOUNTS`` (see ``containers/cpu.def``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agenttts import __version__
from agenttts.dispatch.apptainer import building, container_env
from agenttts.errors import MissingRequirement, UserError, valid_names
from agenttts.files.atomic import atomic_write_json
from agenttts.files.commands import ask
from agenttts.files.documents import read_object
from agenttts.files.temporary import is_noexec, temporary_directory
from agenttts.images.pip_settings import (
    local_folders,
    pip_cache,
    pip_settings,
    uv_cache,
    uv_environment,
)

# zstd at level 3 packs the CPU image three times as fast as the default gzip. The result is not
# larger.
SQUASHFS_ARGUMENTS = "-comp zstd -Xcompression-level 3"
SOURCE = (
    "a checkout, or 'pip download --no-deps --no-binary agenttts-hpc agenttts-hpc' and the "
    "unpacked archive"
)
"""For messages: where to get the definitions and the source that they build from."""
MOUNTS_VARIABLE = "AGENTTTS_BUILD_MOUNTS"
IMAGE_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_CAP_SYS_RESOURCE = 24  # linux/capability.h
_LOG_LINES = 12
_OTHER_SCRATCH = (
    "set APPTAINER_TMPDIR (and APPTAINER_CACHEDIR, for downloads) to a directory with enough space"
)
CUDA_LABEL = "agenttts.cuda"
_INSPECT_S = 60
# Sum of the unpacked vllm/vllm-openai image, its layers and the packed image (2026-11).
_DOCKER_BUILD_BYTES = 30e9


@dataclass(frozen=True)
class ImageRecord:
    """The record of an image that `build_image` made.

    ``built`` is a time in ISO 8601, UTC.
    """

    sha256: str
    size_bytes: int
    definition: str
    built: str
    agenttts_version: str
    runtime_version: str
    cuda: str | None = None
    """The CUDA version that the image's torch was built for.

    None: torch has no CUDA, or the image has no label with the version.
    """


@dataclass(frozen=True)
class Mount:
    """A host file or directory and the path where the build sees it."""

    source: Path
    target: Path

    @property
    def bind(self) -> str:
        """The value for Apptainer's ``--bind``."""
        return f"{self.source}:{self.target}"


def build_image(
    definition: Path,
    output: Path,
    *,
    project: Path,
    runtime: str = "apptainer",
    force: bool = False,
    build_args: Mapping[str, str] = MappingProxyType({}),
    keep_log: bool = False,
) -> ImageRecord:
    """Build an image from a definition file and write its record beside it.

    ``output`` appears whole or not at all.

    Args:
        definition: The definition file. If it contains ``{{ rootfs }}`` and ``build_args`` has no
            ``rootfs``, a new root file system is made of this machine's own Debian packages. The
            path of this file system is then filled in.
        output: The image to write.
        project: The checkout whose package goes into the image.
        runtime: The command to build with.
        force: Replace an existing ``output``.
        build_args: Values for the definition's arguments, by name.
        keep_log: Whether to keep the runtime's messages when the build succeeds. If so, the
            messages for the image ``X.sif`` are in ``X.log``. If not, they are in ``X.sif.log``,
            which is removed when the build succeeds.

    Raises:
        UserError: The definition is missing, or lacks an argument that ``build_args`` names. The
            project is not a checkout. The output is a directory or ends in ``.log``. The output
            exists, and ``force`` is not set.
        MissingRequirement: The runtime is absent, temporary files have no place or too little
            space, or the build fails.
    """
    definition, output, project = definition.resolve(), output.resolve(), project.resolve()
    _check_inputs(definition, output, project, force)
    if shutil.which(runtime) is None:
        raise MissingRequirement(
            f"{runtime} is not on PATH on this machine",
            fix=f"load it first (e.g. 'module load {runtime}'), or run "
            "containers/install-apptainer.sh",
        )
    text = definition.read_text(encoding="utf-8")
    _check_arguments(definition, text, build_args)
    scratch_root = _scratch_root()
    _check_space(definition, text, scratch_root)
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log") if keep_log else output.with_name(f"{output.name}.log")
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    # ignore_cleanup_errors: an ordinary user cannot remove files from the read-only directories of
    # images.
    with tempfile.TemporaryDirectory(
        prefix="agenttts-build-", dir=scratch_root, ignore_cleanup_errors=True
    ) as scratch:
        try:
            with log.open("wb") as stream:
                arguments = dict(build_args)
                if _uses(text, "project"):
                    arguments.setdefault("project", str(project))
                if _uses(text, "rootfs") and "rootfs" not in arguments:
                    arguments["rootfs"] = str(Path(scratch, "rootfs"))
                    script = project / "containers" / "rootfs-from-host.sh"
                    _run([str(script), arguments["rootfs"]], os.environ, stream.fileno(), log)
                settings = pip_settings(os.environ)
                mounts = build_mounts(settings, os.environ) if MOUNTS_VARIABLE in text else ()
                command = build_command(
                    runtime,
                    definition,
                    partial,
                    mounts=mounts,
                    build_args=arguments,
                    fast_compression=_has_option(runtime, "--mksquashfs-args"),
                )
                environment = build_environment(settings, mounts, os.environ)
                environment["APPTAINER_TMPDIR"] = environment["SINGULARITY_TMPDIR"] = scratch
                _run(command, environment, stream.fileno(), log)
            sha256 = _hash(partial)
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    record = ImageRecord(
        sha256=sha256,
        size_bytes=output.stat().st_size,
        definition=definition.name,
        built=datetime.now(UTC).isoformat(timespec="seconds"),
        agenttts_version=_project_version(project),
        runtime_version=_version(runtime),
        cuda=image_cuda(runtime, output),
    )
    atomic_write_json(_sidecar(output), {**asdict(record), "mtime_ns": output.stat().st_mtime_ns})
    if not keep_log:
        log.unlink()
    return record


def read_record(image: Path) -> ImageRecord | None:
    """Return the image's record, brought up to date.

    If the image's size or time has changed since the record was written, the image's digest is
    computed anew, and the record beside the image is rewritten. None: there is no image, its record
    lacks a value, or the record is of another image.
    """
    needed = {field.name for field in fields(ImageRecord) if field.default is MISSING}
    # Reading an image takes long and gives only its size and digest. Without a recorded digest,
    # nothing would show that the other values of the record are of this image.
    if not image.is_file() or needed - {"size_bytes"} - _read_sidecar(image).keys():
        return None
    current = _current_record(image)
    known = {
        field.name: current[field.name] for field in fields(ImageRecord) if field.name in current
    }
    try:
        return ImageRecord(**known)
    except TypeError:  # the record is of another image
        return None


def image_cuda(runtime: str, image: Path) -> str | None:
    """Return the CUDA version in an image's label `CUDA_LABEL`.

    ``Apptainer.def`` writes the label. None: the label is missing, is not a version, or cannot be
    read.
    """
    try:
        answer = ask([runtime, "inspect", "--json", "--labels", str(image)], _INSPECT_S)
        labels = json.loads(answer.text)["data"]["attributes"]["labels"]
        cuda = labels.get(CUDA_LABEL)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return cuda if isinstance(cuda, str) and re.fullmatch(r"\d+(\.\d+)*", cuda) else None


def image_digest(image: Path) -> str:
    """Return the SHA-256 of an image file, in hexadecimal.

    The digest is kept in ``IMAGE.json`` together with the image's size and time of change. The
    image is read again only if its size or time has changed since. If ``IMAGE.json`` cannot be
    written, every process reads the image once.
    """
    if not image.is_file():
        raise UserError(f"{image} is not an image file; to build one: {building('IMAGE')}")
    return str(_current_record(image)["sha256"])


def _current_record(image: Path) -> dict[str, Any]:
    """Return the content of ``IMAGE.json``, brought up to date with the image."""
    status = image.stat()
    stored = _read_sidecar(image)
    seen = {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    if "sha256" in stored and all(stored.get(name) == value for name, value in seen.items()):
        return stored
    sha256 = _digest(image, status.st_size, status.st_mtime_ns)
    # A copy with the same content and another time is still the image of the record.
    known = stored if stored.get("sha256") == sha256 else {}
    current = {**known, "sha256": sha256, **seen}
    with contextlib.suppress(OSError):
        atomic_write_json(_sidecar(image), current)
    return current


@lru_cache(maxsize=16)
def _digest(image: Path, size_bytes: int, mtime_ns: int) -> str:
    """Return an image's SHA-256; its size and time are only keys of the cache."""
    return _hash(image)


def build_command(
    runtime: str,
    definition: Path,
    output: Path,
    *,
    mounts: Iterable[Mount],
    build_args: Mapping[str, str],
    fast_compression: bool = True,
) -> list[str]:
    """Return the runtime's command line; the command replaces ``output``."""
    command = [runtime, "build", "--force"]
    for mount in mounts:
        command += ["--bind", mount.bind]
    for name, value in build_args.items():
        command += ["--build-arg", f"{name}={value}"]
    if fast_compression:
        command += ["--mksquashfs-args", SQUASHFS_ARGUMENTS]
    return [*command, str(output), str(definition)]


def build_environment(
    settings: Mapping[str, str], mounts: Iterable[Mount], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the runtime's environment for a build.

    The environment is ``environ`` with pip's settings, proxies and CA bundle for ``%post``, and
    with the mount points for ``%setup``.
    """
    mounts = list(mounts)
    inside = {
        f"PIP_{name.upper().replace('-', '_')}": value
        for name, value in settings.items()
        if "cache" not in name
    }
    inside["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    inside["PIP_ROOT_USER_ACTION"] = "ignore"
    # The cache is on another file system, from which uv cannot link.
    inside |= {**uv_environment(settings), "UV_LINK_MODE": "copy"}
    inside.pop("UV_CACHE_DIR", None)  # set below, if the cache is mounted
    for name, value in environ.items():
        if name.lower() in _PROXIES:
            inside[name] = value
    for mount in mounts:
        if mount.target == IMAGE_CA_BUNDLE:
            inside["PIP_CERT"] = inside["SSL_CERT_FILE"] = str(IMAGE_CA_BUNDLE)
    caches = {"PIP": pip_cache(settings, environ), "UV": uv_cache(settings, environ)}
    for installer, cache in caches.items():
        if cache is not None and any(cache.is_relative_to(mount.source) for mount in mounts):
            inside[f"{installer}_CACHE_DIR"] = str(cache)
        else:  # the cache would go into the image
            inside["PIP_NO_CACHE_DIR" if installer == "PIP" else "UV_NO_CACHE"] = "1"
    environment = {**environ, **container_env(inside)}
    environment[MOUNTS_VARIABLE] = "\n".join(
        f"{mount.target}/" if mount.source.is_dir() else str(mount.target) for mount in mounts
    )
    if os.geteuid() == 0 and not _has_capability(_CAP_SYS_RESOURCE):
        # By default, root in a build asks for all capabilities. The build fails if the machine's
        # root lacks one of them.
        environment.setdefault("APPTAINER_DROP_CAPS", "CAP_SYS_RESOURCE")
    return environment


def build_mounts(settings: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Mount, ...]:
    """Return the host paths that pip needs during a build.

    These are local wheel folders and indexes at their own paths, the caches of pip and uv, and the
    CA bundle.
    """
    folders = local_folders(settings)
    for cache in (pip_cache(settings, environ), uv_cache(settings, environ)):
        if cache is not None:
            with contextlib.suppress(OSError):
                cache.mkdir(parents=True, exist_ok=True)
            folders.append(cache)
    mounts = [Mount(folder, folder) for folder in _outermost(folders) if folder.is_dir()]
    named = [environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    for bundle in (*named, settings.get("cert"), str(IMAGE_CA_BUNDLE)):
        if bundle and Path(bundle).is_file():
            mounts.append(Mount(Path(bundle).resolve(), IMAGE_CA_BUNDLE))
            break
    return tuple(mounts)


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that are not inside another one in the list."""
    kept: list[Path] = []
    for folder in sorted(set(folders), key=lambda path: len(path.parts)):
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return kept


def _check_inputs(definition: Path, output: Path, project: Path, force: bool) -> None:
    if not definition.is_file():
        raise UserError(
            f"the definition file {definition} does not exist; valid: Apptainer.def (GPU) and "
            f"containers/cpu.def (CPU) in the source of agenttts-hpc: {SOURCE}"
        )
    if not (project / "agenttts" / "__init__.py").is_file():
        raise UserError(
            f"{project} is not a source of agenttts-hpc: it has no package 'agenttts', which goes "
            f"into the image. The source: {SOURCE}"
        )
    if output.is_dir():
        raise UserError(
            f"{output} is a directory; give the file of the image, such as agenttts.sif"
        )
    if output.suffix == ".log":
        raise UserError(f"{output} would be the log of the build; give the image another suffix")
    if output.exists() and not force:
        raise UserError(f"{output} exists already; add --force to replace it")


def _check_arguments(definition: Path, text: str, build_args: Mapping[str, str]) -> None:
    known = sorted(set(re.findall(r"\{\{\s*(\w+)\s*\}\}", text)))
    for name in build_args:
        if name not in known:
            raise UserError(f"{definition} has no argument '{name}'; {valid_names(name, known)}")


def _scratch_root() -> Path:
    """Return the directory in which images are unpacked while they are built.

    Raises:
        MissingRequirement: The directory cannot be used.
    """
    named = os.environ.get("APPTAINER_TMPDIR")
    try:
        place = Path(named).absolute() if named else temporary_directory()
        with tempfile.TemporaryFile(dir=place):
            noexec = is_noexec(place)
    except OSError as error:
        where = f"APPTAINER_TMPDIR, {named}, cannot be written: " if named else ""
        raise MissingRequirement(f"{where}{error.strerror}", fix=_OTHER_SCRATCH) from error
    if noexec:
        raise MissingRequirement(
            f"{place} is mounted noexec, so programs of an image could not run there while it is "
            "built",
            fix=_OTHER_SCRATCH,
        )
    return place


def _check_space(definition: Path, text: str, place: Path) -> None:
    """Check the temporary space for an unpacked base image from a registry.

    Raises:
        MissingRequirement: The space is too small.
    """
    if not re.search(r"^Bootstrap:\s*docker\b", text, flags=re.MULTILINE | re.IGNORECASE):
        return
    free = shutil.disk_usage(place).free
    if free < _DOCKER_BUILD_BYTES:
        raise MissingRequirement(
            f"building from {definition} needs about {_DOCKER_BUILD_BYTES / 1e9:.0f} GB "
            f"of temporary space, but {place} has {free / 1e9:.1f} GB free",
            fix=_OTHER_SCRATCH,
        )


def _run(command: list[str], environ: Mapping[str, str], log_descriptor: int, log: Path) -> None:
    """Run a step of the build with its output in the log.

    Raises:
        MissingRequirement: The step fails; the message holds the end of the log.
    """
    done = subprocess.run(
        command,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=log_descriptor,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        end = "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])
        raise MissingRequirement(
            f"building the image failed: {Path(command[0]).name} ended with status "
            f"{done.returncode}. "
            f"The end of {log}:\n{end}\n",
            fix=f"fix the error that {log} shows, then build again",
        )


def _uses(definition: str, variable: str) -> bool:
    """Return whether a definition file uses the variable.

    Apptainer refuses an argument that the definition does not use.
    """
    return re.search(r"\{\{\s*" + re.escape(variable) + r"\s*\}\}", definition) is not None


def _has_option(runtime: str, option: str) -> bool:
    return option in _answer([runtime, "build", "--help"])


def _version(runtime: str) -> str:
    """Return the runtime's version, e.g. ``apptainer version 1.4.5``."""
    return _answer([runtime, "--version"]).strip()


def _answer(command: list[str]) -> str:
    """Return the output of a short command of the runtime.

    Raises:
        MissingRequirement: The command does not end.
    """
    answer = ask(command, _INSPECT_S)
    if answer.problem is not None:
        raise MissingRequirement(
            f"'{' '.join(command)}' {answer.problem}",
            fix="run it by hand; perhaps its file system does not answer",
        )
    return answer.text


def _project_version(project: Path) -> str:
    """Return the version of the package in a checkout.

    The image holds this version, even if another version of the package builds the image.
    """
    text = (project / "agenttts" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, flags=re.MULTILINE)
    return match[1] if match else __version__


def _has_capability(number: int) -> bool:
    """Return whether this process is permitted a capability (capabilities(7)).

    The result is True if this cannot be determined.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    match = re.search(r"^CapPrm:\s*([0-9a-f]+)", status, flags=re.MULTILINE)
    return match is None or bool(int(match[1], 16) >> number & 1)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sidecar(image: Path) -> Path:
    return image.with_name(f"{image.name}.json")


def _read_sidecar(image: Path) -> dict[str, Any]:
    return read_object(_sidecar(image))
