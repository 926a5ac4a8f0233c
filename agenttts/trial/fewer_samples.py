"""What a trial's samples give with fewer of them.

The first j of k samples are those that a trial with j samples draws. In the last stage they
therefore give the results of all smaller counts. In an earlier stage they do so where the fused
outputs of all examples are equal to the trial's, because the later prompts are then the same.

Where a model fuses the samples, a count takes one more call for each example. In the last stage
this is done for a few counts, so that these calls are few beside the trial's samples.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from agenttts.inference.base import EngineError
from agenttts.inference.draws import DrawResult
from agenttts.tables.stored_results import StoredResult
from agenttts.tables.uncertainty import standard_error
from agenttts.tasks.base import Example, ExecutingStage, StageDefinition, Toolbox
from agenttts.tasks.user_code import WRONG, metrics_of
from agenttts.trial.draws import StageDraw

log = logging.getLogger(__name__)

_SAMPLES_A_CALL = 16
"""Samples of a stage for each fusing call that is made for a smaller count."""

_Columns = dict[str, list[float | None]]
"""Values of ``STAGE.METRIC``, one for each example."""


@dataclass(frozen=True)
class StageValues:
    """The values of one stage of a trial, each with one entry for each example.

    Attributes:
        examples: The examples.
        outputs: The outputs of the earlier stages.
        candidates: The parsed (and executed) samples.
        fused: The fused outputs.
        final: The same as they are scored and passed on.
    """

    examples: Sequence[Example]
    outputs: Sequence[Mapping[str, Any]]
    candidates: Sequence[Sequence[Any]]
    fused: Sequence[Any]
    final: Sequence[Any]


Fuse = Callable[[Sequence[Sequence[Any]]], Generator[StageDraw, Sequence[DrawResult], list[Any]]]


class FewerSamples:
    """Collects a trial's results with fewer samples, stage by stage.

    Args:
        wanted: The numbers of samples to find results for, by stage.
        last: Name of the last stage.
    """

    def __init__(self, wanted: Mapping[str, Sequence[int]], last: str) -> None:
        self._wanted = wanted
        self._last = last
        # Numbers of samples by stage, the trial's own first.
        self._equal: list[tuple[int, ...]] = []
        self._leading: _Columns = {}
        self._scored: dict[int, _Columns] = {}

    def add_stage(
        self,
        stage: StageDefinition,
        samples: int,
        values: StageValues,
        toolbox: Toolbox | None,
        fuse: Fuse,
    ) -> Generator[StageDraw, Sequence[DrawResult], None]:
        """Add the next stage of the trial.

        A task may fail with numbers of samples that were not asked for, and the engine may fail in
        a call for them. That is logged, and the trial goes on without results for them. After an
        engine's failure no more calls are made.

        Args:
            stage: The stage.
            samples: Its number of samples.
            values: Its values.
            toolbox: The toolbox of the trial.
            fuse: Fuses candidates, by the stage's model where it is the stage's way.
        """
        calls = samples // _SAMPLES_A_CALL if stage.name == self._last else 0
        fewer: dict[int, _Columns] = {}
        # The larger counts, which are more like the trial's, come first.
        for count in sorted(self._wanted.get(stage.name, ()), reverse=True):
            if count >= samples:
                continue
            try:
                by_model = count > 1 and _needs_model(stage, count, values)
                if by_model and calls == 0:
                    continue
                calls -= by_model
                fused = yield from _optional(fuse([c[:count] for c in values.candidates]))
                if stage.name == self._last:
                    final = _final(stage, fused, values, toolbox)
                    fewer[count] = _metrics(stage, final, values.examples)
                elif fused == list(values.fused):
                    fewer[count] = {}
            except WRONG as error:  # the task's own code may raise anything
                if isinstance(error, EngineError):
                    calls = 0
                log.warning(
                    "stage '%s': its first %d of %d samples give no result (%s: %s)",
                    stage.name, count, samples, type(error).__name__, error,
                )  # fmt: skip
        if stage.name == self._last:
            self._scored = {samples: _metrics(stage, values.final, values.examples)} | fewer
        else:
            self._equal.append((samples, *fewer))
            self._leading |= _metrics(stage, values.final, values.examples)

    def results(self, main_metric: str) -> list[StoredResult]:
        """Return the results found, without the trial's own."""
        _, *fewer = itertools.product(*self._equal, self._scored)
        found = (
            _result(samples, self._leading | self._scored[samples[-1]], main_metric)
            for samples in fewer
        )
        return [result for result in found if result is not None]


def _optional(
    fusing: Generator[StageDraw, Sequence[DrawResult], list[Any]],
) -> Generator[StageDraw, Sequence[DrawResult], list[Any]]:
    """Return what fuses the samples, with its draws marked as optional."""
    try:
        draw = next(fusing)
        while True:
            draw = fusing.send((yield replace(draw, optional=True)))
    except StopIteration as end:
        fused: list[Any] = end.value
        return fused


def _needs_model(stage: StageDefinition, count: int, values: StageValues) -> bool:
    """Return whether a model fuses the first samples of any example."""
    return any(
        stage.fusion(candidates[:count], example, before) is not None
        for candidates, example, before in zip(
            values.candidates, values.examples, values.outputs, strict=True
        )
    )


def _final(
    stage: StageDefinition, fused: Sequence[Any], trial: StageValues, toolbox: Toolbox | None
) -> Sequence[Any]:
    """Return fused outputs as they are scored, without repeating work of the trial."""
    if not isinstance(stage, ExecutingStage) or toolbox is None:
        return fused
    return [
        final if value == known else stage.postprocess_fused(value, example, toolbox)
        for value, known, final, example in zip(
            fused, trial.fused, trial.final, trial.examples, strict=True
        )
    ]


def _metrics(stage: StageDefinition, final: Sequence[Any], examples: Sequence[Example]) -> _Columns:
    rows = [metrics_of(stage, value, e) for value, e in zip(final, examples, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {f"{stage.name}.{name}": [row.get(name) for row in rows] for name in names}


def _result(samples: tuple[int, ...], columns: _Columns, main_metric: str) -> StoredResult | None:
    known = {name: [v for v in column if v is not None] for name, column in columns.items()}
    if not known.get(main_metric):
        return None
    return StoredResult(
        samples=samples,
        score=fmean(known[main_metric]),
        score_stderr=standard_error(known[main_metric]),
        metrics={name: fmean(values) for name, values in known.items() if values},
        examples=tuple(columns[main_metric]),
    )
