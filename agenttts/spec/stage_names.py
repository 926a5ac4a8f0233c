"""Names that a stage must not have: keys that stand beside names of stages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from agenttts.spec.section import PlacedError

BASELINE_KEY = "baseline"
"""The key that marks the baseline, beside the choices in ``search.first``."""

REPLY_KEYS = ("analysis", "guidelines", "reason", "predicted_score")
"""Keys of a language model's reply beside the names of stages (`agenttts.search.llm.prompts`)."""


def check_stage_names(names: Iterable[str]) -> None:
    """Check that no stage has a name with another meaning in the spec.

    Raises:
        PlacedError: One has.
    """
    if BASELINE_KEY in names:
        raise PlacedError(
            ("stages", BASELINE_KEY),
            f"a stage cannot be called '{BASELINE_KEY}', because 'baseline: true' in search.first "
            "marks your own allocation; rename the stage in the task and here",
        )


def check_names_in_replies(names: Iterable[str]) -> None:
    """Check that replies tell stages from each other and from other keys.

    A language model's replies are read without regard to case and separators.

    Raises:
        PlacedError: Two stages, or a stage and a key of `REPLY_KEYS`, have the same name then.
    """
    reserved = {folded(key) for key in REPLY_KEYS}
    known: dict[str, str] = {}
    for name in names:
        same = known.setdefault(folded(name), name)
        if same != name:
            raise PlacedError(
                ("stages", name),
                f"stages cannot be called '{same}' and '{name}' while the search asks a language "
                "model, whose replies are read without regard to case and separators (space, _, - "
                "and .); rename one of them in the task and here, or set 'agent: none'",
            )
        if folded(name) in reserved:
            raise PlacedError(
                ("stages", name),
                f"a stage cannot be called '{name}' while the search asks a language model, whose "
                f"replies have the keys {', '.join(REPLY_KEYS)}; rename the stage in the task and "
                "here, or set 'agent: none'",
            )


def folded(key: Any) -> str:
    """Return a key of a reply without case and separators."""
    return re.sub(r"[\s_.-]+", "", str(key)[:200]).lower()
