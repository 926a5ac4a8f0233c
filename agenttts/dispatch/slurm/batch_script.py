"""The batch file of a job, and its message in the log if the job cannot start.

Pure, apart from `log_message`, which reads a log. A profile's setup lines run in the batch file's
own shell, as in a login shell: they may be spread over several lines (``if``, functions) and set
variables. The first one that fails ends the job.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.slurm.sbatch_options import flag_line
from agenttts.errors import UserError

# Beginning of a line that the batch file writes into the job's log.
MARK = "agenttts: "
# In a text of `log_message`: the node that the line names. The batch files below write it.
_NAMED_NODE = re.compile(r" on node ([\w.-]+)(?: \(exit status |; is it on )", re.ASCII)
# submitit's tags in names of folders, which it and Slurm would replace by numbers of the job.
_TAGS = ("%j", "%t", "%A", "%a")
_LONGEST_MESSAGE = 2000
_SETUP_TEXTS = ("setup line failed: ", "the setup lines did not come to their end")
_NOT_FOUND = "command not found"
# A requeued job appends to its log. What the log says before this line is of an earlier start.
_AGAIN = f"{MARK}started again on node "
_SAY_AGAIN = (
    f"[ -z \"${{SLURM_RESTART_COUNT:-}}\" ] || printf '{_AGAIN}%s\\n' "
    '"${SLURMD_NODENAME:-$HOSTNAME}" >&2'
)

# ERR is not trapped within functions and subshells. In a file that is read with `source`, the
# failing line is not the user's setup line. The line is read from the batch file itself, because
# bash would name the last command of a function and not its call. EXIT is trapped for what ends the
# shell at once: `exit`, a syntax error, a signal.
_SETUP = f"""\
agenttts_setup_ended() {{
  trap - EXIT ERR
  printf '{MARK}%s on node %s (exit status %s)\\n' "$2" "${{SLURMD_NODENAME:-$HOSTNAME}}" "$1" >&2
  exit "$1"
}}
agenttts_line() {{ sed -n "$1s/^[[:space:]]*//p" "${{BASH_SOURCE[0]}}"; }}
trap 'agenttts_status=$?; [[ ${{#BASH_SOURCE[@]}} -gt 1 ]] || agenttts_setup_ended "$agenttts_status" "setup line failed: $(agenttts_line $LINENO)"' ERR
trap 'agenttts_setup_ended "$?" "the setup lines did not come to their end"' EXIT\
"""
_AFTER_SETUP = "trap - EXIT ERR"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class BatchScript:
    """The common part of the batch files of one submission.

    ``folder`` holds their logs.
    """

    options: Mapping[str, str]
    folder: Path
    setup: Sequence[str] = ()
    login_shell: bool = False

    def text(
        self,
        command: str,
        program: str,
        array: tuple[int, int] | None = None,
        before: Sequence[str] = (),
    ) -> str:
        """Return the batch file that becomes the process of ``command``.

        Args:
            command: The command line.
            program: The program that it starts, for messages.
            array: The number of elements, and how many of them run at a time; None for a single
                job.
            before: The project's own lines, which come before the setup lines.
        """
        identity = "%A_%a" if array else "%j"
        options = {
            **self.options,
            "output": f"{_escaped(self.folder)}/{identity}_0_log.out",
            "error": f"{_escaped(self.folder)}/{identity}_0_log.err",
            "open-mode": "append",
        }
        if array:
            elements, running = array
            options["array"] = f"0-{elements - 1}%{min(elements, running)}"
        lines = ["#!/bin/bash -l" if self.login_shell else "#!/bin/bash", ""]
        lines += [f"#SBATCH {line}" for line in option_lines(options)]
        lines += ["", _SAY_AGAIN]
        if before:
            lines += ["", *before]
        if self.setup:
            lines += ["", _SETUP, *self.setup, _AFTER_SETUP]
        lines += ["", "export SUBMITIT_EXECUTOR=slurm", _start(command, program), ""]
        return "\n".join(lines)


def _start(command: str, program: str) -> str:
    """Return lines that become the process of ``command``, or log that this failed."""
    return f"""\
set +e
shopt -s execfail
exec {command}
agenttts_status=$?
printf '{MARK}%s could not be started on node %s; is it on a file system that the nodes share?\\n' \\
  {shlex.quote(program)} "${{SLURMD_NODENAME:-$HOSTNAME}}" >&2
exit "$agenttts_status\""""


def option_lines(options: Mapping[str, str]) -> list[str]:
    """Return options as a batch file has them after ``#SBATCH``, quoted."""
    lines = (flag_line(name, options[name]) for name in sorted(options))
    return [_quoted(line) for line in lines if line is not None]


def check_folder(folder: Path) -> None:
    """Check that Slurm and submitit take the name of a log in ``folder`` literally.

    Source: sbatch(1), "filename pattern": a backslash turns off all replacement, ``%`` begins one.

    Raises:
        UserError: They would replace a part of the name, or it holds a control character.
    """
    text = str(folder)
    found = next((tag for tag in _TAGS if tag in text), None)
    if found is None and "\\" in text:
        found = "\\"
    if found is None and (control := _CONTROL.search(text)):
        found = ascii(control[0])[1:-1]
    if found is not None:
        raise UserError(
            f"results directory: {text!r} contains '{found}', which Slurm interprets in the names "
            "of job logs; choose another with --results DIR; valid: a path without backslashes, "
            "line breaks, %j, %t, %A and %a"
        )


def log_message(folder: Path, job_id: str) -> str:
    """Return what a job's batch file logged about why its last start failed; else ''.

    The job may be an array's element.
    """
    try:
        with (folder / f"{job_id}_0_log.err").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 64 * 1024))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""  # no log: the node does not see the folder, or has not written yet
    found = [number for number, line in enumerate(lines) if line.startswith(MARK)]
    if not found or lines[found[-1]].startswith(_AGAIN):
        return ""
    # The line before it is the message of the shell or the program.
    before = lines[found[-1] - 1] if found[-1] - 1 not in {-1, *found} else ""
    message = lines[found[-1]].removeprefix(MARK)
    said = f"{message} ({before.strip()})" if before.strip() else message
    return said[:_LONGEST_MESSAGE] + _fix(message, before)


def _fix(message: str, before: str) -> str:
    """Return what the user can do about the message; '' if that is not known."""
    if " could not be started on node " in message:
        return (
            ". If not, install agenttts-hpc on one that they share, and continue with the command "
            "of that installation"
        )
    if message.startswith(_SETUP_TEXTS):
        login = "; 'login_shell: true' there may define the command" if _NOT_FOUND in before else ""
        return f". Fix 'setup' in the profile{login}"
    return ""


def named_node(message: str) -> str:
    """Return the node that a text of `log_message` names; '' if it names none."""
    found = _NAMED_NODE.search(message)
    return found[1] if found else ""


def _escaped(folder: Path) -> str:
    return str(folder).replace("%", "%%")


def _quoted(line: str) -> str:
    """Return an option with its value in quotes where it needs them.

    sbatch reads quotes as a shell does.
    """
    name, separator, text = line.partition("=")
    return f"{name}{separator}{shlex.quote(text)}" if separator else line
