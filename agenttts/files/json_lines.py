"""Append-only files of JSON objects, one per line.

They are the journal of a run and the transcript of its language model. A line is on the disk when
`JsonLinesFile.append` returns. A last line without its end is the rest of a write that a crash cut
short. Readers leave it out, and a writer cuts it off when it opens the file. The reader decides
what a damaged line before the last one means: the journal refuses the file, and the transcript
leaves the line out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from agenttts.errors import MissingRequirement
from agenttts.files.documents import parse_json
from agenttts.files.trouble import FilesUnavailable

Damaged = Callable[[int, str], None]
"""Called for a line that is not JSON: its number, from 1, and the fault.

It may raise.
"""


class LineNotWritten(MissingRequirement):
    """A line could not be written whole, e.g. on a full disk.

    No part of it is left in the file.
    """


class JsonLinesFile:
    """The only writer of a file of JSON lines.

    The file is created when its first line is written.

    Args:
        path: The file. The rest of a last line that a crash cut short is removed here.
        what: The name of the file in errors ("journal").
        fix: The step after which writing works again, for errors.

    Raises:
        OSError: The file exists and cannot be opened for writing.
    """

    def __init__(self, path: Path, *, what: str, fix: str) -> None:
        self._path = path
        self._what = what
        self._fix = fix
        self._stream: BinaryIO | None = None
        self._length = 0
        self._failed = False
        if path.exists():
            self._length = path.read_bytes().rfind(b"\n") + 1
            self._open().truncate(self._length)

    def append(self, document: Mapping[str, Any]) -> None:
        """Write an object to the disk, whole or not at all.

        Raises:
            LineNotWritten: It cannot be written. It may be appended again later.
            FilesUnavailable: The file has lost the end to which earlier lines were written.
        """
        line = json_line(document)
        try:
            stream = self._reopened() if self._failed else self._stream or self._open()
            written = 0
            while written < len(line):
                written += stream.write(line[written:])
            os.fsync(stream.fileno())
        except OSError as error:
            self._failed = True
            if self._stream is not None:
                with suppress(OSError):  # a part of a line before other lines is damage
                    self._stream.truncate(self._length)
            raise LineNotWritten(
                f"{self._path}: the {self._what} cannot be written: {error.strerror}", fix=self._fix
            ) from error
        self._length += len(line)

    def close(self) -> None:
        """Close the file; appended lines are on the disk already."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()

    def _open(self) -> BinaryIO:
        # Unbuffered, because a line that could not be written must not be written later.
        self._stream = self._path.open("ab", buffering=0)
        return self._stream

    def _reopened(self) -> BinaryIO:
        """Return the file, opened again after a failed append.

        Its handle may be stale, and it may hold a part of a line.
        """
        # A file that had lines is never replaced by a new file.
        stream = self._path.open("r+b" if self._length else "ab", buffering=0)
        if stream.seek(0, os.SEEK_END) < self._length:
            stream.close()
            raise FilesUnavailable(
                f"{self._path}: the file system has lost the end of the {self._what}",
                fix=self._fix,
            )
        stream.truncate(self._length)
        stream.seek(self._length)
        if self._stream is not None:
            with suppress(OSError):  # closing reports lost data, which is written again
                self._stream.close()
        self._stream = stream
        self._failed = False
        return stream


def json_line(document: Mapping[str, Any]) -> bytes:
    """Return an object as a line.

    Texts that are not valid Unicode (from unusual file names) stay readable.
    """
    text = json.dumps(document, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_json_lines(
    path: Path, damaged: Damaged, *, unfinished: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yield the value of each line, with its number (from 1).

    A file that does not exist has no lines.

    Args:
        path: The file.
        damaged: Called for every line that is not JSON; the line is then left out, unless this
            raises.
        unfinished: Whether a last line without its end is read too.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    last = lines.pop()
    if unfinished and last:
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        try:
            document = parse_json(line)
        except ValueError as error:
            damaged(number, str(error))
        else:
            yield number, document


def readable_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file's lines, without damaged lines.

    A last line without its end is read if it is whole.

    Raises:
        OSError: The file cannot be read.
    """

    def leave_out(number: int, problem: str) -> None:
        """Ignore a damaged line."""

    lines = read_json_lines(path, leave_out, unfinished=True)
    return [document for _, document in lines if isinstance(document, dict)]
