"""One check of ``doctor``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agenttts.errors import AgentTTSError, MissingRequirement

COMMAND_SECONDS = 60.0
"""Seconds that a command may take to answer.

A command that hangs must not block the other checks.
"""


@dataclass(frozen=True)
class Check:
    """What was checked, whether it is as needed, what was seen, and how to fix it.

    Attributes:
        what: The name of the check.
        ok: Whether it is as needed; None for a mere note.
        detail: What was seen.
        fix: The command or step that helps if ``ok`` is false.
        where: This machine, or a job and its node.
    """

    what: str
    ok: bool | None
    detail: str
    fix: str | None = None
    where: str = "here"

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def check(what: str, probe: Callable[[], str]) -> Check:
    """Call ``probe`` and return a check.

    The check has passed with what ``probe`` returns, or failed with the error that it raises.
    """
    try:
        return Check(what, True, probe())
    except MissingRequirement as error:
        return Check(what, False, error.what, error.fix)
    except AgentTTSError as error:
        return Check(what, False, str(error))
    except OSError as error:  # a problem of the machine, e.g. a file system that does not answer
        where = f"{error.filename}: " if error.filename else ""
        return Check(what, False, f"{where}{error.strerror or error}")
