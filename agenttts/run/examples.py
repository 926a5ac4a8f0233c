"""The examples of a run: frozen at launch, checked before trials use them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agenttts.errors import RunFailed, UserError, cli_command
from agenttts.files.documents import parse_json, typed
from agenttts.run.directory import RunDirectory
from agenttts.run.progress import TrialProgress
from agenttts.tasks.base import Example

# Two changes within the resolution of a file system's clock leave equal times. It is at most 2 s.
_SETTLED_S = 10.0


def write_examples(path: Path, examples: Sequence[Example]) -> str:
    """Freeze examples into a run, and return the file's SHA-256."""
    lines = (
        json.dumps({"id": example.id, "data": example.data}, ensure_ascii=False) + "\n"
        for example in examples
    )
    content = "".join(lines).encode()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def count_examples(path: Path) -> int:
    """Return the number of examples in a file of frozen ones."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def read_frozen(path: Path) -> list[Example]:
    """Return the examples in a file of `write_examples`.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line]
        return [typed(Example, parse_json(line)) for line in lines]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path}: the run's examples cannot be read: {reason}; {restore_advice(path.parent)}"
        ) from None


class ExamplesGuard:
    """Finds damage of frozen examples, before trials are scored on them.

    A file is read again only after a change of its size, its times or the file itself: it may be
    large, and it is checked before every trial of an asynchronous search.

    Args:
        directory: The directory of the run.
        digests: SHA-256 by file name, as recorded at launch. A file without one is accepted as it
            is first seen.
    """

    def __init__(self, directory: RunDirectory, digests: Mapping[str, str]) -> None:
        self._directory = directory
        self._digests = dict(digests)
        self._undamaged: dict[Path, tuple[int, ...]] = {}

    def check(self, trials: Iterable[TrialProgress]) -> None:
        """Check the files of examples that unfinished trials are scored on.

        Raises:
            RunFailed: A file is damaged, so every trial would fail.
        """
        sources = dict.fromkeys(t.planned.source for t in trials if t.row is None)
        for path in dict.fromkeys(self._directory.examples_of(source) for source in sources):
            self._check_file(path)

    def _check_file(self, path: Path) -> None:
        """Check that a file of examples is undamaged and the one of the launch.

        Raises:
            RunFailed: It is not; the message names file and line.
        """
        try:
            status = path.stat()
            times = (status.st_mtime_ns, status.st_ctime_ns)
            seen = (status.st_dev, status.st_ino, status.st_size, *times)
            if self._undamaged.get(path) == seen:
                return
            content = path.read_bytes()
        except OSError as error:
            raise RunFailed(
                f"{path}: the run's examples cannot be read: {error.strerror}; "
                f"{restore_advice(path.parent)}"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        if self._digests.get(path.name) == digest:
            if time.time() - status.st_ctime >= _SETTLED_S:
                self._undamaged[path] = seen
            return
        lines = [line for line in content.split(b"\n") if line]
        for number, line in enumerate(lines, start=1):
            try:
                typed(Example, parse_json(line))
            except ValueError as error:
                raise RunFailed(
                    f"{path}:{number}: not a valid example ({type(error).__name__}: {error}); "
                    f"the run's examples are damaged: {restore_advice(path.parent)}"
                ) from None
        if not lines or not content.endswith(b"\n"):
            raise RunFailed(
                f"{path}: some of the run's examples are missing at the end; "
                f"{restore_advice(path.parent)}"
            )
        if path.name in self._digests:
            raise RunFailed(
                f"{path}: the run's examples have changed since the launch; "
                f"{restore_advice(path.parent)}"
            )
        self._digests[path.name] = digest


def restore_advice(run: Path) -> str:
    """Return what to do about a damaged file that launch put into a run's directory."""
    return (
        f"restore the file from a copy and run '{cli_command('resume', run)}', "
        "or launch the spec under another --name"
    )
