"""Which runs use a sample store that is not in their own directory.

Such a run leaves a file in the store, so that the run whose directory the store is in does not
remove it (`agenttts.launch.clean`). The files are in the store itself, as shards are: who may write
the one may write the other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from agenttts.files.atomic import atomic_write_text

_PREFIX = ".user-"
"""The beginning of the files' names; no shard's name begins with a dot."""


def record_store_user(store: Path, run: Path) -> None:
    """Record that a run uses a store.

    Args:
        store: The store's directory, which exists.
        run: The run's directory.

    Raises:
        OSError: The store cannot be written to.
    """
    atomic_write_text(_record(store, run), f"{run}\n")


def forget_store_user(store: Path, run: Path) -> None:
    """Remove the record of a run that was not started."""
    _record(store, run).unlink(missing_ok=True)


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
