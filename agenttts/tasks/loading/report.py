"""What was read of a task's data: from where, how many records, which bad ones were skipped and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from agenttts.errors import UserError
from agenttts.tasks.loading.record import Record, RecordSet

REASONS_KEPT = 3
"""Reasons that a report keeps of a source: those of its first bad records."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class SourceReport:
    """What was read of one file or hub split.

    ``key`` is the key of the document under which the records are, ``records`` their number with the bad ones,
    ``skipped`` the number of bad ones, ``reasons`` why the first of them are bad.
    """

    source: str
    records: int
    key: str = ""
    skipped: int = 0
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plans have it."""
        return {**asdict(self), "reasons": list(self.reasons), "notes": list(self.notes)}


@dataclass
class LoadReport:
    """How many bad records of a source may be skipped, and what was read of each source.

    A source that is read again (for another split of it, say) is reported once.
    """

    skip_bad: int = 0
    sources: dict[str, SourceReport] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """One document a source, in the order of reading."""
        return [source.to_json() for source in self.sources.values()]


def convert(
    data: RecordSet,
    make: Callable[[Record, int], Sequence[_Item]],
    report: LoadReport,
    *,
    ident: Callable[[_Item], str] | None = None,
    notes: Callable[[], Sequence[str]] = tuple,
) -> list[_Item]:
    """What ``make`` makes of each record of ``data``, bad ones left out as far as the report's ``skip_bad`` goes.

    ``make`` takes a record and its position in the data, and raises `UserError` for a bad one. With ``ident``, a record
    whose item has the id of an earlier one is bad too: ids name examples in the result tables. ``notes`` is asked last.

    Raises `UserError` for more bad records than ``skip_bad``, and when no record is left.
    """
    if not data.records:
        raise UserError(f"{data.source} holds no records")
    items: list[_Item] = []
    first_with: dict[str, Record] = {}
    skipped, reasons = 0, []
    for number, record in enumerate(data.records):
        try:
            if record.damage is not None:
                raise record.damage
            made = make(record, number)
            for item in made if ident else ():
                _check_id(ident(item), record, first_with)  # type: ignore[misc]
        except UserError as error:
            skipped += 1
            if skipped <= REASONS_KEPT:
                reasons.append(str(error))
            continue
        items.extend(made)
        for item in made if ident else ():
            first_with[ident(item)] = record  # type: ignore[misc]
    total = len(data.records)
    if skipped > report.skip_bad:
        raise UserError(
            f"{reasons[0]} (bad records: {skipped} of {total}; task.skip_bad, now {report.skip_bad}, is how many may be "
            "skipped)"
        )
    if not items:
        raise UserError(f"{reasons[0]} (bad records: all {total}; none is left)")
    report.sources[data.source] = SourceReport(
        data.source, total, data.key, skipped, tuple(reasons), tuple(notes())
    )
    return items


def _check_id(found: str, record: Record, first_with: dict[str, Record]) -> None:
    if found in first_with:
        other = first_with[found].place()
        raise UserError(f"{record.place()}: id '{found}' is also that of {other}")
