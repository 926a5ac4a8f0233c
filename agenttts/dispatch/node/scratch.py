"""A job's scratch directory on the node.

It is bound into the container as ``/tmp`` and removed when the job ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.apptainer import CACHE_FOLDER, HOME_FOLDER
from agenttts.dispatch.node.compile_cache import archive_path, publish, restore
from agenttts.dispatch.node.preflight import SCRATCH_BYTES
from agenttts.files.temporary import executable_directory


class NoScratchDirectory(Exception):
    """No scratch directory can be made on this node; the message says why."""


@dataclass(frozen=True)
class CompileCache:
    """Where compiled code is kept between jobs.

    ``directory`` is one that all nodes see; ``image`` is the digest of the image it is for.
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
