"""The description of the task that a language model gets.

The numbers come from the search space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TaskDescription:
    """The description of the task and its stages.

    ``main_metric`` is the score, ``STAGE.METRIC``, to be maximised.

    ``examples`` is the number of examples that a trial is scored on (None if unknown). It
    determines the noise of a score.
    """

    task: str = "a pipeline of LLM stages"
    description: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)
    main_metric: str = "score"
    examples: int | None = None
