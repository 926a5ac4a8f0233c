"""Which engine's process is started ahead of its use, and when.

A spare process only imports the libraries of an engine (`agenttts.inference.engine_child`). It is
started only if an engine is certain to be needed, or if the trials' next stages need one. This
module imports nothing that takes long, because `first_engine` is asked before all else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agenttts.inference.engine_child import LIBRARIES
from agenttts.inference.shard_names import shard_names

if TYPE_CHECKING:
    from agenttts.inference.sampler import Sampler
    from agenttts.trial.command import DueTrial
    from agenttts.trial.draws import StageDraw


def first_engine(trials: Sequence[DueTrial]) -> str | None:
    """Return the engine that the trials need first; None if they may need none.

    As long as the sample store is empty, the first stage of the first trial needs one. Otherwise
    all samples may be stored, which takes as long to find out as to come to the engine's start.

    Args:
        trials: The trials, whose spec files are read.
    """
    try:
        document = json.loads(trials[0].spec.read_bytes())
        if shard_names(Path(document["samples"])):
            return None
        engine = document["models"][document["allocation"][0]["model"]]["engine"]
        return engine if engine in LIBRARIES else None
    except (OSError, ValueError, LookupError, TypeError):  # the trial itself says what is wrong
        return None


class WaitingTrial(Protocol):
    """A trial that waits for a draw."""

    waits_for: StageDraw | None

    @property
    def has_drawn(self) -> bool:
        """Whether samples were computed for an earlier stage."""

    def models_from_here(self) -> list[str]:
        """Return the names of the models of the current stage and of those due after it."""


def next_start(
    trials: Iterable[WaitingTrial], group: Sequence[WaitingTrial], sampler: Sampler
) -> str | None:
    """Return the model whose engine is started after that of a group.

    None: no start is expected. A trial for which nothing is computed in its current stage or before
    is expected to find the samples of its further stages in the store, too.

    Args:
        trials: The trials that wait, those of the group included.
        group: The trials that are drawn for now, with one engine.
        sampler: Draws their samples.
    """
    [current, *_] = [t.waits_for.request.model for t in group if t.waits_for is not None]
    members = set(map(id, group))
    starts = [
        (draw.stage + further, model, trial, draw)
        for trial in trials
        if (draw := trial.waits_for) is not None
        for further, model in enumerate(trial.models_from_here())
        if (further or id(trial) not in members)
        and sampler.imports_libraries(model)
        and not sampler.is_loaded(model)
        and not sampler.shares_engine(current, model)
    ]
    computes: dict[int, bool] = {}
    for stage, model, trial, draw in sorted(starts, key=lambda start: start[0]):
        if trial.has_drawn and stage > draw.stage:
            return model
        if id(trial) not in computes:
            computes[id(trial)] = sampler.lacks_samples(draw.request)
        if computes[id(trial)]:
            return model
    return None
