"""Terminal output of texts from elsewhere: models, servers, programs.

Rich removes only some of the characters that a terminal obeys, and keeps the escape character.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# C0, DEL and C1 without tab and line feed. None of them has a width.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def without_controls(text: str) -> str:
    """Return a text without control characters, except tab and line feed."""
    return text.translate(_CONTROLS)


class PlainConsole(Console):
    """A console whose only escape sequences are Rich's own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable, with control characters in no text."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=without_controls(segment.text))
