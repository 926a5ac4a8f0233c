"""Read what squeue and sacct print.

Pure and tolerant: the answers also hold other jobs of the user, and anything that a site adds.

A line of squeue begins with fields that hold neither ``|`` nor line breaks: the job's number with
its nodes, and the state. The reason and the comment, which may hold both, come last, with the path
of the batch file after " |". The second line of a comment is a line of its own, and so is a site's
banner. So a line that does not begin with a job's number and a state is not a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from agenttts.dispatch.base import QueueUnavailable

# %o is the batch file as it was given to sbatch (squeue(1), "COMMAND").
SQUEUE_FORMAT = "%i %N|%T|%r|%k |%o"
SACCT_FIELDS = "JobID,State,NodeList,Submit"
_HEADER = re.compile(
    r"JOBID[ \w()]*\|STATE\|REASON\|COMMENT(?: \|COMMAND)?|JobID\|State(\|NodeList(\|Submit)?)?"
)
# 123, 123_4, 123_[5-9,11%2], and 123+0 for a part of a heterogeneous job (squeue(1), "%i").
_JOB_ID = re.compile(r"(\d+)(?:_(\d+)|_\[([^\[\]]*)\]|\+(\d+))?", re.ASCII)
_ELEMENTS = re.compile(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?", re.ASCII)
# The name of one node. A list of several nodes and "None assigned" do not match.
_NODE = re.compile(r"[\w.-]+", re.ASCII)
_STATE = re.compile(r"([A-Z][A-Z_]+)\+?(?: by \d+)?", re.ASCII)
# Most elements of an array that are expanded from one answer. squeue is asked for the elements one
# by one (-r), so a range should not occur.
_MOST_ELEMENTS = 100_000


@dataclass(frozen=True)
class QueueRow:
    """One job, or one element of an array.

    ``node`` is where it runs or ran last; '' if there is none yet or there are several.
    ``submitted`` is known from sacct alone. ``unqueued`` says that squeue does not know the job,
    and that the row is sacct's. ``batch_file`` is known from squeue alone; None if squeue does not
    show an absolute path.
    """

    state: str
    reason: str = ""
    comment: str = ""
    node: str = ""
    submitted: datetime | None = None
    unqueued: bool = False
    batch_file: Path | None = None


@dataclass(frozen=True)
class QueueAnswer:
    """What was read.

    ``complete`` is false if the answer was cut off. A job that is not in it may then exist.
    """

    rows: dict[str, QueueRow] = field(default_factory=dict)
    complete: bool = True


def read_squeue(answer: bytes) -> QueueAnswer:
    """Return the rows of ``squeue -o SQUEUE_FORMAT``.

    Raises:
        QueueUnavailable: Nothing in the answer can be read.
    """
    return _read(answer, fields=4, what="squeue")


def read_sacct(answer: bytes) -> QueueAnswer:
    """Return the rows of ``sacct -P -o SACCT_FIELDS``; otherwise as `read_squeue`."""
    return _read(answer, fields=2, what="sacct")


def job_ids(text: str) -> list[str] | None:
    """Return the ids that a job's number stands for.

    They are the number itself, or the elements of ``123_[5-9%2]``. The list is empty if ``text`` is
    not a job's number. None is returned if its elements cannot be told.
    """
    match = _JOB_ID.fullmatch(text)
    if not match:
        return []
    if match[3] is None:
        return [text]
    indices: list[int] = []
    for part in match[3].partition("%")[0].split(","):
        found = _ELEMENTS.fullmatch(part)
        if not found:
            return None  # squeue cuts a long list: 123_[1,3,5,...]
        first, last, pace = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        selected = range(first, last + 1, max(1, pace))
        if len(indices) + len(selected) > _MOST_ELEMENTS:
            return None
        indices += selected
    return [f"{match[1]}_{index}" for index in indices]


def _read(answer: bytes, fields: int, what: str) -> QueueAnswer:
    text = answer.decode("utf-8", errors="replace").replace("\r\n", "\n")
    rows: dict[str, QueueRow] = {}
    known = False
    lines = text.split("\n")
    # Every line has an end, also the last one, unless the answer was cut off. The rest of a line
    # that was cut off may look like a row.
    cut_off = lines.pop()
    complete = not cut_off.strip()
    for line in lines:
        known = known or bool(_HEADER.fullmatch(line.strip()))
        found = _row(line, fields)
        if found is None:
            continue
        ids, row = found
        complete = complete and ids is not None
        for job in ids or ():
            rows.setdefault(job, row)
    if text.strip() and not rows and not known:
        shown = " ".join(text.split())[:200]
        raise QueueUnavailable(
            f"no line of the output of {what} can be read: {shown!r}",
            fix=(
                f"run '{what}' by hand; it should print its table (additional lines before "
                "or after it are ignored)"
            ),
        )
    return QueueAnswer(rows, complete)


def _row(line: str, fields: int) -> tuple[list[str] | None, QueueRow] | None:
    """Return the jobs and the row in a line; None if it is not a row."""
    parts = [part.strip() for part in line.split("|", 3)]
    if len(parts) < fields:
        return None
    number, _, node = parts[0].partition(" ")
    reason, comment = parts[2:] if fields == 4 else ("", "")
    comment, batch_file = _comment_and_file(comment)
    submitted = None
    if fields == 2:  # sacct's: the nodes are the third field
        node = "".join(parts[2:3])
        submitted = _moment("".join(parts[3:4]))
    state = _STATE.fullmatch(parts[1])
    ids = job_ids(number)
    if state is None or ids == []:
        return None
    node = node if _NODE.fullmatch(node) else ""
    return ids, QueueRow(state[1], reason, comment, node, submitted, batch_file=batch_file)


def _comment_and_file(text: str) -> tuple[str, Path | None]:
    """Return a comment, and the batch file after it."""
    comment, separator, file = f" {text}".rpartition(" |")
    if separator and file.startswith("/"):
        return comment.strip(), Path(file)
    # Slurm shows no path for a job without a batch file.
    return (comment.strip() if separator and file in ("", "(null)") else text), None


def _moment(text: str) -> datetime | None:
    """Return one of sacct's times, which are local; None for "Unknown" and the like."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
