"""What an evaluation asks its caller for."""

from __future__ import annotations

from dataclasses import dataclass

from agenttts.inference.draws import DrawRequest


@dataclass(frozen=True)
class StageDraw:
    """Samples that a trial needs to go on, in the stage of number ``stage`` from 0.

    ``optional``: the evaluation also goes on if an `EngineError` is thrown into it instead.
    """

    stage: int
    request: DrawRequest
    optional: bool = False
