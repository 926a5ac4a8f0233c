"""``agenttts-hpc`` called in this process, or as a program of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from agenttts.cli import main, output

Done = subprocess.CompletedProcess[str]


def call(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, encoding: str | None = None
) -> Done:
    """Run a command line in this process, in directory ``cwd``: what the program would do, without
    its start.

    With an ``encoding`` standard output and error are streams of bytes in it, as a terminal's are.
    """
    words = [str(argument) for argument in arguments]
    out, err = _stream(encoding), _stream(encoding)
    before = Path.cwd()
    code: object = 0
    os.chdir(cwd)
    try:
        with (
            _same_environment_afterwards(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            os.environ.pop("COLUMNS", None)  # as in a pipe, whatever runs the tests
            os.environ.update(env or {})
            output.console = output.new_console()
            try:
                main(words)
            except SystemExit as end:
                code = end.code
    finally:
        os.chdir(before)
    returncode = code if isinstance(code, int) else int(code is not None)
    return Done(words, returncode, _text(out), _text(err))


@contextlib.contextmanager
def _same_environment_afterwards() -> Iterator[None]:
    """Undo changes of variables, and set no others.

    To set all again, as `unittest.mock.patch.dict` does, could end this process with a segmentation
    fault: see `tests.support.trial_threads`.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in {*before, *os.environ}:
            if name not in before:
                del os.environ[name]
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]


def _stream(encoding: str | None) -> io.StringIO | io.TextIOWrapper:
    if encoding is None:
        return io.StringIO()
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def _text(stream: io.StringIO | io.TextIOWrapper) -> str:
    if isinstance(stream, io.StringIO):
        return stream.getvalue()
    content = stream.buffer
    assert isinstance(content, io.BytesIO)
    return content.getvalue().decode("utf-8")


def run(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> Done:  # fmt: skip
    """Run a command line as a user's shell would, in directory ``cwd``."""
    return subprocess.run(
        [sys.executable, "-m", "agenttts.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
