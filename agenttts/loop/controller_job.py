"""The controller as a job: the code that its scheduler runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from agenttts import search
from agenttts.dispatch.base import Scheduler
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.dispatch.service_job import RestartedJob, end_with_runner
from agenttts.errors import AgentTTSError, UserError
from agenttts.files.trouble import PATIENCE_S, FilePatience
from agenttts.inference.compaction import compact
from agenttts.loop.evaluation import Evaluation, EvaluationSettings
from agenttts.loop.job_builder import JobBuilder
from agenttts.loop.loop import Controller, LoopSettings
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import DamagedJournal, Journal, read_state
from agenttts.run.models import changed_weights
from agenttts.run.record import AgentRecord, RunRecord
from agenttts.run.starts import RunCancelled, StartCheck, StartSuperseded, only_controller
from agenttts.search.llm.connect import connect
from agenttts.search.llm.transcript import Transcript
from agenttts.serving.served_model import served_model
from agenttts.space import SearchSpace
from agenttts.spec import JobSpec

log = logging.getLogger(__name__)

FILES_PAUSE_S = 10.0
"""Seconds between a controller that file system trouble stopped and the next one."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class ControllerJob(RestartedJob):
    """The function of the job.

    It is requeued near its time limit or when it is preempted, and goes on from the journal.

    ``start`` is the token of the start that it belongs to (`agenttts.run.starts`). With an empty
    token it goes on in any case.
    """

    # Jobs that an older version has pickled into the queue have no such attribute.
    start = ""

    def __init__(self, path: Path, start: str = "") -> None:
        self.path = path
        self.start = start

    def __call__(self) -> None:
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
        end_with_runner()
        run_controller(RunDirectory(self.path), self.start)


def run_controller(run: RunDirectory, start: str) -> None:
    """Go on with a run until it is over, as one start of its controller.

    A run that is cancelled is ended.
    """

    def go_on() -> None:
        with only_controller(run):
            try:
                StartCheck(run, start)()
            except StartSuperseded as superseded:
                log.warning("%s", superseded)
                return
            except RunCancelled:
                close_cancelled(run)
                return
            warn_of_changed_weights(run)
            make_controller(run, start).run()

    patiently(run, go_on)


def patiently(
    run: RunDirectory,
    go_on: Callable[[], None],
    seconds: float = PATIENCE_S,
    pause: float = FILES_PAUSE_S,
) -> None:
    """Run a controller, and a new one after each passing trouble of the file system.

    The new controller goes on from the journal.

    Args:
        run: The run.
        go_on: Runs a controller.
        seconds: How long the trouble may last.
        pause: Seconds between two controllers.

    Raises:
        FilesUnavailable: The trouble has lasted for ``seconds``. The run's jobs go on.
    """
    patience = FilePatience(
        f"the controller of {run.path}",
        f"fix the cause; the run's jobs keep running, and 'agenttts-hpc resume {run.path}' "
        "continues with them",
        seconds,
    )
    while True:
        try:
            go_on()
        except (AgentTTSError, OSError) as error:
            patience.failed(error)
        else:
            return
        time.sleep(pause)


def close_cancelled(run: RunDirectory) -> None:
    """Record a run that has no controller as cancelled, unless it is over.

    For callers within `only_controller`.
    """
    state = read_state(run.journal_file)
    # A run that an error ended may have left jobs behind.
    if state.finished is None or (state.finished != "done" and state.unfinished()):
        make_controller(run).cancel("cancelled")


def make_controller(run: RunDirectory, start: str = "") -> Controller:
    """Return the controller of a run, ready to go on from the end of its journal.

    ``start`` is as for `ControllerJob`.
    """
    spec, profile, record = run.spec(), run.profile(), run.record()
    cache = record.cache(run.path)
    if cache is not None and profile.cache:
        with suppress(OSError):  # nodes report that they cannot write there, and work without it
            cache.directory.mkdir(parents=True, exist_ok=True)
    samples = run.path / record.samples
    tokens = record.tokens(run.name)
    agent = record.agent or AgentRecord()
    journal = Journal(run.journal_file)
    transcript = Transcript(run.transcript_file)
    served = served_model(
        run,
        spec,
        profile,
        record.container,
        gpus=agent.gpus or 0,
        most_trial_gpus=max((model.gpus for model in record.models.values()), default=0),
        token=tokens[0],
        transcript=transcript,
        cache=cache,
        avoided=lambda: journal.state.avoided,
    )
    session = connect(
        spec.agent,
        agent.task_description,
        transcript,
        served.locate if served else None,
        thinking=agent.thinking,
        extra=agent.fields,
    )
    searcher = search.create(
        spec.search.method, spec.space(), spec.search.seed, llm=session, **spec.search.options
    )
    builder = JobBuilder(
        run,
        spec,
        tokens=tokens,
        models=record.models,
        container=record.container,
        env=profile.env,
        at_once=profile.max_running,
        samples=samples,
        cache=cache,
    )
    check_models(run, spec, record)
    check_trials(run, searcher.space, journal)
    scheduler = trial_scheduler(run, profile)
    evaluation = Evaluation(
        run,
        journal,
        scheduler,
        builder,
        EvaluationSettings(
            max_attempts=profile.max_attempts,
            poll_seconds=profile.poll_seconds,
            settle_seconds=scheduler.settle_seconds,
            max_preemptions=profile.max_preemptions,
            max_timeouts=profile.max_timeouts,
            retry_pauses=tuple(profile.retry_pauses),
        ),
        served,
        StartCheck(run, start),
    )
    settings = LoopSettings(
        iterations=spec.search.iterations,
        batch_size=spec.search.batch_size,
        finalists=spec.search.finalists.top if spec.search.finalists else 0,
        tested=spec.search.test_split.top if spec.search.test_split else 0,
    )
    between = partial(_compact_samples, samples)
    return Controller(run, searcher, journal, evaluation, settings, between)


def _compact_samples(directory: Path) -> None:
    """Keep look-ups fast: every engine call of every trial lists the shards."""
    try:
        compact(directory)
    except OSError as error:
        log.warning("the files of the sample store %s could not be merged: %s", directory, error)


def check_models(run: RunDirectory, spec: JobSpec, record: RunRecord) -> None:
    """Check that the spec has no model that the run was launched without.

    Raises:
        UserError: It has one.
    """
    if missing := [name for name in spec.models if name not in record.models]:
        raise UserError(
            f"{run.spec_file}: models.{missing[0]}: the run was launched without this model "
            f"({run.record_file.name} does "
            "not name it); restore the run's spec.yaml, or launch the new spec under another --name"
        )


def check_trials(run: RunDirectory, space: SearchSpace, journal: Journal) -> None:
    """Check that the trials belong to the run's search space.

    Raises:
        DamagedJournal: A trial belongs to another one.
    """
    offered = [(stage.name, {model.name for model in stage.models}) for stage in space.stages]
    for name, progress in journal.state.trials.items():
        choices = progress.planned.allocation.choices
        fits = len(choices) == len(offered) and all(
            choice.stage == stage and choice.model in models and choice.samples > 0
            for choice, (stage, models) in zip(choices, offered, strict=True)
        )
        if not fits:
            raise DamagedJournal(
                f"{run.journal_file}: the allocation of {name} ({progress.planned.allocation}) "
                f"does not fit the stages and models in {run.spec_file}; "
                "one of the two files was changed: restore it from a copy"
            )


def warn_of_changed_weights(run: RunDirectory) -> None:
    """Log a warning for every model whose files differ from those of the launch."""
    models = run.record().models
    for name in changed_weights(models):
        log.warning(
            "models.%s.path: the files in %s have changed since the launch, "
            "but the run's samples are stored as samples of one model: restore the old files, "
            "or launch a new run for the new files",
            name,
            models[name].path,
        )


def run_token(run: RunDirectory) -> str:
    """Return the prefix of the batch tokens of a run's jobs; it is unique to the run."""
    return run_tokens(run)[0]


def run_tokens(run: RunDirectory) -> tuple[str, ...]:
    """Return `run_token`, and the prefixes from before the journal was made anew."""
    return run.record().tokens(run.name)


def trial_scheduler(run: RunDirectory, profile: Profile) -> Scheduler:
    """Return the scheduler of a run's trials."""
    return create_scheduler(profile, run.scheduler_logs / "trials")


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write the package's log to a file too.

    A controller with a process of its own has such a file.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("agenttts")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        handler.close()
