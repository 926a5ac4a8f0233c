"""Read cells of tables that others wrote, for a replay or as knowledge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenttts.errors import UserError


def count_in(path: Path, number: int, column: str, row: Mapping[str, Any]) -> int:
    """Return the number of samples in a column of row ``number`` (from 1).

    Raises:
        UserError: It is not a whole number from 1.
    """
    value = number_in(row[column])
    if value is None or value < 1 or value != int(value):
        raise UserError(
            f"{path}: row {number}: column '{column}' is '{row[column]}'; "
            "valid: whole numbers from 1"
        )
    return int(value)


def score_in(path: Path, number: int, row: Mapping[str, Any]) -> float | None:
    """Return the score of row ``number`` (from 1); None for a failed trial.

    Raises:
        UserError: It is not a finite number.
    """
    if row.get("score") is None:
        return None
    value = number_in(row["score"])
    if value is None:
        raise UserError(
            f"{path}: row {number}: column 'score' is '{row['score']}'; "
            "valid: finite numbers, or empty for a failed trial"
        )
    return value


def number_in(value: object) -> float | None:
    """Return a cell as a finite number; None if it is not one."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
