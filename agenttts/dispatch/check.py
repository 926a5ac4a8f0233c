"""One thing that ``doctor`` looked at: what, whether it is as needed, what was seen, and how it
is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agenttts.errors import AgentTTSError, MissingRequirement

COMMAND_SECONDS = 60.0
"""Seconds that a command may take to answer; one that hangs must not hold the checks up."""


@dataclass(frozen=True)
class Check:
    """``ok`` is None for a mere note; ``fix`` is the command or step that helps where ``ok`` is
    false.

    ``where`` is what was looked at: this machine, or a job and its node.
    """

    what: str
    ok: bool | None
    detail: str
    fix: str | None = None
    where: str = "here"

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def check(what: str, probe: Callable[[], str]) -> Check:
    """Call ``probe``: what it returns is well, what it raises is not."""
    try:
        return Check(what, True, probe())
    except MissingRequirement as error:
        return Check(what, False, error.what, error.fix)
    except AgentTTSError as error:
        return Check(what, False, str(error))
