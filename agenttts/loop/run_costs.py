"""What the trials of one run cost: its models, its profile and its records, for the assignment.

`agenttts.loop.estimates` has the pure estimates; here they get the run's sizes and measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.dispatch.slurm.syntax import minutes
from agenttts.loop.estimates import (
    CPU,
    LOCAL_READ_RATE,
    SHARED_READ_RATE,
    UNKNOWN_GPU,
    DrawRecord,
    Estimates,
    Gpu,
    StartRecord,
    expected_wait,
    find_gpu,
    stored_samples,
    trial_work,
)
from agenttts.loop.list_cost import ModelCost, TrialWork
from agenttts.loop.worker_lists import ResourceClass
from agenttts.run.directory import Run
from agenttts.run.journal import PlannedTrial, TrialProgress
from agenttts.space import Allocation
from agenttts.tables.schema import TrialState
from agenttts.trial.usage import JobUsage, read_usages

_QUEUE_SECONDS = 120.0
"""Wait in the queue of a cluster, assumed before the first job of the run has started."""
_BOOT_SECONDS: Mapping[bool, float] = {True: 12.0, False: 3.0}
"""Seconds from a job's start to its first engine start, in containers and without (measured on
Slurm with a directory image, 2026-11)."""
_NODE_GB_PER_GPU = 32.0
"""Memory of a job for each GPU, assumed where the profile does not say."""
_OTHER_GB = 8.0
"""Memory of a job that engines which wait cannot have: the program, and the engine that works."""


class RunCosts:
    """The costs of a run's trials, as far as they are known now.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._directory = run.directory
        self._profile = run.profile
        self._tokens = {
            name: (float(stage.prompt_tokens), float(stage.decode_tokens))
            for name, stage in run.spec.stages.items()
        }
        self._sizes = {
            name: run.record.sizes.get(name)
            or ModelSize(run.spec.models[name].params, gpus=model.gpus)
            for name, model in run.record.models.items()
        }
        self._compiled = run.cache is not None
        self._examples: dict[Path, int] = {}
        self._usages: dict[str, list[JobUsage]] = {}
        self.gpu_counts = sorted({size.gpus for size in self._sizes.values()})

    def usage(self, worker: str) -> JobUsage | None:
        """Return what the last start of a worker's program recorded so far."""
        found = read_usages(self._directory.worker(worker))
        self._usages[worker] = found
        return found[-1] if found else None

    def models(self) -> dict[str, ModelCost]:
        """Return the costs of the run's models, by the records that `usage` has read."""
        usages = [usage for found in self._usages.values() for usage in found]
        usages.sort(key=lambda usage: usage.written)
        return Estimates(
            self._sizes,
            gpu_of(self._profile),
            read_rate=SHARED_READ_RATE if self._profile.kind == "slurm" else LOCAL_READ_RATE,
            compiled=self._compiled,
            starts=[StartRecord(s.model, s.seconds) for usage in usages for s in usage.starts],
            draws=[
                DrawRecord(
                    draw.model,
                    draw.prompt_tokens,
                    draw.decode_tokens,
                    draw.seconds,
                    sequences=draw.sequences / max(1, draw.calls),
                )
                for usage in usages
                for draw in usage.draws
            ],
        ).model_costs()

    def works(
        self,
        due: Iterable[PlannedTrial],
        trials: Iterable[TrialProgress],
        gpus: Callable[[PlannedTrial], int],
    ) -> list[TrialWork]:
        """Return what trials have to draw.

        Args:
            due: The trials.
            trials: The trials of the run. Samples of completed ones are stored.
            gpus: Returns the fewest GPUs that the job of a trial may have.
        """
        completed: dict[Path, list[Allocation]] = {}
        for trial in trials:
            if trial.row is not None and trial.row.get("state") == TrialState.COMPLETED:
                examples = self._directory.examples_of(trial.planned.source)
                completed.setdefault(examples, []).append(trial.planned.allocation)
        stored = {examples: stored_samples(found) for examples, found in completed.items()}
        return [
            trial_work(
                planned.trial,
                planned.allocation,
                self._tokens,
                self._number_of(examples),
                stored=stored.get(examples),
                least_gpus=gpus(planned),
            )
            for planned in due
            for examples in [self._directory.examples_of(planned.source)]
        ]

    def classes(self, most: int, waits: Iterable[float]) -> list[ResourceClass]:
        """Return the workers that may be started.

        Args:
            most: How many of them.
            waits: Seconds that the run's workers have waited in the queue so far.
        """
        queued = _QUEUE_SECONDS if self._profile.kind == "slurm" else 0.0
        return [
            ResourceClass(
                f"{gpus} GPUs",
                gpus,
                most,
                queue_seconds=expected_wait(waits, queued),
                start_seconds=self.boot_seconds,
                time_limit=self.time_limit,
                sleep_gb=self.sleep_gb(gpus),
            )
            for gpus in self.gpu_counts
        ]

    @property
    def boot_seconds(self) -> float:
        """Seconds from a job's start to its first engine start."""
        if self._profile.kind == "in_process":
            return 0.0
        return _BOOT_SECONDS[self._profile.in_containers]

    @property
    def time_limit(self) -> float:
        """Seconds that a job may use: its time limit without the grace before its end."""
        return minutes(self._profile.trial.time) * 60.0 - self._profile.grace_seconds

    def sleep_gb(self, gpus: int) -> float:
        """Return the memory, in GB, that a job has for engines beside the one that works."""
        asked = self._profile.trial.memory_for(gpus)
        if asked is not None:
            memory = asked[1] / 1e9
        elif self._profile.kind == "slurm":
            memory = _NODE_GB_PER_GPU * max(gpus, 1)
        else:
            memory = psutil.virtual_memory().total / 1e9 / self._profile.max_running
        return max(0.0, memory - _OTHER_GB)

    def _number_of(self, examples: Path) -> int:
        if examples not in self._examples:
            with examples.open("rb") as lines:
                self._examples[examples] = sum(1 for _ in lines)
        return self._examples[examples]


def gpu_of(profile: Profile) -> Gpu:
    """Return the kind of GPU that a profile's jobs get, as far as the profile names it."""
    if profile.gpus_per_node == 0:
        return CPU
    trial = profile.trial
    names = (trial.gpu_type, trial.constraint, trial.partition)
    return next((gpu for name in names if name and (gpu := find_gpu(name))), UNKNOWN_GPU)
