"""From a planned trial to the job that evaluates it: its spec on disk, its command, its name in
the queue.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agenttts.dispatch.apptainer import (
    CACHES,
    OFFLINE,
    Container,
    container_env,
    exec_command,
)
from agenttts.dispatch.base import JobRequest
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.errors import UserError
from agenttts.files.atomic import atomic_write_json
from agenttts.inference.base import ModelConfig
from agenttts.inference.partition import SamplePartition
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import PlannedTrial
from agenttts.spec import JobSpec
from agenttts.spec.paths import places_of_options
from agenttts.tables.schema import AFTER_SEARCH
from agenttts.tasks.user_tasks import frozen_name
from agenttts.trial.result import read_result
from agenttts.trial.spec import SPEC_FILE, TrialSpec


def is_place(option: Any) -> bool:
    """Whether a task option is an absolute path to something that is there."""
    return isinstance(option, str) and option.startswith("/") and Path(option).exists()


def sample_partitions(
    planned: PlannedTrial, together: Sequence[PlannedTrial], at_once: int
) -> dict[str, SamplePartition]:
    """By stage, the trial's part of prompts that others planned ``together`` with it draw from.

    These are certainly the same where all choices before are, and so is the stage's model.
    """
    found: dict[str, SamplePartition] = {}
    choices = planned.allocation.choices
    for number, choice in enumerate(choices):
        alike = [
            other.trial
            for other in together
            if other.allocation.choices[:number] == choices[:number]
            and other.allocation.choices[number].model == choice.model
        ]
        peers = min(len(alike), at_once)
        if peers > 1:
            found[choice.stage] = SamplePartition(alike.index(planned.trial) % peers, peers)
    return found


def _holds(spec_file: Path, trial: TrialSpec) -> bool:
    """Whether the file is the trial's spec: sound, of this allocation, and with the places of
    today (a run may be moved).
    """
    try:
        found = TrialSpec.read(spec_file)
    except UserError:
        return False
    return all(
        getattr(found, name) == getattr(trial, name)
        for name in ("trial", "allocation", "directory", "examples", "samples", "task_source")
    )


class JobBuilder:
    """Makes jobs of trials.

    ``tokens`` are unique to the run, the first is that of its jobs from now on; ``samples``: where
    they are stored; ``at_once``: how many trials of one need of GPUs run at a time, at most.
    """

    def __init__(
        self,
        run: RunDirectory,
        spec: JobSpec,
        *,
        tokens: tuple[str, ...],
        models: Mapping[str, ModelConfig],
        container: Container | None,
        env: Mapping[str, str],
        at_once: int,
        samples: Path,
        cache: CompileCache | None = None,
    ) -> None:
        self._samples = samples
        self.tokens = tokens
        self._at_once = at_once
        self._cache = cache
        self._run = run
        self._spec = spec
        self._models = models
        self._container = container
        self._env = dict(env)

    def request(self, planned: PlannedTrial, together: Sequence[PlannedTrial]) -> JobRequest:
        """The job of a trial, one of those planned ``together``; writes its spec where the job
        will read it (the same bytes every time).
        """
        directory = self._run.trial(planned.trial)
        # Never the run itself: one that was removed or moved stays so.
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(exist_ok=True)
        after = planned.source in AFTER_SEARCH
        names = dict.fromkeys(choice.model for choice in planned.allocation.choices)
        models = {name: self._models[name] for name in names}
        samples = self._samples
        spec_file = directory / SPEC_FILE
        # A job that runs already must not see it change, and a result is of the spec that it was
        # made by.
        if read_result(directory) is None:
            trial = TrialSpec(
                run=self._run.name,
                trial=planned.trial,
                allocation=planned.allocation,
                task=frozen_name(self._spec.task.name, self._run.task_source),
                examples=str(self._run.examples_of(planned.source)),
                seed=self._spec.search.seed,
                decode_tokens={name: s.decode_tokens for name, s in self._spec.stages.items()},
                models=models,
                directory=str(directory),
                samples=str(samples),
                options=self._spec.task.options,
                task_source=str(self._run.task_source) if self._run.task_source.is_dir() else None,
                code_on_host=self._spec.task.run_code_on_host,
                shares=sample_partitions(planned, together, self._at_once),
            )
            if not _holds(spec_file, trial):
                atomic_write_json(spec_file, trial.to_json())
        number = planned.trial.lstrip("t").lstrip("0") or "0"
        stages = " ".join(str(choice) for choice in planned.allocation.choices)
        return JobRequest(
            trial=planned.trial,
            directory=directory,
            command=self._command(spec_file, models, samples),
            env=self._environment(),
            # Stages run one after the other: the trial holds what its largest model takes.
            gpus=max(model.gpus for model in models.values()),
            # squeue shows eight characters of a name by default: iteration and trial come first.
            name=f"{planned.source if after else f'i{planned.iteration}t'}{number}-{self._run.name}",
            comment=f"agenttts run={self._run.name} iteration={planned.iteration} "
            f"trial={planned.trial} {stages.replace('×', 'x')}",
            cache=self._cache,
            needs=self._needs(spec_file, planned.source, models),
        )

    def _needs(
        self, spec_file: Path, source: str, models: Mapping[str, ModelConfig]
    ) -> tuple[Path, ...]:
        """What the node must see before the trial is started there."""
        needs = [spec_file, self._run.examples_of(source)]
        if self._container is not None:
            needs.append(self._container.image)
        needs += [Path(m.path) for m in models.values() if Path(m.path).is_absolute()]
        return tuple(needs)

    def _command(
        self, spec_file: Path, models: Mapping[str, ModelConfig], samples: Path
    ) -> tuple[str, ...]:
        if self._container is None:
            return (sys.executable, "-m", "agenttts.trial", str(spec_file))
        paths = [model.path for model in models.values()]
        paths += [str(p) for m in models.values() for p in places_of_options(m.options).values()]
        # Task options that name a place, such as an embedding model.
        paths += [v for v in self._spec.task.options.values() if is_place(v)]
        return exec_command(
            self._container,
            ("python", "-m", "agenttts.trial", str(spec_file)),
            read_only=[Path(path) for path in paths if Path(path).is_absolute()],
            writable=[self._run.path, samples],
        )

    def _environment(self) -> dict[str, str]:
        if self._container is None:
            return self._env
        return container_env({**OFFLINE, **CACHES, **self._env})
