"""A record of a data set, with its place for error messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

from agenttts.errors import UserError, nearest_name, shortened
from agenttts.tasks.loading.values import json_from_text

_FIELDS_LISTED = 12
"""The most fields that an error lists."""


@dataclass(frozen=True)
class Record:
    """One record of a data set.

    ``place`` returns where the record is; it is called only if something is wrong. ``damage`` is
    the error of a record that could not be read (a line that is not JSON, a row with too few
    fields). The ``values`` of such a record are empty. ``unreadable`` names fields that are not
    among the values because theirs has no JSON form, each with the reason.
    """

    values: Mapping[str, Any]
    place: Callable[[], str]
    damage: UserError | None = None
    unreadable: Mapping[str, str] = dataclass_field(default_factory=dict)

    def error(self, field: str, problem: str) -> UserError:
        """Return an error about a field: place, field, what it should be and what it is."""
        if field in self.unreadable:
            return UserError(
                f"{self.place()}: field '{field}' has a value that is not text, number, list or "
                f"object ({self.unreadable[field]}), and {problem}"
            )
        if field not in self.values:
            near = nearest_name(field, self.values)
            hint = f"; is '{near}' meant to be it?" if near else f"; it has: {self._fields()}"
            return UserError(f"{self.place()}: field '{field}' is missing, and {problem}{hint}")
        return UserError(
            f"{self.place()}: field '{field}' {problem}, not {shown(self.values[field])}"
        )

    def same_id_error(self, ident: str, other: Record) -> UserError:
        """Return an error about an id that ``other``, an earlier record, has too."""
        return UserError(
            f"{self.place()}: id '{ident}' is also the id of {other.place()}; an id names one "
            "example: remove one of the two records or, if all records of a group have its id, "
            "rename the field (without ids, records are numbered)"
        )

    def is_given(self, field: str) -> bool:
        """Return whether the record has a field that is not null, also an unreadable one."""
        return field in self.unreadable or self.values.get(field) is not None

    def value(self, field: str, valid: str) -> Any:
        """Return the value of a field; None if the record lacks it.

        Args:
            field: Name of the field.
            valid: What it should be, for the error.

        Raises:
            UserError: The value has no JSON form.
        """
        if field in self.unreadable:
            raise self.error(field, valid)
        return self.values.get(field)

    def text(self, field: str) -> str:
        """Return a field that must be a string and not blank.

        Raises:
            UserError: The field is anything else.
        """
        value = self.values.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, "must be a text that is not empty")
        return value

    def texts(self, field: str, *, blank: bool = False, none: bool = False) -> list[str]:
        """Return a field that must be a list of strings.

        Args:
            field: Name of the field.
            blank: Whether strings may be blank.
            none: Whether the list may be empty.

        Raises:
            UserError: The field is anything else.
        """
        value = self.structure(field)
        valid = (lambda item: isinstance(item, str)) if blank else _is_text
        if (
            not isinstance(value, list)
            or not (value or none)
            or not all(valid(item) for item in value)
        ):
            raise self.error(field, f"must be a list of {'' if none else 'one or more '}texts")
        return value

    def structure(self, field: str) -> Any:
        """Return the value of a field that should be a list or an object.

        Tables may hold such a value as its JSON text.
        """
        value = self.values.get(field)
        return json_from_text(value) if isinstance(value, str) else value

    def first_given(self, fields: Sequence[str]) -> str:
        """Return the first of ``fields`` that is neither null nor blank.

        It may be unreadable. If there is none, it is the first that the record has, else the first.
        """
        given = (
            name
            for name in fields
            if name in self.unreadable or not _is_blank(self.values.get(name))
        )
        there = (name for name in fields if name in self.values)
        return next(given, next(there, fields[0]))

    def _fields(self) -> str:
        names = [str(name) for name in self.values]
        more = ", ..." if len(names) > _FIELDS_LISTED else ""
        return f"{', '.join(names[:_FIELDS_LISTED])}{more}" if names else "nothing"


@dataclass(frozen=True)
class RecordSet:
    """The records of one file or hub split.

    ``source`` is its name for messages. ``key`` is the document's key that holds the list of
    records; it is empty if no key does.
    """

    source: str
    records: Sequence[Record]
    key: str = ""


def shown(value: object) -> str:
    """Return a value as it is shown in an error, cut if it is long."""
    return shortened(json.dumps(value, ensure_ascii=False, default=str))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
