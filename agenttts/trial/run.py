"""Run trials from their spec files to stored results or fault files.

The trials of a list advance side by side, stage by stage. In a stage they are grouped by model, and
the samples that a group needs are drawn together: each sample once, in as few engine calls as
possible. So each model is loaded once per stage at most, however many trials there are. The result
of a trial is stored when its last stage is done. If only its leading stages are due, its part is
recorded when these are drawn (`agenttts.trial.part`).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from agenttts.errors import AgentTTSError
from agenttts.files.trouble import is_outside_trouble
from agenttts.inference.base import Engine, EngineError, ModelConfig
from agenttts.inference.draws import Drawn
from agenttts.inference.engine_child import SpareEngine
from agenttts.inference.sampler import Sampler
from agenttts.inference.shard_names import trial_writer
from agenttts.inference.store import SampleStore
from agenttts.tasks.user_code import NOT_TO_EXIT, WRONG
from agenttts.trial.command import AskedQuestion, DueTrial, TrialCommand
from agenttts.trial.draws import StageDraw
from agenttts.trial.engines_ahead import next_start
from agenttts.trial.evaluate import Evaluated, Evaluation, evaluate
from agenttts.trial.part import NOTHING_DRAWN, Part, read_part, write_part
from agenttts.trial.phase import PhaseNotes, noted
from agenttts.trial.progress import ProgressNotes, TrialStage
from agenttts.trial.questions import answer_question
from agenttts.trial.result import Fault, TrialOutput, read_result, write_fault, write_result
from agenttts.trial.spec import TrialSpec
from agenttts.trial.usage import UsageNotes


class TrialRunner:
    """Evaluates lists of trials of one run.

    Engines stay loaded while memory allows.

    Args:
        engine_factory: Makes the engine of a model, with its model loaded.
        notes: The directory that gets notes of the current phase, of the progress and of what was
            used.
        out: Gets one line with the score of each trial.
        err: Gets the errors.
        ended: Called with a trial's directory when its result, its part or its fault is stored.
        stays: Whether there may be more than one list.
        spare: The process from which ``engine_factory`` may make an engine. The runner starts it
            for later engines and ends it.
    """

    def __init__(
        self,
        engine_factory: Callable[[ModelConfig], Engine],
        *,
        notes: Path,
        out: TextIO,
        err: TextIO,
        ended: Callable[[Path], None] = lambda directory: None,
        stays: bool = False,
        spare: SpareEngine | None = None,
    ) -> None:
        self._phases = PhaseNotes(notes)
        self._phases.note("other")
        self._usage = UsageNotes(notes)
        self._progress = ProgressNotes(notes)
        self._engine_factory = engine_factory
        self._out = out
        self._err = err
        self._ended = ended
        self._stays = stays
        self._spare = spare or SpareEngine()
        self._sampler: Sampler | None = None

    def run(self, due: Sequence[DueTrial]) -> int:
        """Evaluate trials; those that are complete are left out.

        The samples drawn so far are stored, at the latest by `close`, however the trials end. They
        are stored also when the engine factory or an engine raises something that is not an
        `Exception`, to stop the trials.

        A fault of one trial does not end the others. Where an engine call fails for several trials,
        each of them is tried by itself.

        Args:
            due: The trials; a spec file's directory gets the result, the part or the fault file.

        Returns:
            0 if every result or part is stored, 1 if a trial failed (its ``fault.json`` says why).

        Raises:
            OSError: A fault cannot be written, e.g. because the trial's directory was removed. The
                other trials have ended by then.
        """
        self._usage.work_begins()
        trials = [_RunningTrial(t.spec, t.upto, self._out, self._err, self._ended) for t in due]
        for trial in trials:
            trial.start()
        specs = [trial.spec for trial in trials if trial.spec is not None]
        self._progress.new_list()
        if self._sampler is not None:
            self._sampler.forget_failures()
        if specs:
            sampler = self._sampler_for(specs)
            _advance(trials, sampler, self._progress, all_known=not self._stays)
        self._spare.close()  # no start is expected as long as the program waits for a list
        self._usage.work_ended()
        for trial in trials:
            if trial.unwritten is not None:  # the end of the program tells the job
                raise trial.unwritten
        return 1 if any(trial.failed for trial in trials) else 0

    def answer(self, question: AskedQuestion) -> None:
        """Answer a question of the search with an engine.

        The answer is not a sample of a trial. It may be stopped as `run` may; then there is no
        answer.
        """
        self._usage.work_begins()
        answer_question(question.file, self._sampler, self._err)
        self._usage.work_ended()

    def close(self) -> None:
        """Store the samples and end the engines; may be called twice."""
        self._usage.work_begins()
        if self._sampler is not None:
            self._sampler.close()
        self._spare.close()
        self._usage.work_begins()

    def _sampler_for(self, specs: Sequence[TrialSpec]) -> Sampler:
        models = {name: model for spec in specs for name, model in spec.models.items()}
        if self._sampler is None:
            # One shard writer per attempt, so that two attempts of a trial never share a file.
            writer = f"{trial_writer(specs[0].run, specs[0].trial)}{os.getpid()}"
            self._sampler = Sampler(
                SampleStore(Path(specs[0].samples), writer=writer),
                models,
                specs[0].seed,
                noted(self._engine_factory, self._phases),
                keep_engines=self._stays or len(specs) > 1,
                observer=self._usage,
                watcher=self._progress,
                spare=self._spare,
            )
        self._sampler.add_models(models)
        return self._sampler


def run_trials(
    trials: TrialCommand,
    engine_factory: Callable[[ModelConfig], Engine],
    *,
    out: TextIO,
    err: TextIO,
    more: Iterable[Sequence[DueTrial] | AskedQuestion] = (),
    before_closing: Callable[[], None] = lambda: None,
    ended: Callable[[Path], None] = lambda directory: None,
    spare: SpareEngine | None = None,
) -> int:
    """Evaluate the trials of a command, then further lists, with a `TrialRunner`.

    Args:
        trials: The command.
        engine_factory: As in `TrialRunner`.
        out: As in `TrialRunner`.
        err: As in `TrialRunner`.
        more: The further lists of trials, and questions. It may wait for them.
        before_closing: Called once the trials are over, before their samples are stored and their
            engines are closed.
        ended: As in `TrialRunner`.
        spare: As in `TrialRunner`.

    Returns:
        0 if every result or part is stored, 1 if a trial failed.
    """
    runner = TrialRunner(
        engine_factory,
        notes=trials.notes or trials.trials[0].spec.parent,
        out=out,
        err=err,
        ended=ended,
        stays=trials.stays,
        spare=spare,
    )
    try:
        codes = [runner.run(trials.trials)]
        for work in more:
            if isinstance(work, AskedQuestion):
                runner.answer(work)
            else:
                codes.append(runner.run(work))
        return max(codes)
    finally:
        before_closing()
        runner.close()


def evaluate_alone(spec: TrialSpec, sampler: Sampler) -> TrialOutput:
    """Evaluate one trial with a sampler of the caller's, and store its result.

    Raises:
        EngineError: A model cannot be loaded or run.
        UserError: As in `agenttts.trial.evaluate.evaluate`.
    """
    evaluation = evaluate(spec)
    draw = next(evaluation)
    while True:
        [drawn] = sampler.draw_together([draw.request])
        try:
            draw = evaluation.send(drawn.results)
        except StopIteration as end:
            found: Evaluated = end.value
            write_result(Path(spec.directory), found.output, found.examples, found.stored)
            return found.output


def _advance(
    trials: Sequence[_RunningTrial], sampler: Sampler, progress: ProgressNotes, *, all_known: bool
) -> None:
    """Advance trials to their ends, the earliest stage first.

    Args:
        trials: The trials.
        sampler: Draws their samples.
        progress: Takes note of the stages that are drawn.
        all_known: Whether no further trials will need an engine.
    """
    while waiting := [trial for trial in trials if trial.waits_for is not None]:
        if all_known:
            sampler.expect({name for trial in waiting for name in trial.models_from_here()})
        group = _next_group(waiting, sampler)
        sampler.start_ahead(next_start(waiting, [trial for trial, _ in group], sampler))
        progress.begin(group[0][1].request.model, (trial.stage_of(draw) for trial, draw in group))
        for (trial, _), found in zip(group, _draw(group, sampler), strict=True):
            if isinstance(found, Fault):
                trial.go_without(found)
            else:
                trial.go_on(found)


def _draw(
    group: Sequence[tuple[_RunningTrial, StageDraw]], sampler: Sampler
) -> list[Drawn | Fault]:
    """Draw what trials need; a trial for which that is not possible gets a fault."""
    try:
        sampler.await_stored([d.request for t, d in group if d.stage < t.earlier.stages])
        drawn = sampler.draw_each([draw.request for _, draw in group])
    except AgentTTSError as error:  # e.g. a package that the engine needs is missing
        return [Fault(_kind(error), str(error), "input")] * len(group)
    except Exception as error:  # e.g. a task's prompt that is not a prompt
        if len(group) > 1:
            return [found for pair in group for found in _draw([pair], sampler)]
        return [group[0][0].unexpected(error)]
    return [
        Fault(found.kind, str(found), "engine") if isinstance(found, EngineError) else found
        for found in drawn
    ]


def _unexpected(error: BaseException, spec: TrialSpec | None) -> Fault:
    """Return the fault of an error in the task's own code, or of the file system.

    Its message has the place of the error: the last line of the task's own files, if there is one,
    or the last of all.
    """
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if spec is not None and _is_own(place.filename, spec)]
    place = (own or places)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        what += f": {NOT_TO_EXIT}"
    return Fault(_kind(error), f"{what} ({where})", "task")


def _is_own(file: str, spec: TrialSpec) -> bool:
    """Return whether a file belongs to the source of a user's own task."""
    source = spec.task_source
    return file == spec.task.rpartition(":")[0] or bool(
        source and Path(file).is_relative_to(source)
    )


def _kind(error: BaseException) -> str:
    """Return the kind of an error's fault.

    The allocation is not the cause of file system trouble.
    """
    return "INFRA_FAILED" if is_outside_trouble(error) else "FAILED"


def _next_group(
    waiting: Iterable[_RunningTrial], sampler: Sampler
) -> list[tuple[_RunningTrial, StageDraw]]:
    """Return the trials to draw for next, and their draws.

    They are in the earliest stage of all and need one engine: that which works if any trial of that
    stage needs it, else one that is loaded.
    """
    draws = [(trial, trial.waits_for) for trial in waiting if trial.waits_for is not None]
    earliest = min(draw.stage for _, draw in draws)
    draws = [(trial, draw) for trial, draw in draws if draw.stage == earliest]
    names = [draw.request.model for _, draw in draws]
    ready = [*filter(sampler.is_awake, names), *filter(sampler.is_loaded, names), names[0]]
    first = ready[0]
    return [
        (trial, draw) for trial, draw in draws if sampler.shares_engine(first, draw.request.model)
    ]


@dataclass
class _RunningTrial:
    """A trial between two draws."""

    path: Path
    upto: int | None
    out: TextIO
    err: TextIO
    ended: Callable[[Path], None]
    spec: TrialSpec | None = None
    waits_for: StageDraw | None = None
    failed: bool = False
    unwritten: OSError | None = None
    earlier: Part = NOTHING_DRAWN
    _computed: list[list[int]] = field(default_factory=list)
    _evaluation: Evaluation | None = None
    _starts: int = 0
    _seconds: dict[str, float] = field(default_factory=lambda: {"load": 0.0, "generate": 0.0})

    @property
    def has_drawn(self) -> bool:
        """Whether samples were computed for an earlier stage."""
        return any(any(tokens) for tokens in self._computed)

    @property
    def models(self) -> dict[str, ModelConfig]:
        """The models that the trial may need."""
        return dict(self.spec.models) if self.spec is not None else {}

    def models_from_here(self) -> list[str]:
        """Return the names of the models of the current stage and of those due after it."""
        if self.spec is None or self.waits_for is None:
            return []
        choices = self.spec.allocation.choices[self.waits_for.stage : self.upto]
        return [choice.model for choice in choices]

    def stage_of(self, draw: StageDraw) -> TrialStage:
        """Return the stage of a draw, for reports of progress."""
        assert self.spec is not None
        choices = self.spec.allocation.choices
        stage, prompts = choices[draw.stage].stage, len(draw.request.prompts)
        return TrialStage(self.spec.trial, stage, draw.stage + 1, len(choices), prompts)

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
            self.fail(Fault(_kind(error), str(error), "input"))
            return
        self.earlier = read_part(self.directory)
        self._seconds.update(self.earlier.seconds)
        self._starts = self.earlier.engine_starts
        evaluation = evaluate(self.spec)
        self._evaluation = evaluation
        self._step(lambda: next(evaluation))

    def go_on(self, drawn: Drawn) -> None:
        """Go on with the samples that the trial waited for, to the next draw or the end."""
        self._seconds["load"] += drawn.load_seconds
        self._seconds["generate"] += drawn.generate_seconds
        self._starts += drawn.engine_starts
        results = self.earlier.charged(len(self._computed), drawn.results)
        self._computed.append([result.new_tokens for result in results])
        evaluation = self._evaluation
        assert evaluation is not None
        self._step(lambda: evaluation.send(results))

    def go_without(self, fault: Fault) -> None:
        """Go on without the samples that the trial waited for, or end it if it needs them."""
        evaluation = self._evaluation
        if evaluation is None or self.waits_for is None or not self.waits_for.optional:
            self.fail(fault)
            return
        self._computed.append([])
        self._step(lambda: evaluation.throw(EngineError(fault.message)))

    def fail(self, fault: Fault) -> None:
        """End the trial with a fault; ``unwritten`` gets why it cannot be written."""
        print(f"{self.directory.name}: {fault.kind}: {fault.message}", file=self.err, flush=True)
        self.waits_for, self.failed = None, True
        try:
            write_fault(self.directory, fault)
        except OSError as error:
            self.unwritten = error
            return
        self.ended(self.directory)

    def unexpected(self, error: BaseException) -> Fault:
        """Print an error of the task's own code, and return its fault."""
        traceback.print_exception(error, file=self.err)
        return _unexpected(error, self.spec)

    def _step(self, step: Callable[[], StageDraw]) -> None:
        """Compute up to the next draw, or store the result, or the part if no more is due."""
        try:
            try:
                self.waits_for = step()
                if self.waits_for.stage == self.upto:
                    self._hand_over(self.upto)
                return
            except StopIteration as end:
                evaluated: Evaluated = end.value
            self._store(evaluated)
        except EngineError as error:  # e.g. of an embedding model that the task uses
            self.fail(Fault(error.kind, str(error), "engine"))
        except AgentTTSError as error:
            self.fail(Fault(_kind(error), str(error), "input"))
        except WRONG as error:  # the task's own code may raise anything
            self.fail(self.unexpected(error))

    def _hand_over(self, stages: int) -> None:
        part = Part(stages, self._seconds, self._starts, self._computed)
        write_part(self.directory, part)
        self.waits_for = None
        print(f"{self.directory.name}: stages drawn: {stages}", file=self.out, flush=True)
        self.ended(self.directory)

    def _store(self, found: Evaluated) -> None:
        output = replace(found.output, seconds=self._seconds, engine_starts=self._starts)
        write_result(self.directory, output, found.examples, found.stored)
        self.waits_for = None
        print(f"{self.directory.name}: score {output.score:.4f}", file=self.out, flush=True)
        self.ended(self.directory)
