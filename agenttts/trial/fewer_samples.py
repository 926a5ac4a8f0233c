"""What a trial's samples give with fewer of them.

The first j of k samples are those that a trial with j samples draws. In the last stage they
therefore give the results of all smaller counts. In an earlier stage they do so where the fused
outputs of all examples are those of the trial, because the later prompts are then the same.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from agenttts.tables.stored_results import StoredResult
from agenttts.tables.uncertainty import standard_error
from agenttts.tasks.base import Example, ExecutingStage, StageDefinition, Toolbox

log = logging.getLogger(__name__)

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
        self, stage: StageDefinition, samples: int, values: StageValues, toolbox: Toolbox | None
    ) -> None:
        """Add the next stage of the trial, which has this number of samples.

        A task may fail with numbers of samples that were not asked for. That is logged, and the
        trial goes on without results for them.
        """
        fewer: dict[int, _Columns | None] = {}
        for count in self._wanted.get(stage.name, ()):
            if count < samples:
                try:
                    fewer[count] = self._columns(stage, count, values, toolbox)
                except Exception as error:  # the task's own code may raise anything
                    log.warning(
                        "stage '%s': its first %d of %d samples give no result (%s: %s)",
                        stage.name, count, samples, type(error).__name__, error,
                    )  # fmt: skip
        known = {count: columns for count, columns in fewer.items() if columns is not None}
        if stage.name == self._last:
            self._scored = {samples: _metrics(stage, values.final, values.examples)} | known
        else:
            self._equal.append((samples, *known))
            self._leading |= _metrics(stage, values.final, values.examples)

    def results(self, main_metric: str) -> list[StoredResult]:
        """Return the results found, without the trial's own."""
        _, *fewer = itertools.product(*self._equal, self._scored)
        found = (
            _result(samples, self._leading | self._scored[samples[-1]], main_metric)
            for samples in fewer
        )
        return [result for result in found if result is not None]

    def _columns(
        self, stage: StageDefinition, count: int, values: StageValues, toolbox: Toolbox | None
    ) -> _Columns | None:
        """Return the stage's metrics with its first samples; None if they are not known.

        They are not if a model would have to fuse the samples, or later prompts would differ.
        """
        first = [candidates[:count] for candidates in values.candidates]
        if count > 1 and any(
            stage.fusion(candidates, example, before) is not None
            for candidates, example, before in zip(
                first, values.examples, values.outputs, strict=True
            )
        ):
            return None
        fused = [stage.fuse(c, example) for c, example in zip(first, values.examples, strict=True)]
        if stage.name != self._last:
            return {} if fused == list(values.fused) else None
        return _metrics(stage, _final(stage, fused, values, toolbox), values.examples)


def _final(
    stage: StageDefinition, fused: Sequence[Any], trial: StageValues, toolbox: Toolbox | None
) -> Sequence[Any]:
    """Return fused outputs as they are scored; those of the trial are not computed again."""
    if not isinstance(stage, ExecutingStage) or toolbox is None:
        return fused
    return [
        final if value == known else stage.postprocess_fused(value, example, toolbox)
        for value, known, final, example in zip(
            fused, trial.fused, trial.final, trial.examples, strict=True
        )
    ]


def _metrics(stage: StageDefinition, final: Sequence[Any], examples: Sequence[Example]) -> _Columns:
    rows = [stage.metrics(value, example) for value, example in zip(final, examples, strict=True)]
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
