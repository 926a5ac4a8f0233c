"""A trial's row of the table in the form of the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agenttts.files.documents import typed
from agenttts.space import Allocation
from agenttts.tables.schema import TrialRow


def row_to_json(row: TrialRow) -> dict[str, Any]:
    """Return a row in the form of the journal."""
    return {
        **asdict(row),
        "state": row.state.value,
        "allocation": row.allocation.to_records(),
        "metrics": dict(row.metrics),
        "started": row.started.isoformat() if row.started else None,
        "finished": row.finished.isoformat() if row.finished else None,
    }


def row_from_json(record: Mapping[str, Any]) -> TrialRow:
    """Inverse of `row_to_json`; fields that only a newer version knows are left out.

    Raises:
        ValueError: The record is not a row.
        KeyError: As above.
        TypeError: As above.
    """
    allocation = Allocation.from_records(record["allocation"])
    # Journals of earlier versions do not have cut_samples.
    cuts = tuple(record.get("cut_samples") or ())
    row = typed(TrialRow, {**record, "allocation": allocation, "cut_samples": cuts})
    stages = {choice.stage for choice in allocation.choices}
    if stray := [part["stage"] for part in row.cut_samples if part["stage"] not in stages]:
        raise ValueError(
            f"cut_samples of the stage '{stray[0]}', which the allocation does not have"
        )
    return row
