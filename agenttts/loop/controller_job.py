"""The controller as a job: the code that its scheduler runs."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

from agenttts import search
from agenttts.dispatch.service_job import RestartedJob, end_with_runner
from agenttts.errors import AgentTTSError, RunFailed, UserError, cli_command
from agenttts.files.trouble import PATIENCE_S, FilePatience
from agenttts.inference.endpoint_options import key_variables
from agenttts.loop.answering import IdleWorkers
from agenttts.loop.controller import Controller
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.workers import Workers
from agenttts.run.directory import Run, RunDirectory
from agenttts.run.examples import count_examples
from agenttts.run.journal import DamagedJournal, Journal, read_state
from agenttts.run.models import changed_models
from agenttts.run.record import AgentRecord
from agenttts.run.schedulers import trial_scheduler
from agenttts.run.search_files import check_search_files, with_search_files
from agenttts.run.starts import (
    RunCancelled,
    StartCheck,
    StartSuperseded,
    only_controller,
)
from agenttts.search.base import Searcher
from agenttts.search.llm.base import LLM
from agenttts.search.llm.connect import connect
from agenttts.search.llm.transcript import Transcript
from agenttts.serving.served_model import served_model

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
        gc.freeze()  # no search for garbage looks at the modules again, which saves 0.1 s
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
        end_with_runner()
        run_controller(RunDirectory(self.path), self.start)


def run_controller(run: RunDirectory, start: str) -> None:
    """Go on with a run until it is over, as one start of its controller.

    A run that is cancelled is ended.
    """
    check = StartCheck(run, start)

    def go_on() -> None:
        with only_controller(run):
            try:
                check()
            except StartSuperseded as superseded:
                log.warning("%s", superseded)
                return
            except RunCancelled:
                close_cancelled(run)
                return
            continue_run(run, check)

    patiently(run, go_on)


def run_here(
    run: RunDirectory, start: str, log_path: Path, held: AbstractContextManager[object]
) -> None:
    """Go on with a run until it is over, in the process that launched it.

    A failure of the run is in its journal afterwards, as for other kinds of controllers.

    Args:
        run: The run.
        start: The token of the start.
        log_path: Where the log is written.
        held: The run's lock (`only_controller`), which ends with the controller.

    Raises:
        RunFailed: An interrupt has cancelled the run. It was not an interrupt by `cancel`.
    """
    check = StartCheck(run, start)
    with held, log_file(log_path):
        try:
            patiently(run, lambda: continue_run(run, check))
        except KeyboardInterrupt:
            close_cancelled(run)
            try:
                check()
            except RunCancelled:
                return  # `cancel` interrupts a controller that does not end soon
            raise RunFailed(
                f"run {run.path} was interrupted; '{cli_command('resume', run.path)}' continues it"
            ) from None
        except AgentTTSError:
            if read_state(run.journal_file).finished is None:
                raise


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
        f"fix the cause; the run's jobs keep running, and '{cli_command('resume', run.path)}' "
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
        make_controller(run.read()).cancel("cancelled")


def continue_run(directory: RunDirectory, check: Callable[[], None]) -> None:
    """Go on with a run until it is over or its controller has to stop.

    For callers within `only_controller`.

    Args:
        directory: The run.
        check: As for `make_controller`.
    """
    run = directory.read()
    warn_of_changed_models(run)
    make_controller(run, check).run()


def make_controller(run: Run, check: Callable[[], None] | None = None) -> Controller:
    """Return the controller of a run, ready to go on from the end of its journal.

    Args:
        run: The run.
        check: Called at each look at the queue; raises if the controller has to stop.
    """
    directory, profile = run.directory, run.profile
    check_models(run)
    run = with_search_files(run)
    if run.cache is not None and profile.cache:
        with suppress(OSError):  # nodes report that they cannot write there, and work without it
            run.cache.directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(directory.journal_file)
    check_trials(run, journal)
    scheduler = trial_scheduler(directory, profile)
    workers = Workers(directory, journal, profile.stays_for, scheduler.settle_seconds)
    idle = IdleWorkers(
        directory,
        workers,
        scheduler,
        run.record.models,
        time_limit=profile.trial_seconds,
        poll_seconds=profile.poll_seconds,
        check=check,
    )
    go_on = f"run '{cli_command('resume', directory.path)}'"
    transcript = Transcript(directory.transcript_file, go_on=go_on)
    served, asked = served_model(run, transcript, lambda: journal.state.avoided, idle)
    evaluation = Evaluation(run, journal, scheduler, workers, served, check)
    searcher = partial(make_searcher, run, transcript, asked)
    return Controller(run, journal, evaluation, searcher)


def make_searcher(run: Run, transcript: Transcript, served: LLM | None) -> Searcher:
    """Return the searcher of a run.

    Args:
        run: The run, with the copies of the files that its search reads.
        transcript: Gets the questions to the language model, and its replies.
        served: The language model that the run serves itself; None if it serves none.
    """
    spec, directory = run.spec, run.directory
    check_search_files(directory.path, run.record)
    examples = count_examples(directory.examples_file) if spec.search.examples else None
    agent = run.record.agent or AgentRecord()
    session = connect(
        spec.agent,
        agent.task_description,
        transcript,
        served,
        thinking=agent.thinking,
        opening=agent.opening,
        shared_keys=key_variables(run.record.models),
    )
    return search.create_for(spec, llm=session, examples=examples)


def check_models(run: Run) -> None:
    """Check that the spec has no model that the run was launched without.

    Raises:
        UserError: It has one.
    """
    if missing := [name for name in run.spec.models if name not in run.record.models]:
        raise UserError(
            "the run was launched without this model "
            f"({run.directory.record_file.name} does not name it); restore the run's "
            f"{run.directory.spec_file.name}, or launch the new spec under another --name",
            at=("models", missing[0]),
            file=str(run.directory.spec_file),
        )


def check_trials(run: Run, journal: Journal) -> None:
    """Check that the trials belong to the run's search space.

    Raises:
        DamagedJournal: A trial belongs to another one.
    """
    offered = [
        (stage.name, {model.name for model in stage.models}) for stage in run.spec.space().stages
    ]
    for name, progress in journal.state.trials.items():
        choices = progress.planned.allocation.choices
        fits = len(choices) == len(offered) and all(
            choice.stage == stage and choice.model in models and choice.samples > 0
            for choice, (stage, models) in zip(choices, offered, strict=True)
        )
        if not fits:
            raise DamagedJournal(
                f"{run.directory.journal_file}: the allocation of {name} "
                f"({progress.planned.allocation}) does not fit the stages and models in "
                f"{run.directory.spec_file}; "
                "one of the two files was changed: restore it from a copy"
            )


def warn_of_changed_models(run: Run) -> None:
    """Log a warning for every model whose files differ from those of the launch."""
    models = run.record.models
    for name, places in changed_models(models, run.record.contents).items():
        if models[name].engine == "scripted":
            problem = "so its later samples are of another model than the earlier ones"
        else:
            problem = "but the run's samples are stored as samples of one model"
        log.warning(
            "models.%s: the files at %s have changed since the launch, %s: restore the old files, "
            "or launch a new run for the new files",
            name,
            " or ".join(places),
            problem,
        )


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write the package's log to a file too.

    A controller with a process of its own has such a file.
    """
    handler = _LogFile(path, encoding="utf-8")
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
        with suppress(OSError):  # a full disk: the run's own error says so
            handler.close()


class _LogFile(logging.FileHandler):
    """A log file that loses lines on a full disk.

    By default, logging writes a traceback to the terminal for each such line.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a line that the file system does not take."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
