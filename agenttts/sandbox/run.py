"""The caller's side of the sandbox: takes files and returns an `Outcome`."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import agenttts
from agenttts.errors import MissingRequirement
from agenttts.sandbox import filesystem, seccomp
from agenttts.sandbox.base import Limits, Outcome
from agenttts.sandbox.scratch import scratch_directory

_PACKAGE_ROOT = str(Path(agenttts.__file__).parents[1])
_SHOWN_BYTES = 16_384
_LEFT_OUT = b"\n[...]\n"
# The set-up takes a fraction of a second. A launcher that takes so much longer than its program's
# time limit has failed.
_PATIENCE_SECONDS = 60.0


def run_program(
    files: Mapping[str, str], main: str = "main.py", limits: Limits | None = None
) -> Outcome:
    """Run a Python program in a sandbox, once.

    The interpreter is the caller's. Several threads may call this at a time.

    Args:
        files: The program's texts by relative path.
        main: The path of the file to run.
        limits: The bounds of the run; None for the default ones.

    Raises:
        MissingRequirement: The machine cannot make the sandbox; no program has come to its end.
        OSError: The machine's disk, memory, processes or open files are used up, or it does not
            answer, likewise.
        ValueError: A path leaves the program's directory.
    """
    bounds = limits or Limits()
    with scratch_directory() as base:
        _write_files(base / filesystem.PROGRAM, files)
        options = ["-E", "-s", "-B", "-u", *_cpu_count()]
        command = [sys.executable, *options, main]
        shown = [sys.base_prefix, sys.exec_prefix, sys.prefix]
        task = {"base": str(base), "shown": shown, "command": command, "limits": asdict(bounds)}
        report = _launch(json.dumps(task), bounds.seconds + _PATIENCE_SECONDS)
        if "refused" in report:
            raise missing(report["refused"], report.get("fix"))
        if "error" in report:
            raise OSError(*report["error"])
        return Outcome(
            exit_code=report["exit_code"],
            stopped=report["stopped"],
            stdout=_both_ends(base / "stdout"),
            stderr=_both_ends(base / "stderr"),
            seconds=report["seconds"],
        )


@cache
def check_sandbox() -> None:
    """Check that a sandbox can be made here.

    It runs an empty program, once per process.

    Raises:
        MissingRequirement: The sandbox cannot be made.
    """
    if not sys.platform.startswith("linux") or not seccomp.supported():
        raise missing(f"it supports Linux on x86-64 and 64-bit ARM, not {platform.machine()}")
    outcome = run_program({"main.py": ""}, limits=Limits(seconds=30, idle_seconds=30))
    if outcome.exit_code != 0:
        why = outcome.stderr.strip().splitlines()[-1:] or [f"stopped: {outcome.stopped}"]
        raise missing(f"an empty program failed in it ({why[0]})")


def _cpu_count() -> list[str]:
    """Return the option that Python 3.13 and later take for the number of cores.

    They count the cores that the process may use, not what the C library says.
    """
    return ["-X", f"cpu_count={filesystem.SHOWN_CPUS}"] if sys.version_info >= (3, 13) else []


def _launch(task: str, timeout: float) -> dict[str, Any]:
    code = (
        f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); from agenttts.sandbox.launcher "
        "import main; main()"
    )
    with subprocess.Popen(
        # Isolated and without site packages: nothing of the caller's environment, and a quick
        # start.
        [sys.executable, "-I", "-S", "-B", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.defpath, "LANG": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
        text=True,
    ) as launcher:
        try:
            output, errors = launcher.communicate(task, timeout=timeout)
        except BaseException as error:
            # When the launcher ends, the kernel ends every process of the sandbox.
            launcher.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                text = f"the sandbox's launcher did not end within {timeout:g} s"
                raise OSError(errno.ETIMEDOUT, text) from None
            raise
    if launcher.returncode != 0 or not output:
        tail = errors.strip().splitlines()[-1:] or [f"exit code {launcher.returncode}"]
        fix = (
            f"see that 'env -i {sys.executable} -I -S -c pass' works here: a program gets none of "
            "the shell's variables, such as LD_LIBRARY_PATH"
        )
        return {"refused": f"its launcher failed: {tail[0]}", "fix": fix}
    report: dict[str, Any] = json.loads(output)
    return report


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir()
    for name, text in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"'{name}' is not a path inside the program's directory")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", errors="replace")


def _both_ends(path: Path) -> str:
    """Return an output; of a long one the beginning and the end."""
    try:
        with path.open("rb") as stream:
            output = stream.read(_SHOWN_BYTES)
            size = os.fstat(stream.fileno()).st_size
            if size > _SHOWN_BYTES:
                stream.seek(size - _SHOWN_BYTES // 2)
                output = output[: _SHOWN_BYTES // 2] + _LEFT_OUT + stream.read(_SHOWN_BYTES // 2)
            return output.decode("utf-8", errors="replace")
    except FileNotFoundError:  # ended before it was opened
        return ""


def missing(why: str, fix: str | None = None) -> MissingRequirement:
    """Return the error about a machine that cannot make the sandbox.

    `agenttts.dispatch.messages` knows its first words: the node is at fault, no allocation is.
    """
    return MissingRequirement(
        f"the sandbox for programs that models write does not work on this machine: {why}",
        fix=fix
        or (
            "allow user namespaces on the nodes ('sysctl user.max_user_namespaces' must be above "
            "0, and no security module may forbid them), or run the trials on nodes that allow them"
        ),
    )
