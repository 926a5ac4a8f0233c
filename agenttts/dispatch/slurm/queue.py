"""The state of Slurm jobs, from squeue first and from sacct second.

Order of trust: a valid result of the trial > squeue > sacct. sacct is optional, because many small
clusters have no accounting. While a job is being requeued, sacct reports NODE_FAIL for it, so sacct
is asked only about jobs that squeue does not know. A job that squeue does not know has ended, even
if sacct calls the job RUNNING or PENDING, because slurmdbd may not have been told of the job's end.
The exception is a job that was submitted in the last minutes (`_SHOWS_WITHIN`): squeue may not list
it yet.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.run_jobs import UNKNOWN_RUN, RunJobs, is_user, user_name
from agenttts.dispatch.service import ELSEWHERE
from agenttts.dispatch.slurm.foreign import why_foreign
from agenttts.dispatch.slurm.queue_reader import (
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    QueueAnswer,
    QueueRow,
    read_sacct,
    read_squeue,
)
from agenttts.dispatch.slurm.queue_reasons import Waiting, end_sentence, wait_sentence, waiting_for
from agenttts.errors import MissingRequirement, counted
from agenttts.files.commands import Answer, ask
from agenttts.tables.schema import TrialState

log = logging.getLogger(__name__)

# Job states that end a job for good (squeue(1), "JOB STATE CODES"), and what each means for a
# trial.
_ENDS = {
    "COMPLETED": TrialState.INFRA_FAILED,  # the job ended normally, but left no result
    "FAILED": TrialState.INFRA_FAILED,
    "TIMEOUT": TrialState.TIMEOUT,
    "DEADLINE": TrialState.TIMEOUT,
    "OUT_OF_MEMORY": TrialState.OOM,
    "NODE_FAIL": TrialState.INFRA_FAILED,
    "BOOT_FAIL": TrialState.INFRA_FAILED,
    "LAUNCH_FAILED": TrialState.INFRA_FAILED,
    "PREEMPTED": TrialState.PREEMPTED,
    "REVOKED": TrialState.INFRA_FAILED,
    "CANCELLED": TrialState.CANCELLED,
}
# States of held jobs, which run when somebody releases them (squeue(1)).
HELD = frozenset({"SPECIAL_EXIT", "REQUEUE_HOLD", "RESV_DEL_HOLD"})
_TIMEOUT_S = 60
# If squeue does not list a job that was submitted longer ago than this, the job has ended. sacct
# may still say that the job waits or runs, because slurmdbd may not have been told of its end.
_SHOWS_WITHIN = timedelta(minutes=5)
# Slurm sends signals to all processes of a job at the job's end, near its time limit and at a
# preemption. In the controller's job, a signal also ends a command that the controller has just
# started.
_ENDED_WITH_THE_JOB = {-number for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
_SIGNALS_TO_A_JOB = 4
# The most job ids in one command line.
_JOBS_AN_UPDATE = 200
# What scontrol says of a job that has started or ended in the meantime (slurm_errno.c).
_NOT_WAITING = re.compile(
    r"no longer pending|already (completing|completed|finished)|invalid job id|not pending",
    re.IGNORECASE,
)
# What sacct says if the cluster keeps no accounts of jobs, if this user may not read the accounts,
# or if sacct cannot start here.
_NO_ACCOUNTING = re.compile(
    r"accounting storage is disabled|accounting_storage/none|access/permission denied"
    r"|error while loading shared libraries|cannot be run",
    re.IGNORECASE,
)
# What scancel says of a job of another user.
_DENIED = re.compile(r"access/permission denied", re.IGNORECASE)
# Mark in the comment of a job that was cancelled because it would not have started. The mark is
# followed by Slurm's reason for the job's wait.
_GAVE_UP = "gave-up="
# Environment variables of the user that change the answers of Slurm's commands (SQUEUE_PARTITION,
# SCANCEL_INTERACTIVE) or send a command to another cluster.
_BENT = re.compile(
    r"(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_|SLURM_(CLUSTERS|TIME_FORMAT|BITSTR_LEN|JOB_USER)$"
)

_CLUSTER_NAME = re.compile(r"^ClusterName *= *(\S+)", re.MULTILINE)
_PRIVATE = re.compile(r"^PrivateData *= *(\S+)", re.MULTILINE)
# In place of Slurm's word, the state of a row with a run's number that is of another job. As in a
# row whose state is `ELSEWHERE`, the reason is the sentence.
_FOREIGN = "FOREIGN"


@dataclass(frozen=True)
class ClusterConfig:
    """What ``scontrol show config`` tells of the cluster.

    Attributes:
        name: Its name; '' if Slurm does not tell.
        hides_jobs: Whether users do not see the jobs of others (slurm.conf(5), PrivateData).
    """

    name: str = ""
    hides_jobs: bool = False


def cluster_config() -> ClusterConfig:
    """Return what the cluster's configuration tells; it is asked once in a process."""
    key = (os.environ.get("SLURM_CONF"), os.environ.get("PATH"))
    if key not in _CONFIGS:
        try:
            said = run_slurm(["scontrol", "show", "config"])
        except MissingRequirement:  # who needs Slurm says so
            return ClusterConfig()
        name, private = _CLUSTER_NAME.search(said), _PRIVATE.search(said)
        hidden = private is not None and bool({"jobs", "all"} & set(private[1].split(",")))
        _CONFIGS[key] = ClusterConfig(name[1] if name else "", hidden)
    return _CONFIGS[key]


# By what decides which cluster the commands ask.
_CONFIGS: dict[tuple[str | None, str | None], ClusterConfig] = {}


def other_cluster(run: RunJobs) -> str:
    """Return this machine's cluster if it is another one than the run's; '' otherwise."""
    here = cluster_config().name if run.cluster else ""
    return here if here and here.lower() != run.cluster.lower() else ""


def hidden_users(run: RunJobs) -> tuple[str, ...]:
    """Return the users of a run whose jobs this user cannot see."""
    others = run.other_users
    hides = bool(others) and os.getuid() != 0 and cluster_config().hides_jobs
    return tuple(user for user in others if hides or not is_user(user))


def elsewhere_sentence(run: RunJobs, what: str = "its jobs") -> str:
    """Return why this process does not see all jobs of a run; '' if it does."""
    if here := other_cluster(run):
        owner = f", of user {run.users[0]}" if run.users else ""
        return f"{what} on cluster {run.cluster}{owner}; this machine is of cluster {here}"
    if hidden := hidden_users(run):
        return (
            f"{what} of user {', '.join(hidden)}, whose jobs {user_name()} cannot see here "
            "(PrivateData in Slurm's configuration, or an unknown user)"
        )
    return ""


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
    # Asked once for each run: a Slurm that does not answer would be asked for each job again.
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
    """Return unended jobs with these ids that are not of the run, and why.

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
        rows[job, run] = QueueRow(_FOREIGN, why) if why else row
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


def row_status(job: str, row: QueueRow | None) -> JobStatus:
    """Return a job's status from its row, with the reason as a sentence."""
    if row is None:
        return JobStatus(
            "UNKNOWN",
            ended=True,
            verdict=TrialState.INFRA_FAILED,
            detail="neither squeue nor sacct lists the job any more",
        )
    if row.state == ELSEWHERE:
        return JobStatus(ELSEWHERE, ended=False, detail=row.reason)
    if row.state == _FOREIGN:
        return JobStatus(
            "UNKNOWN",
            ended=True,
            verdict=TrialState.INFRA_FAILED,
            detail=f"the queue has another job of this number: {row.reason}",
        )
    found = status(row.state, waits_for(row))
    if not found.ended and row.unqueued and not _new(row):
        return JobStatus(
            "UNKNOWN",
            ended=True,
            verdict=TrialState.INFRA_FAILED,
            detail=(
                f"squeue no longer lists the job, but sacct still shows it as {found.state}; "
                "an administrator can close such jobs ('sacctmgr show runawayjobs')"
            ),
            node=row.node,
        )
    if found.ended:
        reason = _gave_up(row)
        if found.verdict is TrialState.CANCELLED and reason:
            return replace(given_up(job, row.state, reason), node=row.node)
        detail = end_sentence(found.detail, job) if found.detail else ""
    else:
        detail = (
            wait_sentence(found.detail, job) if found.detail else _held_up(found.state, job, row)
        )
    return JobStatus(
        found.state, found.ended, found.verdict, detail, stuck=is_stuck(row), node=row.node
    )


def _held_up(state: str, job: str, row: QueueRow) -> str:
    """Return what holds up a completing or suspended job; '' for another job."""
    if state == "COMPLETING":
        node = row.node or "NODE"
        return (
            f"its node is being cleaned up; if that does not end, 'scontrol show node {node}' "
            "shows why"
        )
    if state in ("SUSPENDED", "STOPPED"):
        return (
            f"'scontrol resume {job}' continues it; if it was suspended by preemption, "
            "Slurm continues it"
        )
    return ""


def never_cleared(row: QueueRow) -> JobStatus:
    """Return the status of a job whose node takes too long to clean up after it.

    The job counts as ended.
    """
    return JobStatus(
        "COMPLETING",
        ended=True,
        verdict=TrialState.INFRA_FAILED,
        detail=f"the clean-up of its node {row.node} has not ended".replace("  ", " "),
        node=row.node,
    )


def _new(row: QueueRow) -> bool:
    """Return whether a job is so new that squeue perhaps does not show it yet.

    Some sites keep squeue's answers for a while.
    """
    return row.submitted is not None and datetime.now(UTC) - row.submitted < _SHOWS_WITHIN


def is_stuck(row: QueueRow) -> bool:
    """Return whether a job's reason to wait will not pass by itself."""
    never = waiting_for(row.reason).waiting is Waiting.NEVER
    return row.state in HELD or (row.state == "PENDING" and never)


def waits_for(row: QueueRow) -> str:
    """Return the code of what a job waits for.

    The code is Slurm's reason. For a held job it is the job's state, unless Slurm's reason already
    says that the wait does not end by itself.
    """
    told = row.state not in HELD or waiting_for(row.reason).waiting is Waiting.NEVER
    return row.reason if told else row.state


def given_up(job: str, state: str, reason: str) -> JobStatus:
    """Return the status of a job that was cancelled because it would not have started."""
    sentence = wait_sentence(reason, job)
    return JobStatus(
        state,
        ended=True,
        verdict=TrialState.INFRA_FAILED,
        detail=f"it would not have started and was cancelled: {sentence}",
        never_started=True,
    )


def give_up(job: str, row: QueueRow) -> None:
    """Cancel a pending job, and write the reason into its comment.

    The comment shows later that the job was not cancelled by the user.
    """
    mark = _GAVE_UP + re.sub(r"[^\w]+", "_", waits_for(row))
    set_name_and_comment(job, comment=f"{row.comment} {mark}".strip())
    # With --state=PENDING, a job that has started in the meantime continues. This option does not
    # accept the states of held jobs. So a held job is cancelled without the option, even if the job
    # has just been released.
    cancel_jobs([job], *([] if row.state in HELD else ["--state=PENDING"]))


def _gave_up(row: QueueRow) -> str:
    marks = [word for word in row.comment.split() if word.startswith(_GAVE_UP)]
    return marks[-1].removeprefix(_GAVE_UP).replace("_", " ") if marks else ""


def status(state: str, reason: str) -> JobStatus:
    """Return the `JobStatus` for a Slurm state word, with Slurm's own reason.

    The word may be of the form ``CANCELLED by 0`` or ``CANCELLED+``.
    """
    word = state.split()[0].rstrip("+") if state.strip() else "UNKNOWN"
    verdict = _ENDS.get(word)
    detail = reason if reason not in ("", "None", "(null)") else ""
    return JobStatus(word, ended=verdict is not None, verdict=verdict, detail=detail)


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


def lives(row: QueueRow) -> bool:
    """Return whether a job waits or runs; a job that is completing does not count."""
    found = status(row.state, "")
    return not found.ended and found.state != "COMPLETING"


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

    A job that has ended in the meantime does not raise an error. Nor does one of another user of
    the run, whom the log names: it ends by itself.
    """
    command = ["scancel", *options, *job_ids]
    _check_present(command)
    answer = _ask(command)
    # If a job has ended in the meantime, scancel reports this on a line and continues with the
    # other jobs.
    problems = _problems(answer)
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
    return not _problems(_ask(command))


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
        problems += _problems(_ask(["scontrol", "update", f"JobId={some}", f"ExcNodeList={nodes}"]))
    if problems:
        raise QueueUnavailable(
            f"'scontrol update JobId=... ExcNodeList={nodes}': "
            f"{'; '.join(dict.fromkeys(problems))[:500]}",
            fix=(
                "to avoid these nodes, cancel the pending jobs; they are submitted again without "
                "these nodes"
            ),
        )


def run_slurm(command: list[str]) -> str:
    """Run a Slurm command and return its standard output.

    Raises:
        MissingRequirement: The command is absent.
        QueueUnavailable: The command fails or does not answer.
    """
    return _run(command).decode(errors="replace")


def check_cluster_meant(config: str) -> None:
    """Check that the user's variables do not send jobs to another cluster.

    sbatch would take these variables as its option ``--clusters`` (sbatch(1)). This package removes
    them from the environment of Slurm's commands, so that jobs go to this host's cluster.

    Args:
        config: The answer of ``scontrol show config``.

    Raises:
        MissingRequirement: One of the variables names clusters, but not this host's cluster.
    """
    found = _CLUSTER_NAME.search(config)
    if found is None:
        return
    for variable in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"):
        names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
        # Slurm writes the names of clusters in lower case.
        if names and not {found[1].lower(), "all"} & {name.lower() for name in names}:
            raise MissingRequirement(
                f"{variable} names another cluster ({', '.join(names)}) than this machine's "
                f"({found[1]}); the controller watches jobs of its own cluster only",
                fix=f"run on a login node of the other cluster, or unset {variable}",
            )


def query_environment() -> dict[str, str]:
    """Return the environment without the variables that change Slurm's commands.

    ``SLURM_BITSTR_LEN=0`` is set, because sacct otherwise cuts a list of an array's elements after
    64 characters (sacct(1)).
    """
    kept = {name: value for name, value in os.environ.items() if not _BENT.match(name)}
    return {**kept, "SLURM_BITSTR_LEN": "0"}


def _problems(answer: Answer) -> list[str]:
    """Return the error messages of a failed command.

    Messages about jobs that have started or ended in the meantime are left out.
    """
    if answer.problem is not None:
        return [answer.problem]
    if answer.succeeded:
        return []
    lines = answer.errors.decode(errors="replace").splitlines() or [answer.failure() or ""]
    return [line.strip() for line in lines if line.strip() and not _NOT_WAITING.search(line)]


def _check_present(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise MissingRequirement(
            f"{command[0]} is not on PATH on this machine, so the profile's cluster cannot "
            "be reached",
            fix="run on a login node of the cluster, or choose another profile (--cluster local)",
        )


def _run(command: list[str]) -> bytes:
    _check_present(command)
    answer = _ask(command)
    if not answer.succeeded:
        raise QueueUnavailable(
            f"'{' '.join(command)}' {answer.failure()}",
            fix=(
                "check that slurmctld answers ('scontrol ping') and that the profile's options "
                "are valid on this cluster"
            ),
        )
    return answer.output


def _ask(command: list[str]) -> Answer:
    """Return a command's answer.

    If a signal to this process's job ended the command, the command is run again, a few times. A
    repeated command has the same effect.
    """
    answer = ask(command, _TIMEOUT_S, query_environment())
    for _ in range(_SIGNALS_TO_A_JOB):
        if answer.exit_code not in _ENDED_WITH_THE_JOB:
            break
        answer = ask(command, _TIMEOUT_S, query_environment())
    return answer


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


# The answer, and the users besides this one whose jobs it has.
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
    return read_squeue(_run(command))


def _sacct(job_ids: list[str], others: Sequence[str]) -> QueueAnswer:
    if shutil.which("sacct") is None:
        return QueueAnswer()
    users = [user_name(), *filter(is_user, others)]
    whose = ["-u", ",".join(users)] if others else []
    answer = _ask(["sacct", "-P", "-X", *whose, "-o", SACCT_FIELDS, "-j", ",".join(job_ids)])
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
