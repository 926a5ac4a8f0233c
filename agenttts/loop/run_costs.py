"""What the trials of one run cost: the estimates, with the run's own records.

`agenttts.loop.estimates` has the pure estimates; here they get the run's sizes and measurements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from agenttts.dispatch.base import Scheduler
from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.loop.cost_basis import QUEUE_SECONDS, CostBasis
from agenttts.loop.estimates import (
    DrawRecord,
    ExamplesPart,
    StartRecord,
    expected_wait,
    stored_samples,
    trial_work,
)
from agenttts.loop.list_cost import ModelCost, TrialWork
from agenttts.loop.worker_lists import ResourceClass
from agenttts.run.directory import Run
from agenttts.run.examples import count_examples
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.space import Allocation
from agenttts.tables.schema import TrialState
from agenttts.trial.usage import JobUsage, read_usages


class RunCosts:
    """The costs of a run's trials, as far as they are known now.

    Args:
        run: The run.
        scheduler: The scheduler of its trials.

    Attributes:
        basis: What the estimates start from.
    """

    def __init__(self, run: Run, scheduler: Scheduler) -> None:
        self._directory = run.directory
        sizes = {
            name: run.record.sizes.get(name)
            or ModelSize(run.spec.models[name].params, gpus=model.gpus)
            for name, model in run.record.models.items()
        }
        self.basis = CostBasis.of(
            run.spec, run.profile, scheduler, sizes, compiled=run.cache is not None
        )
        self._examples: dict[Path, int] = {}
        self._usages: dict[str, list[JobUsage]] = {}
        # The trials that have ended; and by file and number of an example (None: every one), how
        # many of its samples are stored, by group.
        self._counted: set[str] = set()
        self._stored: dict[tuple[Path, int | None], dict[str, int]] = {}

    def usage(self, worker: str) -> JobUsage | None:
        """Return what the last start of a worker's program recorded so far."""
        found = read_usages(self._directory.worker(worker))
        self._usages[worker] = found
        return found[-1] if found else None

    def models(self) -> dict[str, ModelCost]:
        """Return the costs of the run's models, by the records that `usage` has read."""
        usages = [usage for found in self._usages.values() for usage in found]
        usages.sort(key=lambda usage: usage.written)
        return self.basis.estimates(
            [StartRecord(s.model, s.seconds) for usage in usages for s in usage.starts],
            [
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
        due: Iterable[TrialProgress],
        trials: Iterable[TrialProgress],
    ) -> list[TrialWork]:
        """Return what trials have to draw.

        Args:
            due: The trials.
            trials: The trials of the run. Samples of completed ones, and of the leading stages that
                were drawn of others, are stored.
        """
        for trial in trials:
            name = trial.planned.trial
            if name in self._counted:
                continue
            if trial.row is not None:
                self._counted.add(name)
            completed = (trial.row or {}).get("state") == TrialState.COMPLETED
            choices = trial.planned.allocation.choices[: None if completed else trial.drawn]
            if choices:
                drawn = stored_samples([Allocation(choices)])
                for key in self._examples_of(trial.planned):
                    stored = self._stored.setdefault(key, {})
                    for group, samples in drawn.items():
                        stored[group] = max(stored.get(group, 0), samples)
        return [
            trial_work(
                trial.planned.trial,
                trial.planned.allocation,
                self.basis.tokens,
                self._parts(trial.planned),
                named=str(trial.planned.examples or ""),
                gpus=self.basis.gpus,
            ).after(trial.drawn)
            for trial in due
        ]

    def classes(self, most: int, waits: Iterable[float]) -> list[ResourceClass]:
        """Return the workers that may be started.

        Args:
            most: How many of them.
            waits: Seconds that the run's workers have waited in the queue so far.
        """
        return self.basis.classes(most, self.queue_seconds(waits))

    def queue_seconds(self, waits: Iterable[float]) -> float:
        """Return the expected wait of a job in the queue; ``waits`` are those so far."""
        return expected_wait(waits, QUEUE_SECONDS if self.basis.queued else 0.0)

    def _parts(self, planned: PlannedTrial) -> list[ExamplesPart]:
        """Return a trial's examples in groups for which the same samples are stored."""
        if planned.examples is None:
            [key] = self._examples_of(planned)
            return [ExamplesPart(self._number_of(key[0]), self._stored.get(key, {}))]
        alike = Counter(
            frozenset(self._stored.get(key, {}).items()) for key in self._examples_of(planned)
        )
        return [ExamplesPart(count, dict(stored)) for stored, count in alike.items()]

    def _examples_of(self, planned: PlannedTrial) -> list[tuple[Path, int | None]]:
        path = self._directory.examples_of(planned.source)
        numbers = (None,) if planned.examples is None else planned.examples
        return [(path, number) for number in numbers]

    def _number_of(self, examples: Path) -> int:
        if examples not in self._examples:
            self._examples[examples] = count_examples(examples)
        return self._examples[examples]
