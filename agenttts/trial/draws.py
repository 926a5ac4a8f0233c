"""What an evaluation asks its caller for."""

from __future__ import annotations

from dataclasses import dataclass

from agenttts.inference.sampler import DrawRequest


@dataclass(frozen=True)
class StageDraw:
    """Samples that a trial needs to go on, in the stage of number ``stage`` from 0."""

    stage: int
    request: DrawRequest
