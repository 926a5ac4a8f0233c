"""Evaluate one allocation, stage by stage: sample, (execute,) fuse, score.

An evaluation does not draw samples itself. It is a generator that yields what it needs and is sent
the samples. So one process can advance many trials side by side and draw the union of what they
need (`agenttts.trial.run`).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from agenttts import tasks
from agenttts.errors import UserError, counted, valid_names
from agenttts.files.documents import parse_json, typed
from agenttts.inference.base import Prompt, SamplingParams
from agenttts.inference.draws import DrawRequest, DrawResult
from agenttts.inference.partition import ALONE, SamplePartition
from agenttts.space import Choice
from agenttts.tables.schema import ExampleRow, StageCuts, examples_frame
from agenttts.tables.stored_results import StoredResult
from agenttts.tables.uncertainty import standard_error
from agenttts.tasks.base import Example, ExecutingStage, StageDefinition, Toolbox
from agenttts.tasks.user_code import metrics_of, output_text, parsed
from agenttts.tasks.user_tasks import make_importable
from agenttts.trial.draws import StageDraw
from agenttts.trial.fewer_samples import FewerSamples, StageValues
from agenttts.trial.result import TrialOutput
from agenttts.trial.spec import TrialSpec
from agenttts.trial.toolbox import TrialToolbox, execute_samples, toolbox_settings


@dataclass
class _Usage:
    """What one stage took for one example: tokens and samples.

    ``cut`` of the samples ended at the limit of tokens.
    """

    prompt: int = 0
    decode: int = 0
    reused: int = 0
    truncated: bool = False
    samples: int = 0
    cut: int = 0

    def add(self, draw: DrawResult) -> None:
        self.prompt += draw.prompt_tokens
        self.decode += draw.decode_tokens
        self.reused += draw.reused_tokens
        self.truncated |= draw.truncated
        self.samples += len(draw.texts)
        self.cut += draw.cut


@dataclass(frozen=True)
class Evaluated:
    """What came of a trial.

    Attributes:
        output: What it measured.
        examples: Its table of examples (`agenttts.tables.schema.examples_frame`).
        stored: What its samples give with fewer of them.
    """

    output: TrialOutput
    examples: pl.DataFrame
    stored: Sequence[StoredResult] = ()


Evaluation = Generator[StageDraw, Sequence[DrawResult], Evaluated]
"""Yields `StageDraw`, is sent the results of its request, and returns the trial's outcome."""


def evaluate(spec: TrialSpec) -> Evaluation:
    """Evaluate a trial.

    The caller draws the samples, measures the seconds and stores the result.

    Raises:
        UserError: No stage gave the main metric, a metric is not a number or has a name of another
            stage, or a file cannot be used.
    """
    if spec.task_source is not None:
        make_importable(spec.task, spec.task_source)
    task = tasks.create(spec.task)
    examples = examples_of(spec)
    settings = toolbox_settings(task, spec.options)
    toolbox = TrialToolbox(settings, on_host=spec.code_on_host) if settings else None
    outputs: list[dict[str, Any]] = [{} for _ in examples]
    rows: list[ExampleRow] = []
    cuts: list[StageCuts] = []
    fewer = FewerSamples(spec.fewer_samples, spec.allocation.choices[-1].stage)
    for number, choice in enumerate(spec.allocation.choices):
        stage = _Stage(number, task.stage(choice.stage), choice, spec, fewer)
        stage_rows, stage_cuts = yield from _run_stage(stage, examples, outputs, toolbox)
        _check_names(stage, stage_rows)
        rows += stage_rows
        cuts.append(stage_cuts)
    values = _values(rows)
    metrics = {name: fmean(column) for name, column in values.items()}
    if task.main_metric not in metrics:
        raise UserError(
            f"task '{task.name}': no stage gave its main_metric '{task.main_metric}'; "
            f"{valid_names(task.main_metric, metrics)}"
        )
    output = TrialOutput(
        score=metrics[task.main_metric],
        metrics=metrics,
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        decode_tokens=sum(row.decode_tokens for row in rows),
        reused_tokens=sum(row.reused_tokens for row in rows),
        truncated=sum(row.truncated for row in rows),
        examples=len(examples),
        seconds={},
        score_stderr=standard_error(values[task.main_metric]),
        metrics_stderr={name: standard_error(column) for name, column in values.items()},
        cut_samples=tuple(cuts),
    )
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return Evaluated(output, examples_frame(rows, names), fewer.results(task.main_metric))


def examples_of(spec: TrialSpec) -> list[Example]:
    """Return the examples that a trial is scored on.

    Raises:
        UserError: The file is damaged or lacks one of them.
    """
    every = read_examples(Path(spec.examples))
    numbers = range(len(every)) if spec.example_numbers is None else spec.example_numbers
    if lacking := [number for number in numbers if not 0 <= number < len(every)]:
        raise UserError(
            f"{spec.examples}: has {counted(len(every), 'example')}, but not number {lacking[0]}"
        )
    return [every[number] for number in numbers]


def read_examples(path: Path) -> list[Example]:
    """Return the run's frozen examples."""
    # Split at line feeds only: str.splitlines would also split at U+2028 and similar characters in
    # texts.
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    if not lines:
        raise UserError(f"{path}: no examples")
    examples = []
    for number, line in enumerate(lines, start=1):
        try:
            examples.append(typed(Example, parse_json(line)))
        except ValueError as error:
            raise UserError(f"{path}:{number}: not a valid example ({error})") from None
    return examples


@dataclass(frozen=True)
class _Stage:
    """Stage ``number`` of a trial, with its choice."""

    number: int
    definition: StageDefinition
    choice: Choice
    spec: TrialSpec
    fewer: FewerSamples

    @property
    def name(self) -> str:
        return self.definition.name

    def draw(
        self, prompts: Sequence[Prompt], temperature: float, k: int, partition: SamplePartition
    ) -> StageDraw:
        """Return the draw of ``k`` samples of each prompt from the chosen model."""
        params = SamplingParams(temperature, max_tokens=self.spec.decode_tokens[self.name])
        return StageDraw(
            self.number,
            DrawRequest(self.choice.model, prompts, params, k, partition, self.spec.trial),
        )


_Rows = Generator[StageDraw, Sequence[DrawResult], tuple[list[ExampleRow], StageCuts]]


def _run_stage(
    at: _Stage,
    examples: Sequence[Example],
    outputs: list[dict[str, Any]],
    toolbox: Toolbox | None,
) -> _Rows:
    """Run one stage over all examples, and add its fused outputs to ``outputs``.

    Returns:
        The stage's rows, and how many samples were cut.
    """
    stage, choice = at.definition, at.choice
    prompts = [stage.prompt(e, o) for e, o in zip(examples, outputs, strict=True)]
    partition = at.spec.shares.get(stage.name, ALONE)
    draws = yield at.draw(prompts, stage.temperature, choice.samples, partition)
    usages = [_Usage() for _ in examples]
    for usage, draw in zip(usages, draws, strict=True):
        usage.add(draw)
    candidates = [
        [parsed(stage, text, example) for text in draw.texts]
        for draw, example in zip(draws, examples, strict=True)
    ]
    candidates = _executed(stage, toolbox, candidates, examples, outputs)
    fuse = partial(_fuse, at, examples, outputs, toolbox)
    fused = yield from fuse(candidates, usages)
    values = fused
    if isinstance(stage, ExecutingStage) and toolbox is not None:
        values = [
            stage.postprocess_fused(f, e, toolbox) for f, e in zip(fused, examples, strict=True)
        ]
    texts = [output_text(stage, v, e) for v, e in zip(values, examples, strict=True)]
    yield from at.fewer.add_stage(
        stage,
        choice.samples,
        StageValues(examples, outputs, candidates, fused, values),
        toolbox,
        lambda candidates: fuse(candidates, [_Usage() for _ in examples]),
    )
    rows = []
    for position, example in enumerate(examples):
        value, usage = values[position], usages[position]
        outputs[position][stage.name] = value
        rows.append(
            ExampleRow(
                trial=at.spec.trial,
                example=example.id,
                stage=stage.name,
                model=choice.model,
                samples=choice.samples,
                output=texts[position],
                candidates=list(draws[position].texts),
                metrics=metrics_of(stage, value, example),
                prompt_tokens=usage.prompt,
                decode_tokens=usage.decode,
                reused_tokens=usage.reused,
                truncated=usage.truncated,
                cut=usage.cut,
            )
        )
    return rows, StageCuts(
        stage=stage.name,
        samples=sum(usage.samples for usage in usages),
        cut=sum(usage.cut for usage in usages),
    )


def _check_names(at: _Stage, rows: Sequence[ExampleRow]) -> None:
    """Check that no metric of a stage is called like one of another stage.

    Raises:
        UserError: One is: the metric "check.f1" of "plan" is "f1" of the stage "plan.check".
    """
    longer = [c.stage for c in at.spec.allocation.choices if c.stage.startswith(f"{at.name}.")]
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        other = next((o for o in longer if f"{at.name}.{name}".startswith(f"{o}.")), None)
        if other is not None:
            raise UserError(
                f"metric '{name}' of stage '{at.name}' is called '{at.name}.{name}' in tables, as "
                f"a metric of stage '{other}'; rename the metric, e.g. to "
                f"'{name.replace('.', '_')}', or the stage"
            )


def _executed(
    stage: StageDefinition,
    toolbox: Toolbox | None,
    candidates: list[list[Any]],
    examples: Sequence[Example],
    outputs: Sequence[Mapping[str, Any]],
) -> list[list[Any]]:
    """Return the parsed samples, completed if the stage is an `ExecutingStage`."""
    if not isinstance(stage, ExecutingStage) or toolbox is None:
        return candidates
    return execute_samples(stage, toolbox, candidates, examples, outputs)


def _fuse(
    at: _Stage,
    examples: Sequence[Example],
    outputs: Sequence[Mapping[str, Any]],
    toolbox: Toolbox | None,
    candidates: Sequence[Sequence[Any]],
    usages: Sequence[_Usage],
) -> Generator[StageDraw, Sequence[DrawResult], list[Any]]:
    """Return the fused outputs; what a model's calls took is added to ``usages``."""
    # Each call gets a list of its own: a task may sort it.
    fused = [at.definition.fuse([*c], e) for c, e in zip(candidates, examples, strict=True)]
    if len(candidates[0]) > 1:
        yield from _fuse_by_model(at, examples, outputs, candidates, fused, usages, toolbox)
    return fused


def _fuse_by_model(
    at: _Stage,
    examples: Sequence[Example],
    outputs: Sequence[Mapping[str, Any]],
    candidates: Sequence[Sequence[Any]],
    fused: list[Any],
    usages: Sequence[_Usage],
    toolbox: Toolbox | None,
) -> Generator[StageDraw, Sequence[DrawResult], None]:
    """Replace ``fused`` where the stage's own model fuses the candidates.

    Each fusion takes one more sample. A reply that cannot be read replaces nothing: the output that
    was fused without a model stays.
    """
    stage = at.definition
    calls = {
        position: fusion
        for position, example in enumerate(examples)
        if (fusion := stage.fusion([*candidates[position]], example, outputs[position])) is not None
    }
    # One draw per temperature (in practice one), so that the engine gets all its prompts at once.
    for temperature in sorted({fusion.temperature for fusion in calls.values()}):
        positions = [p for p, fusion in calls.items() if fusion.temperature == temperature]
        draws = yield at.draw([calls[p].prompt for p in positions], temperature, 1, ALONE)
        values = [
            [parsed(stage, draw.texts[0], examples[position])]
            for position, draw in zip(positions, draws, strict=True)
        ]
        there, before = [examples[p] for p in positions], [outputs[p] for p in positions]
        values = _executed(stage, toolbox, values, there, before)
        for position, draw, [value] in zip(positions, draws, values, strict=True):
            usages[position].add(draw)
            if stage.parse(draw.texts[0], examples[position]) != stage.parse(
                "", examples[position]
            ):
                fused[position] = value


def _values(rows: Sequence[ExampleRow]) -> dict[str, list[float]]:
    """Return the values of every ``STAGE.METRIC``, one per example that has it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.metrics.items():
            if value is not None:
                values.setdefault(f"{row.stage}.{name}", []).append(value)
    return values
