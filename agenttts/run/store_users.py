"""Which runs use a sample store that is not in their own directory.

Such a run leaves a file in the store's folder `USERS`, so that the run whose directory the store is
in does not remove it (`agenttts.launch.clean`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from agenttts.files.atomic import atomic_write_text

USERS = ".users"
"""The folder in a store; its name is none of a shard."""


def record_store_user(store: Path, run: Path) -> None:
    """Record that a run uses a store.

    Args:
        store: The store's directory, which exists.
        run: The run's directory.

    Raises:
        OSError: The store cannot be written to.
    """
    folder = store / USERS
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(str(run).encode()).hexdigest()[:16]
    atomic_write_text(folder / f"{digest}.txt", f"{run}\n")


def store_users(store: Path) -> list[Path]:
    """Return the directories of the runs that are recorded in a store and exist."""
    places = [Path(file.read_text(encoding="utf-8").strip()) for file in _records(store)]
    return [place for place in places if place.is_dir()]


def _records(store: Path) -> list[Path]:
    return sorted((store / USERS).glob("*.txt"))
