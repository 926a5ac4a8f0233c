"""Where the controllers of a run have written their logs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from agenttts.run.directory import RunDirectory


def controller_logs(run: RunDirectory) -> list[Path]:
    """Return the logs of the controller's starts, the latest last."""
    found: list[tuple[float, Path]] = []
    for log in (run.scheduler_logs / "controller").glob("*.err"):
        with suppress(OSError):  # it has been removed
            found.append((log.stat().st_mtime, log))
    return [log for _, log in sorted(found)]
