"""This machine's directory for temporary files."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from shutil import disk_usage

from agenttts.files.trouble import PASSING

# Where Python looks for it (see `tempfile.gettempdir`).
_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_COMMON = ("/tmp", "/var/tmp", "/usr/tmp")


def temporary_directory() -> Path:
    """Return the directory for temporary files.

    If none can be written, Python takes the working directory, which may be on a shared file system
    and is taken here only if a variable names it.

    Raises:
        OSError: None can be written; the text says why. The number is one of a trouble that may
            pass, such as a full disk, if that is the reason for any of them.
    """
    places = _places()
    try:
        found = resolved(tempfile.gettempdir())
        if found in places or found != Path.cwd():
            return found
    except FileNotFoundError:  # not even the working directory
        pass
    errors: dict[Path, OSError] = {}
    for place in places:
        error = _write_error(place)
        if error is None:
            return place  # it could not be written when Python looked, which it does once
        errors[place] = error
    reasons = ", ".join(f"{place} ({error.strerror})" for place, error in errors.items())
    raise OSError(
        next((e.errno for e in errors.values() if e.errno in PASSING), errno.ENOENT),
        f"no directory for temporary files can be written: {reasons}; TMPDIR names another one",
    )


def executable_directory(needed: int) -> Path:
    """Return a directory for temporary files from which code can be loaded.

    This is `temporary_directory`, unless it is mounted ``noexec`` and another of its places is not,
    can be written and has room. If there is no such place, it is `temporary_directory`.

    Args:
        needed: The free bytes that another place must have.

    Raises:
        OSError: As of `temporary_directory`.
    """
    usual = temporary_directory()
    if not is_noexec(usual):
        return usual
    others = (place for place in _places() if _write_error(place) is None)
    return next((p for p in others if not is_noexec(p) and disk_usage(p).free >= needed), usual)


def resolved(place: str) -> Path:
    """Return a place of the environment without links in its path.

    As it is, if it is a relative one and the working directory was removed.
    """
    try:
        return Path(os.path.realpath(place))  # in a circle of links it ends; `resolve` raises
    except FileNotFoundError:
        return Path(place)


def _places() -> list[Path]:
    """Return the places that are tried, the preferred one first."""
    named = [os.environ[name] for name in _VARIABLES if os.environ.get(name)]
    return list(dict.fromkeys(resolved(place) for place in (*named, *_COMMON)))


def _write_error(directory: Path) -> OSError | None:
    try:
        with tempfile.TemporaryFile(dir=directory) as stream:
            stream.write(b"written\n")
            stream.flush()
    except OSError as error:
        return error
    return None


def is_noexec(directory: Path) -> bool:
    """Return whether programs in a directory cannot be executed (``noexec``).

    Raises:
        OSError: The directory cannot be read.
    """
    return bool(os.statvfs(directory).f_flag & os.ST_NOEXEC)
