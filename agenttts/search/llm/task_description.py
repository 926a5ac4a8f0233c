"""What a language model is told about the task. The numbers come from the search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TaskDescription:
    """The task and its stages described.

    ``main_metric`` is the score, ``STAGE.METRIC``, to be maximised.

    ``examples``: how many a trial is scored on (None: not known), from which follows how noisy a
    score is.
    """

    task: str = "a pipeline of LLM stages"
    description: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)
    main_metric: str = "score"
    examples: int | None = None
