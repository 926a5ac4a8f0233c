"""Write the drafted files; where one cannot be written, none is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from agenttts.errors import UserError
from agenttts.files.atomic import atomic_write_text

_ELSEWHERE = "choose another --name, --cluster or --out"


def write(files: Mapping[Path, str], *, force: bool) -> None:
    """Write the files of a draft, by path.

    Raises:
        UserError: One of them exists, and ``force`` is false, or a folder cannot be written.
            Nothing has been written then.
    """
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise UserError(
            f"{', '.join(there)} exists already, and nothing was written; {_ELSEWHERE}, or replace "
            "it with --force"
        )
    for path in files:
        _check_folder(path.parent)
        if path.is_dir():
            raise UserError(f"{path} is a directory, and nothing was written; {_ELSEWHERE}")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)


def _check_folder(folder: Path) -> None:
    """Check that files can be made in a folder, which may have to be made first.

    Raises:
        UserError: They cannot.
    """
    absolute = folder.absolute()
    first = next(path for path in (absolute, *absolute.parents) if os.path.lexists(path))
    if not first.is_dir() or not os.access(first, os.W_OK | os.X_OK):
        why = "may not be written" if first.is_dir() else "is no directory"
        raise UserError(f"{first} {why}, and nothing was written; {_ELSEWHERE}")
