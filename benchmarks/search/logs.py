"""The logs of finished searches: one JSON document a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def finished(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a log, if there is one; a line cut off by a stop is left out."""
    for line in log.read_text().splitlines() if log.is_file() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
