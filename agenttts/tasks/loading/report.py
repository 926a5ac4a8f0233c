"""What was read of a task's data: sources, numbers of records, and bad records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from agenttts.errors import UserError
from agenttts.tasks.loading.record import Record, RecordSet

REASONS_KEPT = 3
"""The most reasons that a report keeps of a source.

They are those of its first bad records.
"""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class SourceReport:
    """What was read of one file or hub split.

    Attributes:
        source: Name of the source.
        records: Number of records, including bad ones.
        key: Key of the document that holds the records.
        skipped: Number of bad records.
        reasons: Why the first of the bad records are bad.
        notes: Further remarks.
    """

    source: str
    records: int
    key: str = ""
    skipped: int = 0
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form of plans."""
        return {**asdict(self), "reasons": list(self.reasons), "notes": list(self.notes)}


@dataclass
class LoadReport:
    """The limit of skipped bad records, and what was read of each source.

    ``skip_bad`` is the most bad records of a source that may be skipped. A source that is read
    again, e.g. for another split, is reported once.
    """

    skip_bad: int = 0
    sources: dict[str, SourceReport] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """Return one document for each source, in the order of reading."""
        return [source.to_json() for source in self.sources.values()]


def convert(
    data: RecordSet,
    make: Callable[[Record, int], Sequence[_Item]],
    report: LoadReport,
    *,
    ident: Callable[[_Item], str] | None = None,
    notes: Callable[[], Sequence[str]] = tuple,
) -> list[_Item]:
    """Convert records; at most the report's ``skip_bad`` bad ones are skipped.

    Args:
        data: The records.
        make: Makes items of a record and its position in the data; raises `UserError` for a bad
            record.
        report: Says how many bad records may be skipped, and records what was read.
        ident: Returns the id of an item. A record is then also bad if its item has the id of an
            earlier one, because ids name examples in the result tables.
        notes: Returns remarks for the report; called last.

    Raises:
        UserError: There are more bad records than ``skip_bad``, or no record is left.
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
            f"{reasons[0]} (bad records: {skipped} of {total}; skip_bad, now "
            f"{report.skip_bad}, is how many may be "
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
        raise record.same_id_error(found, first_with[found])
