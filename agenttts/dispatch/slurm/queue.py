"""The state of Slurm jobs, from squeue first and from sacct second.

Order of trust: a valid result of the trial > squeue > sacct. sacct is optional, because many small
clusters have no accounting. While a job is being requeued, sacct reports NODE_FAIL for it, so sacct
is asked only about jobs that squeue does not know. A job that squeue does not know has ended, even
if sacct calls the job RUNNING or PENDING, because slurmdbd may not have been told of the job's end.
The exception is a job that was submitted in the last minutes: squeue may not list it yet
(`agenttts.dispatch.slurm.row_status`).
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs, is_user, user_name
from agenttts.dispatch.service import ELSEWHERE
from agenttts.dispatch.slurm.cluster_config import elsewhere_sentence, hidden_users, other_cluster
from agenttts.dispatch.slurm.commands import (
    ask_slurm,
    check_present,
    output_of,
    problems_of,
    run_slurm,
)
from agenttts.dispatch.slurm.foreign import why_foreign
from agenttts.dispatch.slurm.queue_reader import (
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    QueueAnswer,
    QueueRow,
    read_sacct,
    read_squeue,
)
from agenttts.dispatch.slurm.row_status import (
    FOREIGN,
    HELD,
    gave_up_mark,
    lives,
    row_status,
    status,
)
from agenttts.errors import counted

log = logging.getLogger(__name__)

# The most job ids in one command line.
_JOBS_AN_UPDATE = 200
# What sacct says if the cluster keeps no accounts of jobs, if this user may not read the accounts,
# or if sacct cannot start here.
_NO_ACCOUNTING = re.compile(
    r"accounting storage is disabled|accounting_storage/none|access/permission denied"
    r"|error while loading shared libraries|cannot be run",
    re.IGNORECASE,
)
# What scancel says of a job of another user.
_DENIED = re.compile(r"access/permission denied", re.IGNORECASE)


def job_states(job_ids: Iterable[str], run: RunJobs = UNKNOWN_RUN) -> dict[str, JobStatus]:
    """Return the status of each job.

    A job that neither squeue nor sacct knows has ended for unknown reasons, unless it cannot be
    seen from here. The arguments are those of `job_rows`.
    """
    return {job: row_status(job, row) for job, row in job_rows(job_ids, run).items()}


def states_of_runs(
    jobs: Iterable[tuple[str, RunJobs]],
) -> dict[tuple[str, RunJobs], JobStatus]:
    """Return the status of jobs of several runs, as `job_states` does for one."""
    return {job: row_status(job[0], row) for job, row in _rows_of_runs(jobs).items()}


def job_rows(job_ids: Iterable[str], run: RunJobs = UNKNOWN_RUN) -> dict[str, QueueRow | None]:
    """Return the row of each job from squeue, else from sacct.

    The row is None if neither command knows the job. If the job cannot be seen from here, or
    another job has its number, the row says so, and `row_status` reads it.

    Args:
        job_ids: The jobs.
        run: Their run.

    Raises:
        QueueUnavailable: Slurm does not answer; or an answer was cut off, and a job that was not
            found may have been in the missing part.
        MissingRequirement: squeue is not on PATH.
    """
    return {job: row for (job, _), row in _rows_of_runs((job, run) for job in job_ids).items()}


def _rows_of_runs(
    jobs: Iterable[tuple[str, RunJobs]],
) -> dict[tuple[str, RunJobs], QueueRow | None]:
    wanted = list(jobs)
    # `other_cluster` is called once for each run, because a failed answer of Slurm is not kept.
    elsewhere = {run for run in dict.fromkeys(run for _, run in wanted) if other_cluster(run)}
    rows: dict[tuple[str, RunJobs], QueueRow | None] = {
        (job, run): _elsewhere_row(job, run) for job, run in wanted if run in elsewhere
    }
    if here := [job for job in wanted if job not in rows]:
        found = _rows(here, _squeue(_other_users(here)))
        rows = {job: rows[job] if job in rows else found[job] for job in wanted}
    return rows


def _other_users(jobs: Iterable[tuple[str, RunJobs]]) -> list[str]:
    return sorted({user for _, run in jobs for user in run.other_users})


def _elsewhere_row(job: str, run: RunJobs) -> QueueRow:
    return QueueRow(ELSEWHERE, elsewhere_sentence(run, f"is job {job}"))


def live_jobs_of(
    job_ids: Iterable[str], run: RunJobs = UNKNOWN_RUN, *, unlisted: bool = False
) -> list[str]:
    """Return the jobs that have not ended.

    If sacct does not answer, only squeue's answer decides which jobs have not ended.

    Args:
        job_ids: The jobs.
        run: Their run.
        unlisted: Used only if sacct does not answer: whether jobs that squeue does not list are
            returned. Such jobs have most likely ended. If the answer of squeue was cut off, jobs
            that it does not list are always returned.

    Raises:
        QueueUnavailable: squeue does not answer.
    """
    wanted = [(job, run) for job in job_ids]
    if not wanted:
        return []
    if other_cluster(run):
        return [job for job, _ in wanted]
    queue = _squeue(run.other_users)
    unlisted = unlisted or not queue.complete
    try:
        rows = _rows(wanted, queue)
    except QueueUnavailable:
        known = _own_rows(wanted, queue)
        rows = {job: row for job, row in known.items() if unlisted or row is not None}
        return [
            job for (job, _), row in rows.items() if row is None or not row_status(job, row).ended
        ]
    return [job for (job, _), row in rows.items() if not row_status(job, row).ended]


def foreign_jobs(job_ids: Iterable[str], run: RunJobs) -> dict[str, str]:
    """Return jobs with these ids that wait or run and are not of the run, and why.

    Raises:
        QueueUnavailable: squeue does not answer.
    """
    rows = _squeue(run.other_users).rows
    found = {job: why_foreign(rows[job], run) for job in job_ids if job in rows}
    return {job: why for job, why in found.items() if why and lives(rows[job])}


def _own_rows(
    wanted: Sequence[tuple[str, RunJobs]], queue: QueueAnswer
) -> dict[tuple[str, RunJobs], QueueRow | None]:
    """Return squeue's rows of jobs of runs; a row of another job says that it is one."""
    rows: dict[tuple[str, RunJobs], QueueRow | None] = {}
    for job, run in wanted:
        row = queue.rows.get(job)
        why = "" if row is None else why_foreign(row, run)
        rows[job, run] = QueueRow(FOREIGN, why) if why else row
    return rows


def _rows(
    wanted: Sequence[tuple[str, RunJobs]], queue: QueueAnswer
) -> dict[tuple[str, RunJobs], QueueRow | None]:
    rows = _own_rows(wanted, queue)
    missing = [job for job, row in rows.items() if row is None]
    if not missing:
        return rows
    if not queue.complete:
        raise _cut_off("squeue")
    accounted = _sacct(list(dict.fromkeys(job for job, _ in missing)), _other_users(missing))
    hiding = {run for run in dict.fromkeys(run for _, run in missing) if hidden_users(run)}
    for job, run in missing:
        row = accounted.rows.get(job)
        rows[job, run] = None if row is None else replace(row, unqueued=True)
        if run in hiding and (row is None or not status(row.state, "").ended):
            rows[job, run] = _elsewhere_row(job, run)
    if not accounted.complete and any(rows[job] is None for job in missing):
        raise _cut_off("sacct")
    return rows


def give_up(job: str, row: QueueRow) -> None:
    """Cancel a pending job, and write the reason into its comment.

    The comment shows later that the job was not cancelled by the user.
    """
    set_name_and_comment(job, comment=f"{row.comment} {gave_up_mark(row)}".strip())
    # With --state=PENDING, a job that has started in the meantime continues. This option does not
    # accept the states of held jobs. So a held job is cancelled without the option, even if the job
    # has just been released.
    cancel_jobs([job], *([] if row.state in HELD else ["--state=PENDING"]))


def rows_with_comment(
    word: str | re.Pattern[str], run: RunJobs = UNKNOWN_RUN
) -> dict[str, QueueRow]:
    """Return a run's jobs whose comment holds ``word``, as a whole word.

    For example, batch=r-1 does not match batch=r-10.
    """
    pattern = re.compile(re.escape(word)) if isinstance(word, str) else word
    queue = _squeue(run.other_users)
    if not queue.complete:
        raise _cut_off("squeue")
    return {
        job: row
        for job, row in queue.rows.items()
        if any(map(pattern.fullmatch, row.comment.split())) and not why_foreign(row, run)
    }


def names_and_batch_files(jobs: Collection[str]) -> dict[str, tuple[str, Path | None]]:
    """Return the name and the batch file of jobs that the queue still has.

    The file is None if squeue does not show an absolute path.
    """
    if not jobs:
        return {}
    # %o is the batch file as it was given to sbatch (squeue(1), "COMMAND").
    command = ["squeue", "--all", "-h", "-r", "-j", ",".join(jobs), "-o", "%i|%j|%o"]
    rows = (line.split("|", 2) for line in run_slurm(command).splitlines())
    return {
        row[0]: (row[1], Path(row[2]) if row[2].startswith("/") else None)
        for row in rows
        if len(row) == 3
    }


def live_jobs() -> list[str]:
    """Return the user's jobs that have not ended; an array's elements are single jobs.

    Completing jobs are included.

    Raises:
        QueueUnavailable: squeue does not answer, or its answer was cut off.
    """
    queue = _squeue()
    if not queue.complete:
        raise _cut_off("squeue")
    return [job for job, row in queue.rows.items() if not status(row.state, "").ended]


def cancel_jobs(job_ids: Iterable[str], *options: str, run: RunJobs = UNKNOWN_RUN) -> None:
    """Cancel jobs with scancel.

    A job that has ended in the meantime does not raise an error. Nor does a job of another user of
    the run. The log names that user, and the job ends by itself.
    """
    command = ["scancel", *options, *job_ids]
    check_present(command)
    answer = ask_slurm(command)
    # If a job has ended in the meantime, scancel reports this on a line and continues with the
    # other jobs.
    problems = problems_of(answer)
    if run.other_users:
        denied = [line for line in problems if _DENIED.search(line)]
        problems = [line for line in problems if line not in denied]
        if denied:
            others = ", ".join(run.other_users)
            log.warning("jobs of %s, which you cannot cancel, go on: %s", others, "; ".join(denied))
    if problems:
        raise QueueUnavailable(
            f"'scancel' of {counted(len(command) - 1 - len(options), 'job')}: "
            f"{'; '.join(dict.fromkeys(problems))[:500]}",
            fix=(
                "check that slurmctld answers ('scontrol ping'); 'squeue --me' lists the jobs "
                "that are still there"
            ),
        )


def set_name_and_comment(job_id: str, *, name: str = "", comment: str) -> bool:
    """Give a job a comment, and a name if one is given.

    A job that has ended already is not changed. This does not count as a failure.

    Returns:
        False if Slurm refused the change or did not answer; the caller then makes no further
        changes.
    """
    command = ["scontrol", "update", f"JobId={job_id}", f"Comment={comment}"]
    if name:
        command.append(f"Name={name}")
    return not problems_of(ask_slurm(command))


def keep_off(job_ids: Sequence[str], nodes: str) -> None:
    """Set the nodes that waiting jobs must not run on; '' removes the restriction.

    A job that has started in the meantime continues.

    Raises:
        QueueUnavailable: Slurm refused the change; the message quotes it. Some of the jobs may have
            been changed.
    """
    problems = []
    for first in range(0, len(job_ids), _JOBS_AN_UPDATE):
        some = ",".join(job_ids[first : first + _JOBS_AN_UPDATE])
        problems += problems_of(
            ask_slurm(["scontrol", "update", f"JobId={some}", f"ExcNodeList={nodes}"])
        )
    if problems:
        raise QueueUnavailable(
            f"'scontrol update JobId=... ExcNodeList={nodes}': "
            f"{'; '.join(dict.fromkeys(problems))[:500]}",
            fix=(
                "to avoid these nodes, cancel the pending jobs; they are submitted again without "
                "these nodes"
            ),
        )


@contextmanager
def one_squeue_call() -> Iterator[None]:
    """Answer all questions about the queue in the block with one call of squeue.

    The call is made at the first question. This context is only for showing the queue: nothing may
    be submitted or cancelled because of these answers.
    """
    token = _KEPT.set([])
    try:
        yield
    finally:
        _KEPT.reset(token)


# Answers, each with the other users whose jobs are in it.
_KEPT: ContextVar[list[tuple[frozenset[str], QueueAnswer]] | None] = ContextVar(
    "kept", default=None
)


def _squeue(others: Iterable[str] = ()) -> QueueAnswer:
    """Return the jobs of this user and of others, as far as this user sees them."""
    users = frozenset(user for user in others if is_user(user))
    kept = _KEPT.get()
    if kept is None:
        return _asked_squeue(users)
    if not kept or not users <= kept[-1][0]:
        kept.append((users, _asked_squeue(users)))
    return kept[-1][1]


def _asked_squeue(others: Collection[str]) -> QueueAnswer:
    # No -j: with a single id, squeue fails if that job has been purged.
    # -t all: jobs that have just ended stay for MinJobAge.
    # With a header: the answer is recognised after a site's banner.
    # --all: otherwise jobs in hidden partitions would be missing, as if they had ended.
    whose = ["-u", ",".join([user_name(), *sorted(others)])] if others else ["--me"]
    command = ["squeue", "--all", *whose, "-r", "-t", "all", "-o", SQUEUE_FORMAT]
    return read_squeue(output_of(command))


def _sacct(job_ids: list[str], others: Sequence[str]) -> QueueAnswer:
    if shutil.which("sacct") is None:
        return QueueAnswer()
    users = [user_name(), *filter(is_user, others)]
    whose = ["-u", ",".join(users)] if others else []
    answer = ask_slurm(["sacct", "-P", "-X", *whose, "-o", SACCT_FIELDS, "-j", ",".join(job_ids)])
    if not answer.succeeded:
        silent = answer.problem is None and not (answer.output + answer.errors).strip()
        if silent or _NO_ACCOUNTING.search(answer.quoted()):
            return QueueAnswer()
        raise QueueUnavailable(
            "the states of jobs that squeue no longer shows are not known: "
            f"'sacct' {answer.failure()}",
            fix="try again when 'sacctmgr ping' shows that slurmdbd is up",
        )
    return read_sacct(answer.output)


def _cut_off(command: str) -> QueueUnavailable:
    return QueueUnavailable(
        f"the output of {command} was cut off, so jobs that are missing in it may still exist",
        fix=f"run '{command}' by hand; it should print complete lines",
    )
