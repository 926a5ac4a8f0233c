"""The login node's side of ``doctor --submit``.

It submits small jobs with the profile's real requests and waits for them.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agenttts.dispatch.apptainer import Container
from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import (
    controller_scheduler,
    create_scheduler,
    scheduler_type,
)
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.doctor.probe_job import (
    ECHO,
    FACTS,
    HELLO,
    ProbeJob,
    ProbeQuestion,
    is_there,
    write_reply,
)
from agenttts.errors import MissingRequirement, UserError
from agenttts.files.documents import parse_json

# Seconds after which a stuck job is given up. The first reason that Slurm gives for the wait of a
# new job may be temporary.
_STUCK_S = 10.0
_POLL_S = 1.0
_ANSWER_S = 180.0


@dataclass(frozen=True)
class Place:
    """A kind of job whose node is checked.

    Attributes:
        what: The job's section of the profile.
        gpus: The GPUs that it requests.
    """

    what: Literal["controller", "trial"]
    gpus: int


@dataclass(frozen=True)
class Seen:
    """The outcome of one job.

    Attributes:
        facts: The job's report (`agenttts.doctor.probe_job`); None without one.
        problem: Why there is no report.
        fix: How to fix the problem.
        round_trip: Seconds that a file took to the node and back.
        waited: Seconds from submission to the job's start, as seen from here.
        clock: A lower bound of the difference of the clocks in seconds; positive if the node's is
            ahead.
        marked: Whether the queue shows the marks by which jobs are found again; None if the queue
            was not seen to have the job.
    """

    what: str
    job_id: str | None
    waited: float | None = None
    round_trip: float | None = None
    clock: float | None = None
    facts: Mapping[str, Any] | None = None
    problem: str | None = None
    fix: str | None = None
    marked: bool | None = None


def probe_places(profile: Profile) -> list[Place]:
    """Return the jobs to submit.

    They are a trial, with one GPU if trials have any, and a controller if it is a job.

    Raises:
        UserError: The profile is not a cluster's.
    """
    if not scheduler_type(profile.kind).has_nodes:
        raise UserError(
            f"--submit: the profile's kind is {profile.kind}, which has no queue; "
            "run doctor without --submit, which checks this machine, where the trials run"
        )
    return [
        Place("trial", min(1, profile.gpus_per_node)),
        *([Place("controller", 0)] if _controller_is_a_job(profile) else []),
    ]


def _controller_is_a_job(profile: Profile) -> bool:
    return controller_scheduler(profile, Path()).has_nodes


def probe(
    profile: Profile,
    container: Container | None,
    folder: Path,
    *,
    timeout: float,
    tell: Callable[[str], None],
) -> list[Seen]:
    """Submit a small job for each of `probe_places`, and wait for all of them.

    Args:
        profile: A cluster's profile.
        container: The container of the trials; None: this Python.
        folder: A directory that the nodes have to see. It is made, and removed again if all went
            well.
        timeout: Seconds for all jobs together. A job that has not ended by then is cancelled.
        tell: Called with a line for the user when something changes.

    Returns:
        The outcome of each job.
    """
    places = probe_places(profile)
    token = secrets.token_hex(4)
    home = folder / token
    started = time.monotonic()
    visits = [
        Visit(place, profile, container, home / place.what, f"{token}-{place.what}")
        for place in places
    ]
    patience = min(_STUCK_S, timeout)
    try:
        for visit in visits:
            visit.submit(tell)
        while any(visit.open for visit in visits):
            late = time.monotonic() - started > timeout
            _look(visits, patience, timeout if late else None, tell)
            if any(visit.open for visit in visits):
                time.sleep(min(_POLL_S, max(0.05, profile.poll_seconds)))
    finally:
        _cancel(visits)
    seen = [visit.seen() for visit in visits]
    if all(one.facts is not None for one in seen):
        shutil.rmtree(home, ignore_errors=True)
        with suppress(OSError):  # it may hold other probes, or the record that launch shows
            folder.rmdir()
    return seen


class Visit:
    """One job, from its submission to its report."""

    def __init__(
        self,
        place: Place,
        profile: Profile,
        container: Container | None,
        folder: Path,
        token: str,
    ) -> None:
        self.place = place
        self.folder = folder
        self.job_id: str | None = None
        self.ended = False
        self._profile = profile
        self._container = container
        self._token = token
        self._submitted = self._replied = time.monotonic()
        self._waited: float | None = None
        self._round_trip: float | None = None
        self._clock: float | None = None
        self._reply_time = 0.0
        self._facts: dict[str, Any] | None = None
        self._problem: str | None = None
        self._fix: str | None = None
        self._ended_at: float | None = None
        self._told = ""
        self._marked: bool | None = None
        self._stuck_since: float | None = None
        self._scheduler = create_scheduler(profile, folder / "job")
        self._service = Service(f"doctor-{token}", token)

    @property
    def open(self) -> bool:
        """Whether the job is still waited for."""
        return self._facts is None and self._problem is None

    def submit(self, tell: Callable[[str], None]) -> None:
        """Submit the job; a refusal is recorded as the job's problem."""
        profile, place = self._profile, self.place
        self.folder.mkdir(parents=True)
        trial = place.what == "trial"
        directories = {"results directory": self.folder}
        if trial and profile.cache:
            directories["compile cache"] = Path(profile.cache)
        question = ProbeQuestion(
            folder=self.folder,
            token=self._token,
            gpus=place.gpus,
            directories=directories,
            container=self._container,
            python=trial and (self._container is not None or not profile.in_containers),
            scheduler_problems=None
            if trial
            else self._scheduler.test_request(profile.trial, profile.gpus_per_node),
            answer_seconds=_ANSWER_S,
        )
        request = ServiceRequest(
            name=self._service.name,
            start=self._token,
            function=ProbeJob(question),
            title=f"doctor-{place.what}",
            comment=f"agenttts doctor={self._token}",
            section=place.what,
            gpus=place.gpus,
            requeue=False,
        )
        try:
            self._service = self._scheduler.start_service(request)
        except MissingRequirement as error:
            self._problem, self._fix = error.what, error.fix
            return
        self.job_id = self._service.job_id
        self._submitted = time.monotonic()
        tell(f"{place.what} job {self.job_id} submitted")

    def look_at_files(self) -> None:
        """Answer the job, and read what it has written."""
        if self._waited is None and is_there(self.folder / HELLO):
            self._waited = time.monotonic() - self._submitted
            self._replied, self._reply_time = time.monotonic(), time.time()
            write_reply(self.folder)
        if self._waited is not None and self._round_trip is None and is_there(self.folder / ECHO):
            self._round_trip = time.monotonic() - self._replied
            echo = _read(self.folder / ECHO)
            # The node wrote the file between the reply and now. If the file's time is earlier or
            # later, the clocks differ by at least that.
            written = float(echo["time"]) if echo else self._reply_time
            now = time.time()
            self._clock = max(0.0, written - now) + min(0.0, written - self._reply_time)
        if self._facts is None and is_there(self.folder / FACTS):
            self._facts = _read(self.folder / FACTS)

    def status(self) -> JobStatus:
        """Return the state of the job.

        Raises:
            QueueUnavailable: The queue does not answer.
        """
        job = self.job_id or ""
        return self._scheduler.poll([job])[job]

    def look_at_marks(self, status: JobStatus) -> None:
        """Find the job by its marks, until it is found once while the queue has it.

        Raises:
            QueueUnavailable: The queue does not answer.
        """
        if not self._marked and not status.ended:  # squeue may not list a new job yet
            unknown = Service(self._service.name, self._token)
            self._marked = self._scheduler.find_service(unknown) == self.job_id

    def look_at_queue(self, status: JobStatus) -> str:
        """Record the state of the job; return a line for the user if it is new, else ''."""
        self.ended = status.ended
        if status.ended and self.open:
            self._ended_at = self._ended_at or time.monotonic()
            settle = self._scheduler.settle_seconds
            # A log that says why the job did not start has arrived, and no report will follow it.
            if status.never_started or time.monotonic() - self._ended_at >= settle:
                self._problem = self._how_it_ended(status, settle)
        line = f"{self.place.what} job {self.job_id} {status.state}"
        line += f" ({status.detail})" if status.detail else ""
        if line == self._told or status.ended:
            return ""
        self._told = line
        return line

    def give_up(self, status: JobStatus, why: str) -> None:
        """Record why the job is no longer waited for."""
        if status.stuck or status.pending:
            reason = status.detail or "the scheduler gives no reason"
            self._problem = f"job {self.job_id} {why} and was cancelled; it was waiting: {reason}"
            self._fix = (
                "remove the cause that the reason names, or raise the time limit with --timeout "
                "SECONDS"
            )
            return
        last = self._last_line()
        self._problem = (
            f"job {self.job_id} {why} and was cancelled; its state was {status.state}"
            + (f", and the last line of its log is: {last}" if last else ", and its log is empty")
        )  # fmt: skip
        self._fix = (
            f"read the log in {self.folder / 'job'}, or raise the time limit with --timeout SECONDS"
        )

    def seen(self) -> Seen:
        """Return the outcome of the job."""
        return Seen(
            self.place.what,
            self.job_id,
            self._waited,
            self._round_trip,
            self._clock,
            self._facts,
            self._problem,
            self._fix,
            self._marked,
        )

    def stuck_for(self, status: JobStatus) -> float:
        """Return for how many seconds the job has been stuck.

        A stuck job waits for a reason that does not pass by itself. The time counts from the first
        look that found such a reason.
        """
        if not status.stuck:
            self._stuck_since = None
            return 0.0
        now = time.monotonic()
        self._stuck_since = self._stuck_since or now
        return now - self._stuck_since

    def cancel(self) -> None:
        """End the job if there is one and it has not ended."""
        if self.job_id and not self.ended:
            self._scheduler.stop_service(self._service, [self.job_id])

    def _how_it_ended(self, status: JobStatus, settle_seconds: float) -> str:
        what = f"job {self.job_id} ended as {status.state} without a report"
        if status.never_started:
            return f"{what}: {status.detail}"
        if self._waited is not None:
            return f"{what}; the last line of its log is: {self._last_line()}"
        self._fix = (
            "put the results directory (--results DIR) and this Python on a file system "
            "that the login node and the nodes share"
        )
        return (
            f"{what}, and none of its files was visible here within {settle_seconds:g} s: "
            f"its node does not see {self.folder}{f' ({status.detail})' if status.detail else ''}"
            if not self._last_line()
            else f"{what}; the last line of its log is: {self._last_line()}"
        )

    def _last_line(self) -> str:
        return self._scheduler.last_log_line(self.job_id or "")


def _look(
    visits: Sequence[Visit], patience: float, late: float | None, tell: Callable[[str], None]
) -> None:
    """Look once at the files and the queue.

    Args:
        visits: The jobs.
        patience: Seconds for which a job may be stuck.
        late: The time limit of the whole probe in seconds; None before it has passed.
        tell: As for `probe`.
    """
    for visit in visits:
        visit.look_at_files()
    for visit in [visit for visit in visits if visit.job_id and visit.open]:
        try:
            status = visit.status()
            visit.look_at_marks(status)
        except QueueUnavailable as error:
            if late is not None:
                lost = JobStatus("UNKNOWN", ended=False)
                visit.give_up(lost, f"could not be observed ({error})")
            continue
        stuck_for = visit.stuck_for(status)
        line = visit.look_at_queue(status)
        if line:
            tell(line)
        if not visit.open:
            continue
        if status.stuck and stuck_for >= patience:
            visit.give_up(status, "could not start")
        elif late is not None:
            visit.give_up(status, f"did not report within {late:g} s")


def _cancel(visits: Sequence[Visit]) -> None:
    with ExitStack() as each:  # cancels the second job even if the first cannot be cancelled
        for visit in visits:
            each.callback(visit.cancel)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
