"""Make the jobs that evaluate planned trials.

A job is the specs of its trials on disk, a command and a name in the queue.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agenttts.dispatch.apptainer import (
    CACHES,
    OFFLINE,
    PASSED_VARIABLES,
    container_env,
    exec_command,
)
from agenttts.dispatch.base import JobRequest, JobTrial
from agenttts.dispatch.node.mailbox import Mailbox
from agenttts.errors import UserError
from agenttts.files.atomic import atomic_write_json
from agenttts.inference.base import ModelConfig
from agenttts.inference.endpoint_options import key_variables, with_rate_share
from agenttts.inference.engines import ENGINES
from agenttts.inference.partition import SamplePartition
from agenttts.run.directory import Run
from agenttts.run.progress import PlannedTrial
from agenttts.space import Choice
from agenttts.spec.paths import named_places, places_of_options
from agenttts.tables.schema import AFTER_SEARCH
from agenttts.tasks.user_tasks import frozen_name
from agenttts.trial.command import MODULE, DueTrial, TrialCommand
from agenttts.trial.result import read_result
from agenttts.trial.spec import SPEC_FILE, TrialSpec


def is_place(option: Any) -> bool:
    """Return whether a task option is an absolute path that exists."""
    return isinstance(option, str) and option.startswith("/") and Path(option).exists()


def sample_partitions(
    planned: PlannedTrial, jobs: Sequence[Sequence[PlannedTrial]], at_once: int
) -> dict[str, SamplePartition]:
    """Return, by stage, the trial's share of the prompts that several jobs need.

    Prompts are certainly the same if the examples, all choices of earlier stages and the stage's
    model are equal.

    Args:
        planned: The trial.
        jobs: The trials of each job that is started with it, its own included.
        at_once: The most jobs that run at a time.
    """
    return _Draws(jobs).partitions(planned, at_once)


_Prompts = tuple[tuple[int, ...] | None, int, tuple[Choice, ...], str]


class _Draws:
    """Which jobs that are started together draw samples for the same prompts."""

    def __init__(self, jobs: Sequence[Sequence[PlannedTrial]]) -> None:
        self.jobs = jobs
        self._job_of: dict[str, int] = {}
        # The jobs, in order, by examples, stage, choices of the earlier stages and model.
        self._alike: dict[_Prompts, list[int]] = {}
        for number, trials in enumerate(jobs):
            for planned in trials:
                self._job_of.setdefault(planned.trial, number)
                choices = planned.allocation.choices
                for stage, choice in enumerate(choices):
                    key = (planned.examples, stage, choices[:stage], choice.model)
                    alike = self._alike.setdefault(key, [])
                    if not alike or alike[-1] != number:
                        alike.append(number)

    def partitions(self, planned: PlannedTrial, at_once: int) -> dict[str, SamplePartition]:
        """Return the parts of a trial of these jobs; see `sample_partitions`."""
        found: dict[str, SamplePartition] = {}
        choices = planned.allocation.choices
        own = self._job_of[planned.trial]
        for stage, choice in enumerate(choices):
            alike = self._alike[planned.examples, stage, choices[:stage], choice.model]
            peers = min(len(alike), at_once)
            if peers > 1:
                found[choice.stage] = SamplePartition(bisect_left(alike, own) % peers, peers)
        return found


def _holds(spec_file: Path, trial: TrialSpec) -> bool:
    """Return whether the file is a sound spec of this trial.

    It has to name the same allocation and today's paths and GPUs, because a run may be moved, or
    given another profile.
    """
    try:
        found = TrialSpec.read(spec_file)
    except UserError:
        return False
    gpus = [{name: model.gpus for name, model in s.models.items()} for s in (found, trial)]
    return gpus[0] == gpus[1] and all(
        getattr(found, name) == getattr(trial, name)
        for name in (
            *("trial", "allocation", "directory", "examples", "example_numbers", "samples"),
            "task_source",
        )
    )


class JobBuilder:
    """Makes the jobs of a run's trials.

    Attributes:
        tokens: Prefixes of batch tokens, unique to the run. New jobs have the first.
        stays: Whether jobs stay for further lists of trials.
    """

    def __init__(self, run: Run) -> None:
        self.tokens = run.tokens
        self._run = run.directory
        self._spec = run.spec
        self._space = run.spec.space()
        self._models = run.record.models
        self._container = run.record.container
        self._env = run.profile.env
        self._at_once = run.profile.max_running
        self._samples = run.samples
        self._cache = run.cache
        self._draws = _Draws(())
        self.stays = run.profile.stays_for > 0

    def gpus(self, planned: PlannedTrial) -> int:
        """Return the GPUs that a trial needs.

        Stages run one after the other, so it needs the GPUs of its largest model.
        """
        return max(model.gpus for model in self._models_of([planned]).values())

    def request(
        self,
        trials: Sequence[PlannedTrial],
        jobs: Sequence[Sequence[PlannedTrial]],
        earlier_attempts: Sequence[int],
        worker: str,
        gpus: int = 0,
        upto: Mapping[str, int] | None = None,
    ) -> JobRequest:
        """Return the job of a list of trials, and write the specs that it reads.

        A spec has the same bytes every time.

        Args:
            trials: The trials, at least one.
            jobs: The trials of each job that is started with it, its own included.
            earlier_attempts: How many attempts of each trial do not count against its limits.
            worker: The name of the job's own directory, if it needs one.
            gpus: GPUs of the job; 0: those that its trials need.
            upto: How many leading stages to draw of each trial that is not evaluated whole.
        """
        specs = self.write_specs(trials, jobs)
        members = tuple(
            JobTrial(spec.parent, earlier, (upto or {}).get(planned.trial))
            for planned, spec, earlier in zip(trials, specs, earlier_attempts, strict=True)
        )
        gpus = gpus or max(self.gpus(planned) for planned in trials)
        models = self._models_of(trials)
        if self.stays:  # for the trials of its resource class that it may be given later
            models = {name: model for name, model in self._models.items() if model.gpus <= gpus}
        shared = self.stays or len(trials) > 1
        directory = self._worker_directory(worker) if shared else specs[0].parent
        due = tuple(DueTrial(spec, m.upto) for spec, m in zip(specs, members, strict=True))
        command = TrialCommand(due, directory if shared else None, self.stays)
        return JobRequest(
            trial=trials[0].trial,
            directory=directory,
            command=self._command(command, models),
            env=self._environment(),
            gpus=gpus,
            name=self.name(trials),
            comment=self.comment(trials),
            cache=self._cache,
            needs=self._needs(specs, trials[0].source, models),
            trials=members,
            stays=self.stays,
            compiles=any(ENGINES[model.engine].compiles for model in models.values()),
        )

    def name(self, trials: Sequence[PlannedTrial]) -> str:
        """Return the name in the queue of a job that evaluates these trials."""
        return f"{_label(trials)}-{self._run.name}"

    def comment(self, trials: Sequence[PlannedTrial]) -> str:
        """Return the comment in the queue of a job that evaluates these trials."""
        iteration = trials[0].iteration
        return f"agenttts run={self._run.name} iteration={iteration} {_described(trials)}"

    def write_specs(
        self, trials: Sequence[PlannedTrial], jobs: Sequence[Sequence[PlannedTrial]]
    ) -> tuple[Path, ...]:
        """Write the specs of a list of trials where a job reads them; see `request`."""
        return tuple(self._write_spec(planned, jobs) for planned in trials)

    def _models_of(self, trials: Sequence[PlannedTrial]) -> dict[str, ModelConfig]:
        names = [choice.model for planned in trials for choice in planned.allocation.choices]
        return {name: self._models[name] for name in dict.fromkeys(names)}

    def _worker_directory(self, worker: str) -> Path:
        directory = self._run.worker(worker)
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(exist_ok=True)
        Mailbox(directory).prepare()
        return directory

    def _write_spec(self, planned: PlannedTrial, jobs: Sequence[Sequence[PlannedTrial]]) -> Path:
        """Write a trial's spec, unless it is there; return the file."""
        directory = self._run.trial(planned.trial)
        # The run's directory is never made here: a run that was removed or moved stays so.
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(exist_ok=True)
        spec_file = directory / SPEC_FILE
        # The spec must not change under a job that already runs, and a result belongs to the spec
        # that it was made by.
        if read_result(directory) is not None:
            return spec_file
        at_once = min(self._at_once, len(jobs))
        models = self._models_of([planned])
        trial = TrialSpec(
            run=self._run.name,
            trial=planned.trial,
            allocation=planned.allocation,
            task=frozen_name(self._spec.task.name, self._run.task_source),
            examples=str(self._run.examples_of(planned.source)),
            seed=self._spec.search.seed,
            decode_tokens={name: s.decode_tokens for name, s in self._spec.stages.items()},
            models={name: with_rate_share(model, at_once) for name, model in models.items()},
            directory=str(directory),
            samples=str(self._samples),
            options=self._spec.task.options,
            task_source=str(self._run.task_source) if self._run.task_source.is_dir() else None,
            code_on_host=self._spec.task.run_code_on_host,
            shares=self._draws_of(jobs).partitions(planned, self._at_once),
            fewer_samples=self._fewer_samples(planned),
            example_numbers=planned.examples,
        )
        if not _holds(spec_file, trial):
            atomic_write_json(spec_file, trial.to_json())
        return spec_file

    def _fewer_samples(self, planned: PlannedTrial) -> dict[str, tuple[int, ...]]:
        """Return the smaller numbers of samples that a trial finds results for."""
        if planned.source in AFTER_SEARCH or not self._spec.search.stored:
            return {}
        return {
            choice.stage: self._space.stage(choice.stage).fewer_samples(choice.samples)
            for choice in planned.allocation.choices
        }

    def _draws_of(self, jobs: Sequence[Sequence[PlannedTrial]]) -> _Draws:
        """Return what jobs draw; it is found once for the jobs that are started together."""
        if self._draws.jobs is not jobs:
            self._draws = _Draws(jobs)
        return self._draws

    def _needs(
        self, specs: Sequence[Path], source: str, models: Mapping[str, ModelConfig]
    ) -> tuple[Path, ...]:
        """Return the files that the node must see before the trials start there."""
        needs = [*specs, self._run.examples_of(source)]
        if self._container is not None:
            needs.append(self._container.image)
        needs += [model.files for model in models.values() if model.files is not None]
        needs += [place for m in models.values() for place in named_places(m.options).values()]
        return tuple(needs)

    def _command(self, trials: TrialCommand, models: Mapping[str, ModelConfig]) -> tuple[str, ...]:
        if self._container is None:
            return (sys.executable, *MODULE, *trials.arguments())
        paths = [str(model.files) for model in models.values() if model.files is not None]
        paths += [str(p) for m in models.values() for p in places_of_options(m.options).values()]
        # Task options that name a path, such as an embedding model.
        paths += [v for v in self._spec.task.options.values() if is_place(v)]
        return exec_command(
            self._container,
            ("python", *MODULE, *trials.arguments()),
            read_only=[Path(path) for path in paths if Path(path).is_absolute()],
            writable=[self._run.path, self._samples],
        )

    def _environment(self) -> dict[str, str]:
        if self._container is None:
            return self._env
        # Only the names of the keys: a job's environment is written to disk.
        names = key_variables(self._models)
        passed = {PASSED_VARIABLES: " ".join(names)} if names else {}
        return {**container_env({**OFFLINE, **CACHES, **self._env}), **passed}


def _label(trials: Sequence[PlannedTrial]) -> str:
    """Return the beginning of a job's name.

    squeue shows eight characters of a name by default: iteration and first trial come first.
    """
    first = trials[0]
    number = first.trial.lstrip("t").lstrip("0") or "0"
    phase = first.source if first.source in AFTER_SEARCH else f"i{first.iteration}t"
    more = f"+{len(trials) - 1}" if len(trials) > 1 else ""
    return f"{phase}{number}{more}"


def _described(trials: Sequence[PlannedTrial]) -> str:
    """Return what a job's comment says of its trials."""
    if len(trials) == 1:
        stages = " ".join(str(choice) for choice in trials[0].allocation.choices)
        return f"trial={trials[0].trial} {stages.replace('×', 'x')}"
    models = dict.fromkeys(c.model for planned in trials for c in planned.allocation.choices)
    names = ",".join(planned.trial for planned in trials)
    return f"trials={names} models={','.join(models)}"
