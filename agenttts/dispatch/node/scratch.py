"""A job's scratch directory on the node.

It is bound into the container as ``/tmp`` and removed when the job ends. Without a container,
engines use it only for what they compile, and only if that is kept between jobs.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.apptainer import CACHE_FOLDER, HOME_FOLDER, compiler_caches
from agenttts.dispatch.node.compile_cache import archive_path, publish, restore
from agenttts.dispatch.node.preflight import SCRATCH_BYTES
from agenttts.files.temporary import executable_directory, is_noexec

log = logging.getLogger(__name__)


class NoScratchDirectory(Exception):
    """No scratch directory can be made on this node; the message says why."""


@dataclass(frozen=True)
class CompileCache:
    """Where compiled code is kept between jobs.

    ``directory`` is one that all nodes see; ``image`` is the digest of the image it is for, '' for
    the host's Python.
    """

    directory: Path
    image: str


@contextmanager
def scratch_directory(cache: CompileCache | None) -> Iterator[Path]:
    """Make a scratch directory with a home folder and a cache folder in it.

    The cache folder is filled from ``cache``, and what is new in it is added there. Nothing is
    added if the job ends by an exception, because it then has to end soon.

    Raises:
        NoScratchDirectory: This node has no place for it.
    """
    with ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(
                prefix="agenttts-",
                dir=executable_directory(SCRATCH_BYTES),
                ignore_cleanup_errors=True,
            )
            scratch = Path(stack.enter_context(made))
            (scratch / HOME_FOLDER).mkdir()
            folder = scratch / CACHE_FOLDER
            folder.mkdir()
        except OSError as error:
            what = f"{error}; TMPDIR names another one" if error.filename else error.strerror
            raise NoScratchDirectory(f"no scratch directory can be made: {what}") from error
        if cache is None:
            yield scratch
            return
        archive = archive_path(cache.directory, cache.image)
        restore(archive, folder)
        yield scratch
        publish(folder, archive)


def discard_compiled(scratch: Path) -> None:
    """Remove what was compiled, so that nothing of it is added to the archive.

    If a process was killed while it wrote a file, each later engine would get half of the file.
    """
    shutil.rmtree(scratch / CACHE_FOLDER, ignore_errors=True)


def host_caches(scratch: Path) -> dict[str, str]:
    """Return the variables that make engines on the host compile in ``scratch``.

    XDG_CACHE_HOME is not among them, because models of the hub may be below it.

    Returns:
        The variables; empty if compiled code cannot be loaded from there, or has no room there.
        Engines then compile in their usual places.
    """
    try:
        problem = "is mounted noexec" if is_noexec(scratch) else ""
        free = shutil.disk_usage(scratch).free
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    else:
        if not problem and free < SCRATCH_BYTES:
            problem = f"has {free / 1e9:.1f} GB free, and {SCRATCH_BYTES / 1e9:.1f} GB are needed"
    if problem:
        log.warning("the compile cache is not used: %s %s", scratch, problem)
        return {}
    return compiler_caches(str(scratch / CACHE_FOLDER))
