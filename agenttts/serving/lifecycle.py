"""The lifecycle of a served model: started when needed, released when idle."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agenttts.dispatch.base import JobStatus, QueueUnavailable, Scheduler
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.endpoint import Address
from agenttts.errors import AgentTTSError
from agenttts.files.trouble import passing_trouble
from agenttts.search.llm.base import LLMError
from agenttts.serving.job import (
    KEY_FILE,
    LEASE_FILE,
    LOG_FILE,
    ServerAddress,
    Serving,
    log_tail,
    read_address,
    write_serving,
)
from agenttts.serving.probe import answers, base_url

log = logging.getLogger(__name__)

_JOB_FILE = "job.json"
# Seconds for which a server that answers on its node may not answer here.
_UNREACHABLE_S = 60.0
# Seconds between two submissions if the queue did not answer, or takes no more jobs at present.
_SUBMIT_AGAIN_S = 30.0
# Ends of a job that are not evidence against its node (`agenttts.dispatch.base.JOB_STATES`).
_NOT_THE_NODE = frozenset({"CANCELLED", "PREEMPTED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"})
# Ends that are evidence against the node even if the server answered there.
_LOST_NODE = frozenset({"NODE_FAIL", "BOOT_FAIL"})
_UNKNOWN = JobStatus("UNKNOWN", ended=False)
_QUEUE_ERRORS = (AgentTTSError, subprocess.TimeoutExpired)


@dataclass(frozen=True)
class ServedLimits:
    """Time limits of a served model, and how often it is started again.

    Args:
        start_seconds: Seconds to wait for a start.
        idle_seconds: Seconds without a call before the model is released.
        restarts: Most consecutive restarts.
        alone: Whether the model shares its GPUs with the trials, so that it is released before
            they start.
        poll_seconds: Seconds between two looks at the server.
        queue_seconds: Least seconds between two questions to the queue about the same job.
        pauses: Seconds before the first restart, the second, ...; the last one also applies to
            all later restarts.
    """

    start_seconds: float
    idle_seconds: float
    restarts: int
    alone: bool = False
    poll_seconds: float = 1.0
    queue_seconds: float = 0.0
    pauses: tuple[float, ...] = ()


class ServedModel:
    """A served model.

    If its job ended on a node without a request, before its server answered, the next jobs avoid
    that node. The same is true of a node whose server answers there and not here. After too many
    consecutive ends the cause is not the node, and the list of nodes is cleared.

    Args:
        directory: The run's folder for it (`agenttts.serving.job`).
        serving: What to serve and how.
        scheduler: Starts its job, in a folder of its own.
        request: The job, without the token of a start.
        limits: How long to wait and how often to try.
        note: Called with a line for each of its events.
        avoided: The nodes that the run's jobs avoid.
        needed: Returns whether the next call needs the model, as far as is known.
        make_room: Frees the GPUs that the model shares with jobs that wait for trials.
        look: Called at each look at a start that is waited for; raises if the controller has to
            stop.
    """

    def __init__(
        self,
        directory: Path,
        serving: Serving,
        scheduler: Scheduler,
        request: ServiceRequest,
        limits: ServedLimits,
        note: Callable[[str], None],
        avoided: Callable[[], Sequence[str]] = tuple,
        needed: Callable[[], bool] = lambda: True,
        make_room: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._serving = serving
        self._scheduler = scheduler
        self._request = request
        self._service = Service(request.name)
        self._limits = limits
        self._note = note
        self._avoided = avoided
        self._needed = needed
        self._make_room = make_room
        self._look = look
        self._failed_on: list[str] = []
        self._not_before = 0.0
        self._job: str | None = None
        # Whether the queue has said which job serves the model, since this controller started and
        # since its last failed submission.
        self._looked = False
        # The job of which the queue was last asked, when, and its answer.
        self._asked: tuple[str, float, JobStatus] = "", 0.0, _UNKNOWN
        # Jobs that have ended. The process of one may still be there for a moment.
        self._over: set[str] = set()
        # The job of which it was noted that it could not be cancelled.
        self._not_cancelled: str | None = None
        self._ready = False
        self._deaths = 0
        # Whether it was started for a question that has not come.
        self._started_ahead = False
        # Why its last job did not even start or was given up, and why its present one waits.
        self._end = self._waits = ""
        # What the queue last said of its job.
        self._seen: JobStatus | None = None
        # Since when its server answers on its node and not here, and where one last answered here.
        self._unreached_since: float | None = None
        self._host = ""
        self._used = time.monotonic()
        # Whether this controller started its job, when it was first seen running, and how long the
        # model then took to load.
        self._started_here = False
        self._runs_since: float | None = None
        self._loads_for: float | None = None

    def locate(self) -> Address:
        """Return the model's address; start it and wait for it if necessary.

        Raises:
            LLMError: It was not ready in time, or failed too often.
            AgentTTSError: The controller has to stop.
        """
        deadline = time.monotonic() + self._limits.start_seconds
        self._started_ahead = False
        while True:
            self._look()
            self._renew_lease()
            address = self._check()
            if address is not None:
                self._used = time.monotonic()
                return address
            if self._job is None:
                if self._deaths > self._limits.restarts:
                    self._deaths = 0  # the next batch may try again
                    self._failed_on.clear()
                    raise LLMError(
                        "unavailable",
                        f"the served model failed {self._limits.restarts + 1} times in a row; "
                        f"{self._end or self._end_of_log()}",
                    )
                if time.monotonic() >= self._not_before:
                    self._start()
            if time.monotonic() > deadline:
                why = self._why_not_ready()
                self.release()
                raise LLMError(
                    "unavailable",
                    "the served model was not ready within start_seconds "
                    f"({self._limits.start_seconds:g}); {why}",
                )
            time.sleep(self._limits.poll_seconds)

    def trials_run(self, remaining: int, total: int, more: bool) -> None:
        """Note that ``remaining`` of ``total`` trials have not ended.

        It releases a model that has been idle for long (`idle_limit`), and starts it again near the
        end of the batch, so that queueing and loading overlap with the last trials. If no question
        has come since it was last started so, the search asks seldom or no more, and the next
        question starts it. A model that an earlier controller started is found first.

        Args:
            remaining: Number of trials that have not ended.
            total: Number of trials of the batch.
            more: Whether the search continues after them.
        """
        if self._job is None and not self._looked:
            self._job = self._find()
        if self._job is not None and not self._ready:
            self._check()  # when it is ready decides for how long it may idle
        soon = more and remaining <= max(1, total // 4) and not self._limits.alone
        soon = soon and self._needed()
        idle = time.monotonic() - self._used
        longest = idle_limit(self._limits.idle_seconds, self._request.gpus, self._loads_for)
        if self._job is None:
            may_start = self._looked and self._deaths == 0 and not self._started_ahead
            if soon and may_start and time.monotonic() >= self._not_before:
                try:
                    self._start()
                except LLMError as error:
                    log.warning("%s", error)
                self._started_ahead = self._job is not None
        elif not more or self._limits.alone or (idle > longest and not soon):
            if self._stop():  # otherwise the next look tries again
                self._job, self._ready = None, False
                self._note(
                    f"released: idle for {idle:.0f} s" if more else "released: no more calls"
                )
            return  # without a new lease, in case that no stop gets through
        if self._job is not None or not self._looked:
            self._renew_lease()

    def release(self) -> None:
        """Stop the model, even if an earlier controller started it, and remove its key.

        If the queue does not answer, the key stays: a model that still runs can be used with it.
        Events are noted last, because the disk may be full.
        """
        if self._job is None:
            self._job = self._find()
        found, ended = self._job is not None, False
        try:
            ended = self._stop()
            ended = self._end_strays()
        finally:
            self._job, self._ready, self._looked = None, False, ended
            if ended:
                (self._directory / KEY_FILE).unlink(missing_ok=True)
        if found and ended:
            self._note("released")

    def _end_strays(self) -> bool:
        """End other jobs that serve this run's model; return whether the queue answered.

        One may have appeared after its submission got no answer.
        """
        try:
            for job in self._scheduler.live_services(self._service):
                state = self._ask(job)
                if not (state.completing or state.ended):  # it may have ended since it was listed
                    self._scheduler.stop_service(self._service, [job])
                    self._note(f"job {job} of an earlier start was still there and is cancelled")
        except _QUEUE_ERRORS as error:  # it ends by itself once its lease is not renewed
            self._note(f"other jobs that serve the model could not be listed: {error}")
            return False
        return True

    def _check(self) -> Address | None:
        """Return the address if the server answers.

        If its job has ended, the end is recorded.
        """
        if self._job is None and not self._looked:
            self._job = self._find()
        if self._job is None:
            return None
        state = self._seen = self._state(self._job)
        self._tell_why_it_waits(state)
        # Its job is never requeued, so a job whose node is being cleaned up has ended.
        if state.ended or state.completing:
            self._end = f"job {self._job}: {state.detail}" if state.never_started else ""
            self._note(
                self._end
                or f"job {self._job} ended by itself; its log ends: {log_tail(self._directory)}"
            )
            self._over.add(self._job)
            served = self._ready
            self._job, self._ready = None, False
            self._note_death(state, served)
            return None
        found = read_address(self._directory)
        address = self._answering(found) if found is not None else None
        if found is not None and self._is_unreachable(found, state, address is not None):
            self._give_up(found, state)
            return None
        if address is None and self._started_here and self._runs_since is None:
            self._runs_since = None if state.pending else time.monotonic()
        return address

    def _answering(self, found: ServerAddress) -> Address | None:
        """Return the address at which the server answers; note that it is ready."""
        # On one node the loopback always works, and names of test clusters' nodes resolve nowhere.
        near = found.node == socket.gethostname()
        key = self._key()
        hosts = ("127.0.0.1", *found.hosts) if near else found.hosts
        # A packet that a firewall drops costs some seconds at each look.
        for host in sorted(hosts, key=lambda host: host != self._host):
            base = base_url(host, found.port)
            if key and answers(base, key):
                if not self._ready:
                    self._note(f"ready at {host}:{found.port} on {found.node} (job {self._job})")
                    self._used = time.monotonic()
                    if self._runs_since is not None:
                        self._loads_for = self._used - self._runs_since
                self._ready, self._deaths, self._host = True, 0, host
                return Address(base, key)
        return None

    def _is_unreachable(self, found: ServerAddress, state: JobStatus, answered: bool) -> bool:
        """Return whether its server has answered for long on its node, and never here.

        One that has answered here, or whose job is suspended, is silent for another reason.
        """
        explained = answered or self._ready or state.paused
        if explained or found.ready is None or found.job != self._job:
            self._unreached_since = None
            return False
        self._unreached_since = self._unreached_since or time.monotonic()
        return time.monotonic() - self._unreached_since > _UNREACHABLE_S

    def _give_up(self, found: ServerAddress, state: JobStatus) -> None:
        """Stop a job whose server cannot be reached; the next one starts on another node."""
        tried = ", ".join(f"{host}:{found.port}" for host in found.hosts)
        self._end = (
            f"its server answers on {found.node}, and not from {socket.gethostname()}, where the "
            f"controller runs (tried: {tried}); open these ports between the nodes, or run the "
            "controller where it reaches them ('controller' in the profile)"
        )
        self._note(f"job {self._job} is given up: {self._end}")
        self._stop()
        if self._job is not None:
            self._over.add(self._job)
        self._job, self._ready, self._unreached_since = None, False, None
        if state.node:  # a host's own name may not be the one that the queue knows
            self._failed_on.append(state.node)
        self._count_death()

    def _why_not_ready(self) -> str:
        """Return what is known of why the model does not answer yet."""
        if self._job is None:
            return self._waits or self._end or "no job could be started in that time"
        state = self._seen
        if state is None or state.state == "UNKNOWN":
            return f"the queue does not say whether its job {self._job} runs; {self._end_of_log()}"
        if state.pending or state.paused:
            reason = f": {self._waits}" if self._waits else ""
            return f"its job {self._job} is still {state.state.lower()}{reason}"
        if self._unreached_since is not None:
            return f"its job {self._job} runs, and its server does not answer here yet"
        if self._ready:
            return (
                f"its job {self._job} runs, and its server no longer answers; {self._end_of_log()}"
            )
        return (
            f"its job {self._job} runs and is still loading it; a higher start_seconds "
            f"gives it more time; {self._end_of_log()}"
        )

    def _end_of_log(self) -> str:
        return f"the end of {self._directory / LOG_FILE}: {log_tail(self._directory)}"

    def _start(self) -> None:
        if self._limits.alone:
            self._make_room()
        try:
            write_serving(self._directory, self._serving)
            self._renew_lease()
            start = secrets.token_hex(4)
            nodes = tuple(sorted({*self._avoided(), *self._failed_on}))
            request = replace(self._request, start=start, exclude=nodes)
            self._job = self._scheduler.start_service(request).job_id
        except (*_QUEUE_ERRORS, OSError) as error:
            self._looked = False  # it may have been submitted
            said = f"the model's job could not be started: {error}"
            unanswered = isinstance(error, (QueueUnavailable, subprocess.TimeoutExpired))
            if unanswered or passing_trouble(error):
                self._not_before = time.monotonic() + _SUBMIT_AGAIN_S
                if said != self._waits:
                    log.warning("%s; trying again", said)
                self._waits = said
                return
            self._count_death()
            raise LLMError("unavailable", said) from None
        self._ready = False
        self._started_here, self._runs_since = True, None
        self._waits = ""
        self._used = time.monotonic()
        self._note(f"started as job {self._job}")
        try:
            (self._directory / _JOB_FILE).write_text(
                json.dumps({"job_id": self._job}), encoding="utf-8"
            )
        except OSError as error:  # it is for status alone
            log.warning("%s: %s", self._directory / _JOB_FILE, error)

    def _note_death(self, state: JobStatus, served: bool) -> None:
        """Record that its job ended; the next one starts after a pause.

        It starts on another node, unless the server answered on this one: a job that is stopped
        near its time limit or preempted ends as FAILED, and is COMPLETING before.
        """
        self._count_death()
        blamed = state.state in _LOST_NODE or not (served or state.state in _NOT_THE_NODE)
        if state.node and blamed:
            self._failed_on.append(state.node)

    def _count_death(self) -> None:
        pauses = self._limits.pauses
        pause = pauses[min(self._deaths, len(pauses) - 1)] if pauses else 0.0
        self._deaths += 1
        self._not_before = time.monotonic() + pause

    def _stop(self) -> bool:
        """Cancel its job, if there is one; return whether the queue answered."""
        if self._job is None:
            return True
        try:
            self._scheduler.stop_service(self._service, [self._job])
        except _QUEUE_ERRORS as error:
            if self._not_cancelled != self._job:
                self._not_cancelled = self._job
                self._note(f"job {self._job} could not be cancelled: {error}")
            return False
        return True

    def _state(self, job: str) -> JobStatus:
        """Return the state of a job, which may be as old as ``queue_seconds``."""
        asked, moment, state = self._asked
        if asked != job or time.monotonic() - moment >= self._limits.queue_seconds:
            state = self._ask(job)
            self._asked = job, time.monotonic(), state
        return state

    def _ask(self, job: str) -> JobStatus:
        try:
            return self._scheduler.poll([job])[job]
        except _QUEUE_ERRORS as error:  # the server itself is asked as well
            log.warning("%s", error)
            return _UNKNOWN

    def _tell_why_it_waits(self, state: JobStatus) -> None:
        """Note once why a job is pending, if the reason does not pass by itself."""
        waits = state.detail if state.stuck or state.pending else ""
        if state.stuck and waits != self._waits:
            self._note(f"job {self._job} waits: {waits}")
        self._waits = waits

    def _find(self) -> str | None:
        try:
            job = self._scheduler.find_service(self._service)
        except _QUEUE_ERRORS as error:  # the queue does not answer now
            log.warning("%s", error)
            return None
        self._looked = True
        if job is None or job in self._over:
            return None
        self._note(f"found running as job {job}")
        return job

    def _key(self) -> str:
        try:
            return (self._directory / KEY_FILE).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _renew_lease(self) -> None:
        try:
            if self._directory.exists():
                (self._directory / LEASE_FILE).touch()
        except OSError as error:  # the lease outlasts what passes
            log.warning("the served model's lease is not renewed: %s", error)


def idle_limit(idle_seconds: float, gpus: int, start_seconds: float | None) -> float:
    """Return the seconds without a call after which a model is released.

    On GPUs, idling for as long as a start takes costs as much as the start. Released then, the
    model costs at most twice what it would cost if the time of the next call were known.

    Args:
        idle_seconds: The most that the user allows.
        gpus: GPUs of the model.
        start_seconds: How long its last start took on its GPUs; None if that is not known.
    """
    if gpus == 0 or start_seconds is None:
        return idle_seconds
    return min(idle_seconds, start_seconds)


def served_job(directory: Path) -> str | None:
    """Return the job last started to serve a run's model; None if there is none."""
    try:
        return str(json.loads((directory / _JOB_FILE).read_text(encoding="utf-8"))["job_id"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or one that is being written
        return None
