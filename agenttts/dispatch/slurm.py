"""Trials as array jobs, and the controller as a light job, on Slurm through submitit."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

import submitit
from submitit.slurm.slurm import SlurmExecutor

from agenttts.dispatch.base import JobStatus, QueueUnavailable, SubmitLimitReached, Work
from agenttts.dispatch.job import NEVER, TrialJob
from agenttts.dispatch.profile import JobResources, Profile, minutes
from agenttts.dispatch.slurm_queue import job_states, jobs_with_comment, live_jobs, run_slurm
from agenttts.errors import MissingRequirement

# Beyond this many elements a label each would burden slurmctld more than it helps the reader.
_LABELS = 200
# What sbatch says of a busy or restarting slurmctld (slurm/slurm_errno.h).
_PASSING = re.compile(
    r"socket timed out|unable to contact slurm controller|connection (refused|reset)|communication connection failure"
    r"|slurmctld.*(backup|standby|not responding)"
    r"|temporarily (unable|unavailable)|zero bytes were transmitted",
    re.IGNORECASE,
)
# A limit on how many jobs may be submitted (sacctmgr(1), MaxSubmitJobs, GrpSubmitJobs) passes as jobs end; any other
# limit that is named does not. Without a name the message is the same for both.
_SUBMIT_LIMIT = re.compile(r"\b(Assoc|QOS)\w*Submit\w*", re.IGNORECASE)
_OTHER_LIMIT = re.compile(r"\b(Assoc|QOS)(Max|Min|Grp)\w+", re.IGNORECASE)
_POLICY = re.compile(r"violates accounting/QOS policy", re.IGNORECASE)


class SlurmDispatcher:
    """`Dispatcher` for ``kind: slurm``: each `submit` is one array, one element a trial.

    An array is submitted whole or not at all. After one that a submit limit refused, `capacity` asks for half as many, and
    for more again as they are taken. Slurm throttles an array, not arrays beside each other: while trials live, no more
    are submitted than the throttle lets run.
    """

    def __init__(self, profile: Profile, folder: Path) -> None:
        self._profile = profile
        self._folder = folder
        self._max_array = _max_array_size() - 1
        self._live = 0
        # Trials that may live at once, as far as a submit limit has told.
        self._limit = profile.max_pending

    def capacity(self, live: int) -> int:
        self._live = live
        room = min(self._limit, self._profile.max_pending) - live
        if live:
            room = min(room, self._profile.throttle - live)
        return max(0, min(room, self._max_array))

    def submit(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        profile = self._profile
        gpus = works[0].gpus
        executor = slurm_executor(
            self._folder,
            profile.trial,
            name=works[0].name.partition("-")[2] or works[0].name,
            comment=f"agenttts batch={batch}",
            gpus=gpus,
            setup=profile.setup,
            grace_seconds=profile.grace_seconds,
            array_parallelism=profile.throttle,
        )
        limit = minutes(profile.trial.time) * 60
        jobs = [
            TrialJob(
                directory=work.directory,
                command=work.command,
                env=work.env,
                gpus=work.gpus,
                limit_seconds=limit,
                grace_seconds=profile.grace_seconds,
                max_timeouts=profile.max_timeouts,
                cache=work.cache,
            )
            for work in works
        ]
        try:
            with submission_errors(len(works)), outer_environment():
                submitted = executor.submit_array(jobs)
        except SubmitLimitReached:
            self._limit = max(1, self._live + len(works) // 2)
            raise
        self._live += len(works)
        # Others' jobs may have ended: a little more is tried than was taken.
        self._limit = max(self._limit, self._live + max(1, len(works) // 2))
        ids = {work.trial: str(job.job_id) for work, job in zip(works, submitted, strict=True)}
        if len(works) <= _LABELS:
            for work in works:
                _label(ids[work.trial], work.name, f"{work.comment} batch={batch}")
        return ids

    def find(self, batch: str, works: Sequence[Work]) -> dict[str, str]:
        found: dict[str, str] = {}
        for job in jobs_with_comment(f"batch={batch}"):
            _, _, index = job.partition("_")
            position = int(index) if index else 0
            if position < len(works):
                found[works[position].trial] = job
        return found

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return job_states(job_ids)

    def cancel(self, job_ids: Iterable[str]) -> None:
        ids = [job for job, status in self.poll(job_ids).items() if not status.ended]
        if not ids:
            return
        try:
            run_slurm(["scancel", *ids])
        except QueueUnavailable as error:
            # One of them ended between the look and the signal; scancel goes on with the others.
            if "Invalid job id" not in str(error) and "already completing" not in str(error):
                raise


def slurm_executor(
    folder: Path,
    resources: JobResources,
    *,
    name: str,
    comment: str,
    gpus: int,
    setup: Sequence[str],
    grace_seconds: int,
    array_parallelism: int = 1,
    requeue: bool = True,
    extra: dict[str, str] | None = None,
) -> SlurmExecutor:
    """A submitit executor whose jobs are a batch script that *becomes* the Python process.

    No srun: Slurm would signal every process of the step and the container runtime would pass each signal on again.
    With ``exec`` the one process that gets SIGUSR2 before the limit is submitit's own.
    """
    additional: dict[str, str | int | bool] = {
        "signal": f"B:USR2@{grace_seconds}",
        "requeue" if requeue else "no-requeue": True,
        # submitit would read "32G" as a number of gigabytes: these go into the batch file as they are.
        **{key: value for key in ("mem", "reservation") if (value := getattr(resources, key))},
        **(extra or {}),
        **resources.sbatch,
    }
    parameters: dict[str, object] = {
        "job_name": name,
        "comment": comment,
        "time": minutes(resources.time),
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "nodelist": resources.nodelist,
        "cpus_per_task": resources.cpus * max(1, gpus),
        "setup": list(setup) or None,
        "array_parallelism": array_parallelism,
        "use_srun": False,
        "additional_parameters": additional,
    }
    if gpus and resources.gpu_type:
        parameters["gres"] = f"gpu:{resources.gpu_type}:{gpus}"
    elif gpus:
        parameters["gpus_per_node"] = gpus
    with submission_errors():
        executor = SlurmExecutor(
            folder, max_num_timeout=NEVER, python=f"exec {shlex.quote(sys.executable)}"
        )
    executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
    return executor


@contextmanager
def outer_environment() -> Iterator[None]:
    """Submit as from a login shell: what Slurm told the controller's own job would bend the trials' requests."""
    conf = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if conf:
            os.environ["SLURM_CONF"] = conf
        yield


@contextmanager
def submission_errors(jobs: int = 1) -> Iterator[None]:
    """Turn submitit's and sbatch's refusals of ``jobs`` jobs at once into one clear error: `QueueUnavailable` for what may pass.

    To be entered outside of `outer_environment`: it looks for jobs besides the one it runs in.
    """
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what sbatch said, besides raising it
            yield
    except submitit.core.utils.FailedJobError as error:
        message = " ".join(str(error).split())
        if _PASSING.search(message):
            raise QueueUnavailable(
                f"sbatch got no answer: {message}", fix="try again when 'scontrol ping' says UP"
            ) from None
        if jobs > 1 and _names_submit_limit(message):
            raise SubmitLimitReached(
                f"sbatch does not take {jobs} jobs at once: {message}",
                fix="half as many are tried next; lower the profile's max_pending to begin with fewer",
            ) from None
        if _names_submit_limit(message) and _others_live():
            raise SubmitLimitReached(
                f"sbatch takes no more jobs until some of yours have ended: {message}",
                fix="wait for them, or lower the profile's max_pending; a limit on a job's size would read the same "
                "('sacctmgr show assoc' and 'sacctmgr show qos' list the limits)",
            ) from None
        raise MissingRequirement(
            f"sbatch refused the job: {message}",
            fix="correct the profile's partition, account, qos or limits (sinfo and 'sacctmgr show assoc' list what you may use)",
        ) from None
    except RuntimeError as error:
        if "srun" in str(error):
            raise MissingRequirement(
                "Slurm's commands (srun, sbatch) are not on this machine's PATH",
                fix="run on a login node of the cluster, or choose another profile (--cluster local)",
            ) from None
        raise


def _names_submit_limit(message: str) -> bool:
    """Whether a refusal is, as far as it says, for the number of jobs submitted."""
    if _SUBMIT_LIMIT.search(message):
        return True
    return bool(_POLICY.search(message)) and not _OTHER_LIMIT.search(message)


def _others_live() -> bool:
    """Whether there are jobs of the user's, besides the one this runs in, whose end can lift a submit limit."""
    own = os.environ.get("SLURM_JOB_ID")
    return any(job.partition("_")[0] != own for job in live_jobs())


def _label(job_id: str, name: str, comment: str) -> None:
    """Give an array element a name and comment of its own; a job that has ended already takes none."""
    with suppress(subprocess.TimeoutExpired):  # it runs all the same
        subprocess.run(
            ["scontrol", "update", f"JobId={job_id}", f"Name={name}", f"Comment={comment}"],
            capture_output=True,
            timeout=60,
            check=False,
        )


def _max_array_size() -> int:
    for line in run_slurm(["scontrol", "show", "config"]).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize" and value.strip().isdigit():
            return int(value)
    return 1001  # Slurm's default
