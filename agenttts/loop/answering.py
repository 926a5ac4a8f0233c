"""The workers that answer questions of the search between two iterations."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agenttts.dispatch.base import QueueUnavailable, Scheduler
from agenttts.inference.base import ModelConfig
from agenttts.inference.engine_pool import same_engine
from agenttts.loop.workers import LiveWorker, Workers
from agenttts.run.directory import RunDirectory
from agenttts.trial.usage import read_usages

log = logging.getLogger(__name__)

_LEAVES_WITHIN_S = 60.0
"""Seconds that workers may take to close their engines when a server needs their GPUs."""


class IdleWorkers:
    """The workers of a run that may answer questions.

    A worker that answers is idle for the planner of lists: it is kept as other idle workers are,
    gets signs, and a list that it is given begins after its answer.

    Args:
        run: The run's directory.
        workers: The run's workers.
        scheduler: Their jobs' scheduler.
        models: The models of the search.
        time_limit: Seconds that a job may use, without the grace before its end.
        poll_seconds: Seconds between two looks at the queue.
        check: Called at each look; raises if the controller has to stop.
    """

    def __init__(
        self,
        run: RunDirectory,
        workers: Workers,
        scheduler: Scheduler,
        models: Mapping[str, ModelConfig],
        time_limit: float,
        poll_seconds: float,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._run = run
        self._workers = workers
        self._scheduler = scheduler
        self._models = models
        self._time_limit = time_limit
        self._poll_seconds = poll_seconds
        self._check = check
        self._looked = -poll_seconds

    def free(self, model: ModelConfig, seconds: float) -> list[Path]:
        """Return the directories of the workers that can answer now, the best first.

        They have no trials, and GPUs enough for the model. The order: workers whose engine of the
        model is awake, those that have it loaded, the others. If two are equal, the one with
        fewer GPUs comes first.

        Args:
            model: The model that is to answer.
            seconds: The time that a worker must have left before its time limit.
        """
        self._observe()
        found = [
            live
            for live in self._workers.live()
            if live.state == "idle"
            and live.progress.gpus >= model.gpus
            and self._time_limit - live.runs_for > seconds
        ]
        found.sort(key=lambda live: self._distance(live, model))
        return [self._run.worker(live.progress.name) for live in found]

    def may_answer(self, model: ModelConfig) -> bool:
        """Return whether a worker lives that could answer once it has no trials."""
        return any(
            live.progress.gpus >= model.gpus
            for live in self._workers.live()
            if live.state != "pending"
        )

    def lives(self, directory: Path) -> bool:
        """Return whether a worker has not ended."""
        running = self._workers.running()
        return any(
            worker.name == directory.name and job in running
            for job, worker in self._workers.by_job().items()
        )

    def look(self) -> None:
        """Give signs and look at the queue, if that is due.

        Raises:
            AgentTTSError: The controller has to stop.
        """
        if time.monotonic() - self._looked < self._poll_seconds:
            return
        if self._check is not None:
            self._check()
        self._observe()
        self._workers.give_signs()

    def directories(self) -> Sequence[Path]:
        """Return the directories of all workers of the run, also of those that have ended."""
        try:
            return sorted(self._run.workers.iterdir())
        except FileNotFoundError:  # no job has been submitted
            return []

    def make_room(self) -> None:
        """End the workers without trials, and wait until they have left their GPUs."""
        self._observe()
        names = [live.progress.name for live in self._workers.live() if live.state == "idle"]
        if not names:
            return
        log.info("workers without trials make room for the served model")
        self._workers.retire(names)
        deadline = time.monotonic() + _LEAVES_WITHIN_S
        while any(map(self.lives, map(self._run.worker, names))) and time.monotonic() < deadline:
            time.sleep(min(1.0, self._poll_seconds))
            self._observe()

    def _observe(self) -> None:
        """Update the states of the workers' jobs.

        Without an answer of the queue, the old states stay.
        """
        self._looked = time.monotonic()
        try:
            self._workers.observe(self._scheduler.poll(list(self._workers.by_job())))
        except QueueUnavailable as error:
            log.warning("%s; asking again", error)

    def _distance(self, live: LiveWorker, model: ModelConfig) -> tuple[int, int, str]:
        """Return how far a worker is from answering, smaller is nearer."""
        usages = read_usages(self._run.worker(live.progress.name))
        awake = [usages[-1].awake] if usages and usages[-1].awake else []
        loaded = [*awake, *(usages[-1].asleep if usages else ())]
        if any(self._is_of(name, model) for name in awake):
            steps = 0
        else:
            steps = 1 if any(self._is_of(name, model) for name in loaded) else 2
        return steps, live.progress.gpus, live.progress.name

    def _is_of(self, name: str, model: ModelConfig) -> bool:
        return name in self._models and same_engine(self._models[name], model)
