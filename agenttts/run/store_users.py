"""Which runs use a sample store that is not in their own directory.

Such a run leaves a file in the store, so that the run whose directory the store is in does not
remove it (`agenttts.launch.clean`). The files are in the store itself, as shards are: who may write
the one may write the other.

`clean` marks the store before it looks for users, and a launch records its run before it looks for
the mark. So one of the two always sees the other. Locks would need a file that both may write to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agenttts.errors import MissingRequirement, cli_command
from agenttts.files.atomic import atomic_write_text

_PREFIX = ".user-"
"""The beginning of the files' names; no shard's name begins with a dot."""
CLEANED = ".cleaned"
"""The name of the file that marks a store while its samples are removed."""


def record_store_user(store: Path, run: Path) -> None:
    """Record that a run uses a store.

    Args:
        store: The store's directory, which exists.
        run: The run's directory.

    Raises:
        MissingRequirement: Its samples are being removed.
        OSError: The store cannot be written to.
    """
    mark = store / CLEANED
    if not mark.exists():
        atomic_write_text(_record(store, run), f"{run}\n")
    # If the mark was made meanwhile, the record stays: it may be that of another launch of the run.
    if mark.exists():
        raise MissingRequirement(
            f"'{cli_command('clean')}' is removing the samples in {store}",
            fix=f"launch again when it has ended; if it was killed, remove {mark} first",
        )


def forget_store_user(store: Path, run: Path) -> None:
    """Remove the record of a run that was not started."""
    _record(store, run).unlink(missing_ok=True)


@contextmanager
def without_new_users(store: Path) -> Iterator[None]:
    """Refuse launches that want to use a store, while its samples are removed.

    Raises:
        OSError: The store cannot be written to.
    """
    store.mkdir(exist_ok=True)
    mark = store / CLEANED
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def store_users(store: Path) -> dict[Path, Path | None]:
    """Return the runs that are recorded in a store, by their records.

    A run is None if this user cannot read its record.
    """
    found: dict[Path, Path | None] = {}
    for file in sorted(store.glob(f"{_PREFIX}*.txt")):
        try:
            found[file] = Path(file.read_text(encoding="utf-8").strip())
        except FileNotFoundError:  # its run has just been removed
            continue
        except (OSError, UnicodeDecodeError):
            found[file] = None
    return found


def _record(store: Path, run: Path) -> Path:
    digest = hashlib.sha256(str(run).encode()).hexdigest()[:16]
    return store / f"{_PREFIX}{digest}.txt"
