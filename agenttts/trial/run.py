"""Run trials from their spec files to stored results or fault files.

The trials of a list advance side by side, stage by stage. In a stage they are grouped by model, and
the samples that a group needs are drawn together: each sample once, in as few engine calls as
possible. So each model is loaded once per stage at most, however many trials there are. The result
of a trial is stored when its last stage is done.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import polars as pl

from agenttts.errors import AgentTTSError
from agenttts.inference.base import Engine, EngineError, ModelConfig
from agenttts.inference.sampler import Drawn, Sampler
from agenttts.inference.store import SampleStore, trial_writer
from agenttts.trial.evaluate import Evaluation, StageDraw, evaluate
from agenttts.trial.phase import PhaseNotes, noted
from agenttts.trial.result import Fault, TrialOutput, read_result, write_fault, write_result
from agenttts.trial.spec import TrialSpec


def run_trials(
    paths: Sequence[Path],
    engine_factory: Callable[[ModelConfig], Engine],
    *,
    notes: Path | None = None,
    out: TextIO,
    err: TextIO,
    before_closing: Callable[[], None] = lambda: None,
    ended: Callable[[Path], None] = lambda directory: None,
) -> int:
    """Evaluate the trials of spec files, which are of one run.

    Trials that are complete are left out.

    The samples drawn so far are stored however the trials end. They are stored also when
    ``engine_factory`` or an engine raises something that is not an `Exception`, to stop the trials.

    A fault of one trial does not end the others. Where an engine call fails for several trials,
    each of them is tried by itself.

    Args:
        paths: The trials' spec files; a file's directory gets the result or the fault file.
        engine_factory: Makes the engine of a model, with its model loaded.
        notes: The directory that gets notes of the current phase; default: the first trial's.
        out: Gets one line with the score of each trial.
        err: Gets the errors.
        before_closing: Called once the trials are over, before their samples are stored and their
            engine is closed.
        ended: Called with a trial's directory when its result or its fault is stored.

    Returns:
        0 if every result is stored, 1 if a trial failed (its ``fault.json`` says why).
    """
    phases = PhaseNotes(notes or paths[0].parent)
    phases.note("other")
    trials = [_RunningTrial(path, out, err, ended) for path in paths]
    for trial in trials:
        trial.start()
    models = {name: model for trial in trials for name, model in trial.models.items()}
    specs = [trial.spec for trial in trials if trial.spec is not None]
    if specs:
        # One shard writer per attempt, so that two attempts of a trial never share a file.
        writer = f"{trial_writer(specs[0].run, specs[0].trial)}{os.getpid()}"
        store = SampleStore(Path(specs[0].samples), writer=writer)
        sampler = Sampler(store, models, specs[0].seed, noted(engine_factory, phases))
        try:
            _advance(trials, sampler)
        finally:
            before_closing()
            sampler.close()
    return 1 if any(trial.failed for trial in trials) else 0


def _advance(trials: Sequence[_RunningTrial], sampler: Sampler) -> None:
    """Advance trials to their ends, the earliest stage first."""
    while waiting := [trial for trial in trials if trial.waits_for is not None]:
        group = _next_group(waiting, sampler)
        try:
            drawn = sampler.draw_each([draw.request for _, draw in group])
        except AgentTTSError as error:  # e.g. a package that the engine needs is missing
            for trial, _ in group:
                trial.fail(Fault("FAILED", str(error), "input"))
            continue
        for (trial, _), found in zip(group, drawn, strict=True):
            if isinstance(found, EngineError):
                trial.fail(Fault(found.kind, str(found), "engine"))
            else:
                trial.go_on(found)


def _next_group(
    waiting: Iterable[_RunningTrial], sampler: Sampler
) -> list[tuple[_RunningTrial, StageDraw]]:
    """Return the trials to draw for next, and their draws.

    They are in the earliest stage of all and need one engine: the one that is loaded if any trial
    of that stage needs it.
    """
    draws = [(trial, trial.waits_for) for trial in waiting if trial.waits_for is not None]
    earliest = min(draw.stage for _, draw in draws)
    draws = [(trial, draw) for trial, draw in draws if draw.stage == earliest]
    names = [draw.request.model for _, draw in draws]
    first = next((name for name in names if sampler.is_loaded(name)), names[0])
    return [
        (trial, draw) for trial, draw in draws if sampler.shares_engine(first, draw.request.model)
    ]


@dataclass
class _RunningTrial:
    """A trial between two draws."""

    path: Path
    out: TextIO
    err: TextIO
    ended: Callable[[Path], None]
    spec: TrialSpec | None = None
    waits_for: StageDraw | None = None
    failed: bool = False
    _evaluation: Evaluation | None = None
    _seconds: dict[str, float] = field(default_factory=lambda: {"load": 0.0, "generate": 0.0})

    @property
    def models(self) -> dict[str, ModelConfig]:
        """The models that the trial may need."""
        return dict(self.spec.models) if self.spec is not None else {}

    @property
    def directory(self) -> Path:
        """The directory that gets the result or the fault."""
        return Path(self.spec.directory) if self.spec is not None else self.path.parent

    def start(self) -> None:
        """Go on to the first draw, unless the trial is complete."""
        if read_result(self.path.parent) is not None:
            return
        try:
            self.spec = TrialSpec.read(self.path)
        except AgentTTSError as error:
            self.fail(Fault("FAILED", str(error), "input"))
            return
        evaluation = evaluate(self.spec)
        self._evaluation = evaluation
        self._step(lambda: next(evaluation))

    def go_on(self, drawn: Drawn) -> None:
        """Go on with the samples that the trial waited for, to the next draw or the end."""
        self._seconds["load"] += drawn.load_seconds
        self._seconds["generate"] += drawn.generate_seconds
        evaluation = self._evaluation
        assert evaluation is not None
        self._step(lambda: evaluation.send(drawn.results))

    def fail(self, fault: Fault) -> None:
        """End the trial with a fault."""
        print(f"{self.directory.name}: {fault.kind}: {fault.message}", file=self.err, flush=True)
        write_fault(self.directory, fault)
        self.waits_for, self.failed = None, True
        self.ended(self.directory)

    def _step(self, step: Callable[[], StageDraw]) -> None:
        """Compute up to the next draw, or store the result."""
        try:
            try:
                self.waits_for = step()
                return
            except StopIteration as end:
                output, examples = end.value
            self._store(replace(output, seconds=self._seconds), examples)
        except EngineError as error:  # e.g. of an embedding model that the task uses
            self.fail(Fault(error.kind, str(error), "engine"))
        except AgentTTSError as error:
            self.fail(Fault("FAILED", str(error), "input"))
        except Exception as error:  # the task's own code may raise anything: the user is told where
            traceback.print_exc(file=self.err)
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            self.fail(Fault("FAILED", f"{type(error).__name__}: {error} ({where})", "task"))

    def _store(self, output: TrialOutput, examples: pl.DataFrame) -> None:
        write_result(self.directory, output, examples)
        self.waits_for = None
        print(f"{self.directory.name}: score {output.score:.4f}", file=self.out, flush=True)
        self.ended(self.directory)
