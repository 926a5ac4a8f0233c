"""What engines compile when they start, kept between jobs.

There is one archive per kind of GPU and image; without an image, per versions of the host's Python
and of its packages that compile. A job unpacks it into its scratch directory on the
node and works there. If something was added, it writes a new archive beside the old one and renames
it into place. Readers see the old archive or the new one, never a part. If two jobs add at the same
time, one wins, and the other's additions are compiled once more.

It is one archive because shared file systems are slowest at thousands of small files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import logging
import os
import platform
import re
import secrets
import shutil
import tarfile
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from agenttts.dispatch.node.devices import granted_mig_types
from agenttts.files.commands import ask

log = logging.getLogger(__name__)

_QUERY_TIMEOUT_S = 20
# A temporary archive of this age belongs to a job that was killed while it wrote.
_STALE_S = 24 * 3600.0
# Packages whose other versions compile anew. What they compiled before is never removed from an
# archive, and each job unpacks the archive whole.
_COMPILERS = ("flashinfer-python", "torch", "triton", "vllm")


def archive_path(directory: Path, image: str) -> Path:
    """Return the archive for this node's kind of GPU and an image.

    ``image`` is any text that names the image, such as its digest; '' without an image.
    """
    name = f"{_gpu_kind()}-{image[:16] or _host_kind()}"
    return directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.tar"


def restore(archive: Path, folder: Path) -> None:
    """Unpack the archive into ``folder``, which is created.

    If the archive is absent or damaged, the folder stays empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            # An attribute, which Python 3.11.0 to 3.11.3 (Debian 12) ignore: they have no filters.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder, [member for member in tar if _is_plain(member)])
    except FileNotFoundError:
        return
    except (OSError, tarfile.TarError) as error:
        log.warning("the compile cache %s cannot be read and is not used: %s", archive, error)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)


def publish(folder: Path, archive: Path) -> bool:
    """Write ``folder`` as the new archive if it holds files that the archive lacks.

    What other jobs added since `restore` is kept. It never raises: a cache that cannot be written
    only costs time.

    Returns:
        Whether the archive was written.
    """
    try:
        known = _names(archive)
        if not {str(path.relative_to(folder)) for path in _files(folder)} - known:
            return False
        archive.parent.mkdir(exist_ok=True)  # without its parents: a removed run stays removed
        _remove_stale(archive)
        temporary = archive.with_name(f".{archive.name}.{secrets.token_hex(4)}")
        try:
            with tarfile.open(temporary, "w") as tar:
                for path in _files(folder):
                    tar.add(path, str(path.relative_to(folder)), recursive=False)
                _add_missing(tar, archive)
            temporary.replace(archive)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, tarfile.TarError) as error:
        log.warning("the compile cache %s was not written: %s", archive, error)
        return False
    return True


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a file inside the folder, as all of `publish` are."""
    path = PurePosixPath(member.name)
    return member.isreg() and not path.is_absolute() and ".." not in path.parts


def _names(archive: Path) -> set[str]:
    try:
        with tarfile.open(archive) as tar:
            return set(tar.getnames())
    except (OSError, tarfile.TarError):
        return set()


def _add_missing(tar: tarfile.TarFile, archive: Path) -> None:
    """Copy what another job has added to the published archive in the meantime."""
    here = set(tar.getnames())
    with suppress(FileNotFoundError, tarfile.TarError), tarfile.open(archive) as published:
        for member in published:
            stream = published.extractfile(member)
            if stream is None or member.name in here:
                continue
            content = stream.read()
            if len(content) < member.size:
                return  # a damaged archive: the rest of it is lost
            tar.addfile(member, io.BytesIO(content))


def _remove_stale(archive: Path) -> None:
    for path in archive.parent.glob(f".{archive.name}.*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()


def _gpu_kind() -> str:
    """Return the name of the node's GPU; ``cpu`` if it has none.

    Examples are ``NVIDIA-H100-80GB-HBM3`` and, of a job on a MIG device, this name with
    ``+MIG-1g.10gb``. vLLM and NVML know only the whole GPU, and would take the memory that was
    measured on one MIG device for that of another type.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES", "any") or shutil.which("nvidia-smi") is None:
        return "cpu"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = ask(command, _QUERY_TIMEOUT_S)
    names = sorted(set(answer.text.split("\n")) - {""}) if answer.succeeded else []
    types = [f"MIG-{kind}" for kind in granted_mig_types(os.environ, _QUERY_TIMEOUT_S)]
    return "+".join([*(names or ["gpu"]), *types])


def _host_kind() -> str:
    """Return a name for this Python and its packages that compile."""
    versions = [platform.python_version()]
    for name in _COMPILERS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return f"host-{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:12]}"
