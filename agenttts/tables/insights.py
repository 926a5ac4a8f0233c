"""What a model of a run's scores says of its stages, as plain data for reports.

`agenttts.loop.outlook` makes it from the run's own trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """An expected score, or a difference of two, and its standard deviation."""

    mean: float
    sd: float


@dataclass(frozen=True)
class CurvePoint:
    """The expected score with this number of samples.

    ``within`` is whether the budget allows it beside the recommended choices of the other stages.
    """

    samples: int
    expected: Expected
    within: bool


@dataclass(frozen=True)
class CurveTrial:
    """A trial beside a curve, or the result of fewer of a trial's samples.

    Attributes:
        samples: Its samples in the stage.
        adjusted: Its score, less the expected difference that its choices in the other stages make.
        score: Its score.
        allocation: Its allocation, in short form.
        same: Whether its other stages are as on the curve, so that nothing was adjusted.
        stored: Whether the samples of another trial gave the score.
    """

    samples: int
    adjusted: float
    score: float
    allocation: str
    same: bool
    stored: bool


@dataclass(frozen=True)
class ModelCurve:
    """The expected score over the samples of one model in one stage.

    The other stages have the recommended choices.

    Attributes:
        stage: The stage.
        model: The model.
        points: The curve.
        trials: The trials with this model in the stage; of many, a part.
        tried: How many allocations with this model in the stage were evaluated by trials.
        enough: The fewest samples that reach nearly all of the gain of more samples.
        chosen: The recommended number of samples; None if another model is recommended.
    """

    stage: str
    model: str
    points: Sequence[CurvePoint]
    trials: Sequence[CurveTrial]
    tried: int
    enough: int
    chosen: int | None


@dataclass(frozen=True)
class PairCell:
    """The expected score with these samples in two stages.

    ``within`` is as in `CurvePoint`.
    """

    x: int
    y: int
    mean: float
    within: bool


@dataclass(frozen=True)
class StagePair:
    """The expected score over the samples of two stages.

    Both have their recommended models.

    Attributes:
        x_stage: The earlier stage.
        x_model: Its model.
        y_stage: The later stage.
        y_model: Its model.
        cells: The expected scores.
        tried: Samples of the two stages in trials with these models, without stored ones.
        chosen: The recommended samples of the two stages.
    """

    x_stage: str
    x_model: str
    y_stage: str
    y_model: str
    cells: Sequence[PairCell]
    tried: Sequence[tuple[int, int]]
    chosen: tuple[int, int]


@dataclass(frozen=True)
class Rival:
    """The best other allocation that was tried.

    ``ahead`` is how much higher the recommended allocation's expected score is.
    """

    allocation: str
    ahead: Expected


@dataclass(frozen=True)
class Outlook:
    """What the model of the scores expects around the recommended allocation.

    Attributes:
        expected: The recommended allocation's expected score.
        rival: The best other allocation; None if none was tried.
        noise: Standard deviation of one score around the expected one.
        curves: The curves of every stage and model.
        pairs: The pairs of stages.
    """

    expected: Expected
    rival: Rival | None
    noise: float
    curves: Sequence[ModelCurve]
    pairs: Sequence[StagePair]
