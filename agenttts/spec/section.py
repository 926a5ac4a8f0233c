"""The base class of every section of a spec or profile."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from agenttts.errors import KeyPath, valid_names


class Section(BaseModel):
    """Base of every section: unknown keys are errors, and values are not coerced.

    The description of a field, if it has one, says in errors which values are valid.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True
    )

    @classmethod
    def valid_keys(cls, unknown: str) -> str:
        """Return what is valid in place of an unknown key, for a message."""
        return valid_names(unknown, sorted(cls.model_fields))


class Options(Section):
    """Base of the options of a task, a searcher or an engine.

    Each declares its options as a subclass. A spec has them under a key ``options``.
    """


class PlacedError(ValueError):
    """A value that is not valid, with the path of its key in the spec for the message.

    It is for checks of a section whose message has to name another key than the section's own.
    """

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path
