"""Reading a run's directory (``results/NAME``), and killing its controller."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl

from agenttts.files.processes import command_line
from agenttts.loop.told_results import told_results
from agenttts.run.directory import RunDirectory
from agenttts.run.progress import TrialProgress
from agenttts.search.base import TrialResult
from tests.support.processes import pids
from tests.support.waiting import until

OUTCOME_COLUMNS = (
    "trial", "iteration", "source", "state", "score", "budget", "allocation", "metrics", "prompt_tokens", "decode_tokens",
)  # fmt: skip


def table(run: Path) -> pl.DataFrame:
    """The run's trials, in the order of their names."""
    return pl.read_parquet(run / "trials.parquet").sort("trial")


def outcome(run: Path) -> list[tuple[object, ...]]:
    """The part of the trials that does not depend on where, when or how often a run was
    interrupted.
    """
    return table(run).select(OUTCOME_COLUMNS).rows()


def journal_events(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of the run's journal; of one ``kind`` if given."""
    return _of_kind(run / "journal.jsonl", kind)


def transcript_events(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of the language model's transcript; of one ``kind`` if given."""
    return _of_kind(run / "agent.jsonl", kind)


def told_of(run: RunDirectory, progress: TrialProgress) -> list[TrialResult]:
    """What the searcher is told of a trial of a run."""
    directory = run.trial(progress.planned.trial)
    return told_results(progress, directory, run.record().main_metric, run.spec().space())


def attempts(run: Path, trial: str = "*") -> list[dict[str, Any]]:
    """The attempt records of a trial, or of all trials, in the order of trials and attempts."""
    records = sorted((run / "trials").glob(f"{trial}/attempts/*.json"))
    return [json.loads(record.read_text()) for record in records]


def controller_pids(run: Path) -> list[int]:
    """The processes of the run's controller on this machine."""
    folder = str(run / "slurm" / "controller").encode()
    return [pid for pid in pids() if folder in command_line(pid)]


def kill_controller(run: Path) -> list[int]:
    """Send SIGKILL to the processes of the run's controller, and return their numbers."""
    found = controller_pids(run)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def until_more_events(run: Path, events: int) -> None:
    """Wait until the run's journal has so many more lines than now."""
    journal = run / "journal.jsonl"

    def lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    goal = lines() + events
    until(lambda: lines() >= goal, f"{events} more events in {journal}", seconds=120, pause=0.02)


def _of_kind(file: Path, kind: str | None) -> list[dict[str, Any]]:
    """The events of a file of JSON lines.

    A run that is under way may be writing its last line: a line without its end is left out.
    """
    events = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    return [event for event in events if kind is None or event["event"] == kind]
