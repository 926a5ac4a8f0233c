"""Submit to Slurm through submitit, and turn sbatch's refusals into errors."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from agenttts.dispatch.base import QueueUnavailable, SubmitLimitReached
from agenttts.dispatch.node.job import UNLIMITED_REQUEUES
from agenttts.dispatch.pickled import Pickled
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.slurm.batch_script import BatchScript, check_folder
from agenttts.dispatch.slurm.cluster_nodes import nodes_besides
from agenttts.dispatch.slurm.commands import query_environment
from agenttts.dispatch.slurm.pickles import Pickles
from agenttts.dispatch.slurm.queue import live_jobs
from agenttts.dispatch.slurm.request import JobNeeds, sbatch_options
from agenttts.dispatch.slurm.syntax import minutes
from agenttts.errors import MissingRequirement
from agenttts.inference.ranks import is_of_a_rank

# What sbatch says if slurmctld or munged is busy, restarting or partly reachable (Slurm's
# slurm_errno.c, errno(3)).
_PASSING = re.compile(
    r"socket timed out|unable to contact slurm controller|connection (refused|reset)"
    r"|communication connection failure|slurmctld.*(backup|standby|not responding)|standby mode"
    r"|temporarily (unable|unavailable)|zero bytes were transmitted|message (send|receive) failure"
    r"|communication shutdown failure|unexpected message received"
    r"|transport endpoint is not connected|unable to create job record, try again"
    r"|protocol authentication error|authentication credential|error writing script"
    r"|presently disabled|unable to establish control(ler)? machine"
    # No configuration for a moment: DNS on a configless cluster, or a stale file handle.
    r"|could not establish a configuration source|unable to process configuration file"
    r"|failed to fetch (remote )?config",
    re.IGNORECASE,
)
# An administrator has closed the partition, for maintenance for example. Jobs that wait in it then
# have the reason PartitionInactive or PartitionDown, which pass too.
_CLOSED = re.compile(r"required partition not available|partition in down state", re.IGNORECASE)
# A limit on the number of submitted jobs (sacctmgr(1), MaxSubmitJobs, GrpSubmitJobs) passes as jobs
# end. Any other limit that is named does not. If no limit is named, the message is the same for
# both.
SUBMIT_LIMIT = re.compile(r"\b(Assoc|QOS)\w*Submit\w*", re.IGNORECASE)
_OTHER_LIMIT = re.compile(r"\b(Assoc|QOS)(Max|Min|Grp)\w+", re.IGNORECASE)
_POLICY = re.compile(r"violates accounting/QOS policy", re.IGNORECASE)
# The job's number in the output of sbatch, best first. A site's script in place of sbatch may print
# more lines, or only what --parsable does: the number, and on some clusters the cluster's name.
_JOB_NUMBER = (
    re.compile(r"\bSubmitted batch job (\d+)\b"),
    re.compile(r"\bjob (\d+)\b"),
    re.compile(r"^(\d+)(?:;[\w.-]+)?$", re.ASCII | re.MULTILINE),
)
_LONGEST_QUOTE = 500
# Beginnings and names of variables that Slurm, submitit or a launcher sets for a job's processes,
# and of those by which sbatch takes options.
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
# The GPUs of the job or shell that submits. Slurm sets them anew only in jobs that request GPUs.
_OF_GPUS = {
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"),
}
# A shell's exit status for a command that a signal ended is this plus the signal.
_SIGNAL_IN_SHELL = 128


class BatchExecutor(SlurmExecutor):  # type: ignore[misc]  # submitit has no types
    """submitit's executor with the project's own batch file.

    The batch file replaces its shell by the Python process with ``exec``, without srun. With srun,
    Slurm would signal every process of the step, and the container runtime would pass each signal
    on again. With ``exec``, the one process that gets SIGUSR2 before the limit is submitit's own.

    submitit 1.5.4 writes a wckey that nobody asked for, and its shebang and quotes cannot be
    chosen. Its arrays lose what a subclass adds.

    What a job runs is pickled before sbatch is called, under a name that is known by then. The
    batch file links the name that submitit looks for to it. submitit itself writes the pickle after
    sbatch's answer: a job whose submitter dies in between, or gets no answer, holds its node for a
    minute and fails.
    """

    def __init__(self, script: BatchScript, running: int, limit_minutes: int) -> None:
        with submission_errors():
            super().__init__(
                script.folder,
                max_num_timeout=UNLIMITED_REQUEUES,
                python=f"{shlex.quote(sys.executable)} -P",
            )
        # submitit counts time-outs by this.
        self.update_parameters(time=limit_minutes)
        self._script = script
        self._running = running
        self._elements: int | None = None
        self._pickles = Pickles(script.folder, "")
        self._first = 0

    def submit_each(
        self, functions: Sequence[Callable[[], Any]], name: str, first: int = 0
    ) -> list[str]:
        """Submit one job, or an array of several jobs.

        Args:
            functions: What each job runs.
            name: A name that is unique to these jobs in the folder.
            first: The number of the first of them under that name. An earlier call may have used
                these numbers only if nothing that it submitted became a job.

        Returns:
            The job ids, in the order of ``functions``.
        """
        self._pickles, self._first = Pickles(self.folder, name), first
        return [str(job.job_id) for job in self.submit_array(list(map(Pickled.of, functions)))]

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        array = None if self._elements is None else (self._elements, self._running)
        link = self._pickles.link_lines(None if array else self._first)
        return self._script.text(command, sys.executable, array, link)

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        unset = (word for name in job_variables() for word in ("-u", name))
        return ["env", *unset, "sbatch", str(submission_file_path)]

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[submitit.core.core.Job[Any]]:
        count = len(delayed_submissions)
        self._elements = count if count > 1 else None
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, delayed in enumerate(delayed_submissions, self._first):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(self._pickles.file(number))
        try:
            job = self._submit_command(self._submitit_command_str)
        except FailedJobError as error:
            # Refused: none of them is a job.
            if not _PASSING.search(_said(error)) and not _cut_short(error):
                for number in range(self._first, self._first + count):
                    self._pickles.file(number).unlink(missing_ok=True)
            raise
        if self._elements is None:
            return [job]
        return [SlurmJob(self.folder, f"{job.job_id}_{index}", [0]) for index in range(count)]

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        text = string if isinstance(string, str) else string.decode(errors="replace")
        found = next((m for form in _JOB_NUMBER if (m := form.search(text))), None)
        if found is None:
            raise FailedSubmissionError(f"its output has no job number: {text.strip()!r}")
        return found[1]


def slurm_executor(
    folder: Path,
    profile: Profile,
    resources: JobResources,
    needs: JobNeeds,
    array_parallelism: int = 1,
) -> BatchExecutor:
    """Return the executor for jobs of one kind.

    Their batch files, pickles and logs are in ``folder``.

    Raises:
        UserError: Slurm cannot write logs in a folder of this name.
        MissingRequirement: There is no Slurm here, or it has none of the section's nodes.
        QueueUnavailable: Slurm does not answer which nodes it has.
    """
    check_folder(folder)
    script = BatchScript(
        sbatch_options(resources, needs, nodes_besides(resources)),
        folder.absolute(),
        profile.setup,
        profile.login_shell,
    )
    return BatchExecutor(script, array_parallelism, minutes(resources.time))


def job_variables() -> list[str]:
    """Return the names of this process's variables that a login shell does not have.

    Slurm set them for the controller's own job (or the shell of a job that launched), and they
    would change the trials' requests, or hide the GPUs of a trial's whole node. They
    are kept from sbatch alone: a signal to this process during a submission needs them for the
    requeue of the controller's job.
    """
    return [
        name
        for name in os.environ
        if name != "SLURM_CONF"
        and (name.startswith(_OF_A_JOB) or is_of_a_rank(name) or name in _OF_GPUS)
    ]


def login_environment() -> dict[str, str]:
    """Return the environment of a query as from a login shell."""
    own = job_variables()
    return {name: value for name, value in query_environment().items() if name not in own}


@contextmanager
def submission_errors(jobs: int = 1) -> Iterator[None]:
    """Turn the refusals of submitit and sbatch into one clear error.

    A refusal may pass if the user has other jobs than the one that this process runs in.

    Args:
        jobs: The number of jobs that are submitted at once.

    Raises:
        QueueUnavailable: The refusal may pass.
        SubmitLimitReached: A limit on the number of submitted jobs was reached.
        MissingRequirement: Slurm is absent or refuses the request.
    """
    try:
        with redirect_stderr(io.StringIO()):  # submitit also prints what it raises
            yield
    except FailedJobError as error:
        said = _said(error)
        if cut_short := _cut_short(error):
            raise QueueUnavailable(
                f"{cut_short}, so a job may have been submitted" + (f": {said}" if said else ""),
                fix="check with 'squeue --me'; try again when 'scontrol ping' shows UP",
            ) from None
        raise refusal(said, jobs) from None
    except FailedSubmissionError as error:
        raise QueueUnavailable(
            f"the output of sbatch cannot be read, so a job may have been submitted: {error}",
            fix=(
                "check with 'squeue --me'; try again when 'sbatch --wrap true' prints 'Submitted "
                "batch job N'"
            ),
        ) from None
    except RuntimeError as error:
        if "srun" in str(error):
            raise MissingRequirement(
                "Slurm's commands (srun, sbatch) are not on PATH on this machine",
                fix="run on a login node of the cluster, or choose another profile (--cluster "
                "local)",
            ) from None
        raise


def _said(error: FailedJobError) -> str:
    """Return why sbatch failed by its own words, in one line.

    A site's script in place of sbatch may explain a refusal on standard output.
    """
    text = str(error) or str(getattr(error.__cause__, "output", None) or "")
    return " ".join(text.split())[-_LONGEST_QUOTE:]


def _cut_short(error: FailedJobError) -> str:
    """Return why sbatch did not finish its answer; '' if it did.

    Slurm gives a job's signals to all its processes, so the end of the controller's job also ends
    an sbatch that waits for slurmctld. A script in place of sbatch ends with 128 plus the signal.
    """
    cause = error.__cause__
    if isinstance(cause, subprocess.CalledProcessError):
        code = cause.returncode
        number = -code if code < 0 else code - _SIGNAL_IN_SHELL
        return f"sbatch was ended by signal {number}" if 0 < number < signal.NSIG else ""
    # submitit kills an sbatch whose output it cannot read.
    return f"sbatch was stopped, because its output cannot be read ({cause})" if cause else ""


def refusal(message: str, jobs: int = 1) -> MissingRequirement:
    """Return the error of a refusal by sbatch; `QueueUnavailable` if it may pass.

    Args:
        message: What sbatch said, in one line.
        jobs: The number of jobs that were to be submitted at once.
    """
    if _PASSING.search(message):
        return QueueUnavailable(
            f"sbatch got no answer from slurmctld: {message}",
            fix="try again when 'scontrol ping' shows UP",
        )
    if _CLOSED.search(message):
        return QueueUnavailable(
            f"the partition does not accept jobs at present: {message}",
            fix="try again when 'sinfo' shows it as up, or name another partition in the profile",
        )
    if jobs > 1 and _names_submit_limit(message):
        return SubmitLimitReached(
            f"sbatch refused {jobs} jobs at once: {message}",
            fix=(
                "the controller tries half as many next; lower the profile's max_pending "
                "to start with fewer"
            ),
        )
    if _names_submit_limit(message) and _others_live():
        return SubmitLimitReached(
            f"sbatch refuses more jobs until some of yours have ended: {message}",
            fix=(
                "wait for them, or lower the profile's max_pending. "
                "The message may also mean that one job is too large ('sacctmgr show assoc' "
                "and 'sacctmgr show qos' list the limits)"
            ),
        )
    return MissingRequirement(
        f"sbatch refused the job: {message}",
        fix=(
            "correct partition, account, qos or limits in the profile ('sinfo' and 'sacctmgr "
            "show assoc' list what you may use)"
        ),
    )


def _names_submit_limit(message: str) -> bool:
    """Return whether the number of submitted jobs seems to be the reason of a refusal."""
    if SUBMIT_LIMIT.search(message):
        return True
    return bool(_POLICY.search(message)) and not _OTHER_LIMIT.search(message)


def _others_live() -> bool:
    """Return whether the user has other jobs whose end can lift a submit limit.

    The job in which this runs does not count.
    """
    own = os.environ.get("SLURM_JOB_ID")
    return any(job.partition("_")[0] != own for job in live_jobs())
