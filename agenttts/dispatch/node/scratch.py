"""A job's scratch directory on the node: bound into the container as ``/tmp``, removed when the
job ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.apptainer import CACHE_FOLDER, HOME_FOLDER
from agenttts.dispatch.node.compile_cache import archive_path, publish, restore


@dataclass(frozen=True)
class CompileCache:
    """Where compiled code is kept between jobs: a directory all nodes see, and the digest of
    the image it is for.
    """

    directory: Path
    image: str


@contextmanager
def scratch_directory(cache: CompileCache | None) -> Iterator[Path]:
    """A new scratch directory with a home and a cache folder in it; ``cache`` fills the latter and
    takes what is new.

    Nothing is taken from a job that ends by an exception: it has to end soon.
    """
    with tempfile.TemporaryDirectory(prefix="agenttts-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        (scratch / HOME_FOLDER).mkdir()
        folder = scratch / CACHE_FOLDER
        folder.mkdir()
        if cache is None:
            yield scratch
            return
        archive = archive_path(cache.directory, cache.image)
        restore(archive, folder)
        yield scratch
        publish(folder, archive)
