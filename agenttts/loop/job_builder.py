"""Make the job that evaluates a planned trial.

That is its spec on disk, its command and its name in the queue.
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
from agenttts.spec.paths import named_places, places_of_options
from agenttts.tables.schema import AFTER_SEARCH
from agenttts.tasks.user_tasks import frozen_name
from agenttts.trial.result import read_result
from agenttts.trial.spec import SPEC_FILE, TrialSpec


def is_place(option: Any) -> bool:
    """Return whether a task option is an absolute path that exists."""
    return isinstance(option, str) and option.startswith("/") and Path(option).exists()


def sample_partitions(
    planned: PlannedTrial, together: Sequence[PlannedTrial], at_once: int
) -> dict[str, SamplePartition]:
    """Return, by stage, the trial's part of prompts that it shares with other trials.

    The other trials are planned ``together`` with it and draw samples for the same prompts. Prompts
    are certainly the same if all choices of earlier stages and the stage's model are equal.

    Args:
        planned: The trial.
        together: The trials of its batch, including itself.
        at_once: The most trials that run at a time.
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
    """Return whether the file is a sound spec of this trial.

    It has to name the same allocation and today's paths, because a run may be moved.
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

    Args:
        run: The run's directory.
        spec: The run's spec.
        tokens: Prefixes of batch tokens, unique to the run. The first is that of new jobs.
        models: The models, by name.
        container: The container of the trials; None for the host's Python.
        env: Environment variables of the jobs.
        at_once: The most trials with the same need of GPUs that run at a time.
        samples: Directory of the sample store.
        cache: Where jobs keep compiled code.
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
        """Return the job of a trial, and write the trial's spec where the job reads it.

        The spec has the same bytes every time.

        Args:
            planned: The trial.
            together: The trials that were planned with it, including itself.
        """
        directory = self._run.trial(planned.trial)
        # The run's directory is never made here: a run that was removed or moved stays so.
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(exist_ok=True)
        after = planned.source in AFTER_SEARCH
        names = dict.fromkeys(choice.model for choice in planned.allocation.choices)
        models = {name: self._models[name] for name in names}
        samples = self._samples
        spec_file = directory / SPEC_FILE
        # The spec must not change under a job that already runs, and a result belongs to the spec
        # that it was made by.
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
        phase = planned.source if after else f"i{planned.iteration}t"
        return JobRequest(
            trial=planned.trial,
            directory=directory,
            command=self._command(spec_file, models, samples),
            env=self._environment(),
            # Stages run one after the other: the trial holds the GPUs of its largest model.
            gpus=max(model.gpus for model in models.values()),
            # squeue shows eight characters of a name by default: iteration and trial come first.
            name=f"{phase}{number}-{self._run.name}",
            comment=f"agenttts run={self._run.name} iteration={planned.iteration} "
            f"trial={planned.trial} {stages.replace('×', 'x')}",
            cache=self._cache,
            needs=self._needs(spec_file, planned.source, models),
        )

    def _needs(
        self, spec_file: Path, source: str, models: Mapping[str, ModelConfig]
    ) -> tuple[Path, ...]:
        """Return the files that the node must see before the trial starts there."""
        needs = [spec_file, self._run.examples_of(source)]
        if self._container is not None:
            needs.append(self._container.image)
        needs += [Path(m.path) for m in models.values() if Path(m.path).is_absolute()]
        needs += [place for m in models.values() for place in named_places(m.options).values()]
        return tuple(needs)

    def _command(
        self, spec_file: Path, models: Mapping[str, ModelConfig], samples: Path
    ) -> tuple[str, ...]:
        if self._container is None:
            return (sys.executable, "-m", "agenttts.trial", str(spec_file))
        paths = [model.path for model in models.values()]
        paths += [str(p) for m in models.values() for p in places_of_options(m.options).values()]
        # Task options that name a path, such as an embedding model.
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
