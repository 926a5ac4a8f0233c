"""The keys ``thinking`` and ``template_args``.

Models under ``models:`` have them, and so has the search's language model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, field_validator, model_validator

from agenttts.spec.section import Section

# The engines set these when they apply a chat template.
_SET_BY_ENGINES = (
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "messages",
    "padding",
    "return_dict",
    "return_tensors",
    "tokenize",
    "truncation",
)


class ThinkingMarkers(Section):
    """The texts that enclose a model's thinking."""

    start: str
    """What opens the thinking."""
    end: str
    """What ends it."""

    @field_validator("start", "end")
    @classmethod
    def _check_marker(cls, value: str) -> str:
        if not value or value != value.strip() or len(value.splitlines()) != 1:
            raise ValueError(
                f"{value!r} is not a valid marker; valid: a text of one line that neither "
                "begins nor ends with white "
                'space, such as "<think>"'
            )
        return value

    @model_validator(mode="after")
    def _check_pair(self) -> ThinkingMarkers:
        if self.start == self.end:
            raise ValueError(
                f"start and end are both {self.start!r}: a block would have no end; give two "
                "different markers"
            )
        return self


def _alternative(value: Any) -> str:
    """Return the alternative that a value is meant for.

    Errors then concern that alternative alone.
    """
    return "word" if isinstance(value, str) else "ThinkingMarkers"


ThinkingSetting = Annotated[
    Annotated[Literal["auto", "none"], Tag("word")]
    | Annotated[ThinkingMarkers, Tag("ThinkingMarkers")],
    Discriminator(_alternative),
]


def check_thinking(value: Any) -> Any:
    """Check a value before the alternatives, so that a wrong one gives one message."""
    if value in ("auto", "none") or isinstance(value, Mapping | ThinkingMarkers):
        return value
    raise ValueError(
        f'{value!r} is not a valid setting; valid: auto, none, or {{start: "<think>", end: '
        '"</think>"}'
    )


def check_template_args(value: dict[str, Any]) -> dict[str, Any]:
    """Check arguments of a chat template: JSON values, and none that the engines set."""
    for name in value:
        if name in _SET_BY_ENGINES:
            raise ValueError(f"'{name}' is set by the program; leave it out")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            "template arguments must be JSON values: texts, numbers, true, false, null, lists, "
            "mappings"
        ) from None
    return value
