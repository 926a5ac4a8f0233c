"""The part of a trial that is drawn: ``part.json`` in the trial's directory.

A trial may be evaluated by several jobs. One draws its leading stages, with models that need few
GPUs, and another one reads these samples from the sample store and goes on. The file says how many
stages are drawn, and what that took. It is written after the samples are stored.

The samples alone decide what the trial measures, so nothing else is handed over. If some of them
are lost, they are drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json, typed
from agenttts.files.trouble import passing_trouble

if TYPE_CHECKING:
    from agenttts.inference.draws import DrawResult

PART_FILE = "part.json"


@dataclass(frozen=True)
class Part:
    """The leading stages of a trial that are drawn.

    Attributes:
        stages: Their number.
        seconds: Wall seconds by phase that they took, as in `agenttts.trial.result.TrialOutput`.
        engine_starts: Number of engines that were started for them.
        computed: Tokens that were computed for them: for each draw in order, by prompt.
    """

    stages: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    engine_starts: int = 0
    computed: Sequence[Sequence[int]] = ()

    def charged(self, draw: int, results: Sequence[DrawResult]) -> list[DrawResult]:
        """Return a draw's results; tokens that the part computed do not count as reused.

        Args:
            draw: The number of the draw within the trial, from 0.
            results: What was drawn.
        """
        if draw >= len(self.computed) or len(self.computed[draw]) != len(results):
            return list(results)
        return [
            replace(result, reused_tokens=max(0, result.reused_tokens - tokens))
            for result, tokens in zip(results, self.computed[draw], strict=True)
        ]


NOTHING_DRAWN = Part()


def write_part(directory: Path, part: Part) -> None:
    """Record which stages of a trial are drawn."""
    atomic_write_json(directory / PART_FILE, asdict(part))


def read_part(directory: Path, *, patient: bool = False) -> Part:
    """Return which stages of a trial are drawn, without a newer version's fields.

    Args:
        directory: The trial's directory.
        patient: Raise `OSError` if the file system is in trouble that may pass.
    """
    try:
        return typed(Part, parse_json((directory / PART_FILE).read_bytes()))
    except (OSError, ValueError) as error:  # absent, or damaged: what is stored is found again
        if patient and isinstance(error, OSError) and passing_trouble(error):
            raise
        return NOTHING_DRAWN
