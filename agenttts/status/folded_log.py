"""A log without the lines that say nothing of a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agenttts.dispatch.node.trial_log import without_escapes
from agenttts.inference.beats import MARK

# Logger lines of vLLM and its libraries below warning, as "(EngineCore pid=7) INFO 11-20 10:11:12
# [file.py:1] text", progress bars of tqdm, and the lines by which an engine shows that it works.
_ENGINE = re.compile(
    rf"^(\([^)]*\) ?)*(INFO|DEBUG)\b[ :]|\d+%\|.*\||\d+% Completed \| \d+/|^{re.escape(MARK)}"
)
# Warnings of the same loggers, of torch ("W1128 10:03:33.747000 22 torch/x.py:53] text") and of
# Python ("/x/y.py:138: FutureWarning: text", with the line of the source below).
_WARNING = re.compile(
    r"^(\([^)]*\) ?)*WARNING\b[ :]|^\[?W\d{4} \d\d:\d\d:|^\S+\.py:\d+: \w*Warning: "
)
_NUMBERS = re.compile(r"\d+")
_OF_ENGINE = "engine"
_FEWEST_OF_ENGINE, _FEWEST_SIMILAR = 2, 10
"""Lines in a row that are folded; fewer are shown."""


def log_lines(text: str) -> list[str]:
    """Return the lines of a log as a terminal would end up showing them.

    Escape sequences are removed. If a line was overwritten again and again, such as a progress bar,
    only its last text is kept.
    """
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return [without_escapes(line).rstrip() for line in lines]


def folded(lines: Iterable[str], *, warnings: bool = False) -> Iterator[str]:
    """Yield the lines of a log, with rows of an engine's or of similar lines folded.

    Args:
        lines: The lines.
        warnings: Whether an engine's warnings are folded too, as for a trial that has completed.
    """
    row: list[str] = []
    kind = ""
    for line in lines:
        own = _kind(line)
        # An empty or indented line belongs to the warning before it.
        below = kind == _OF_ENGINE and (not line or line.startswith("  "))
        if warnings and (below or _WARNING.search(line)):
            own = _OF_ENGINE
        if own != kind:
            yield from _fold(row, kind)
            row, kind = [], own
        row.append(line)
    yield from _fold(row, kind)


def _kind(line: str) -> str:
    """Return what a line has in common with those that it is folded with."""
    return _OF_ENGINE if _ENGINE.search(line) else f"like {_NUMBERS.sub('0', line)}"


def _fold(row: list[str], kind: str) -> list[str]:
    if kind == _OF_ENGINE and len(row) >= _FEWEST_OF_ENGINE:
        return [f"[... {len(row)} lines of the engine; --all shows them]"]
    if len(row) < _FEWEST_SIMILAR:
        return row
    return [row[0], f"[... {len(row) - 2} similar lines; --all shows them]", row[-1]]
