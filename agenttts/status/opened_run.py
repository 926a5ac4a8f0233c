"""A run for notebooks and scripts: its tables, its samples and its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttts.run.directory import RunDirectory
from agenttts.run.find import find_run

if TYPE_CHECKING:
    import polars as pl


def open_run(run: str | Path, results: str | Path = "results") -> OpenedRun:
    """Open a run, finished or not, to look at it.

    Example: ``agenttts.open_run("results/2wiki").trials()``.

    Args:
        run: A run's path, or its name in ``results``.
        results: The results directory.

    Raises:
        UserError: There is no such run; the message lists those that exist.
    """
    return OpenedRun(find_run(str(run), Path(results)))


class OpenedRun:
    """A run, read from its files at every call.

    So the answers are those of the moment, also while the run goes on. Nothing is changed in it.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"OpenedRun({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The run's name."""
        return self._directory.name

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._directory.path

    def trials(self) -> pl.DataFrame:
        """Return the table of the trials, a row each; it is that of ``trials.parquet``."""
        from agenttts.tables.schema import read_trials, trials_frame

        table = self._directory.trials_file
        return read_trials(table) if table.exists() else trials_frame([], [])

    def examples(self, trial: str) -> pl.DataFrame:
        """Return the table of a trial's examples, a row for each example and stage.

        Raises:
            UserError: The run has no result of such a trial.
        """
        from agenttts.errors import UserError, valid_names
        from agenttts.tables.schema import read_examples, trial_order

        table = self._directory.trial(trial) / "examples.parquet"
        if not table.exists():
            found = self.path.glob("trials/*/examples.parquet")
            names = sorted((path.parent.name for path in found), key=trial_order)
            raise UserError(
                f"{self.path}: no examples of a trial '{trial}'; {valid_names(trial, names)}"
            )
        return read_examples(table)

    def best(self) -> Mapping[str, Any] | None:
        """Return the row of the best trial; None if no trial has a score.

        It is the best finalist if there are finalists, else the best trial of the search.
        """
        from agenttts.report import build_report

        record = self._directory.known_record()
        extended_at = {self.path: record.extended_at} if record else {}
        return build_report([self.path], extended_at=extended_at).runs[0].best

    def recommended(self) -> Mapping[str, Any] | None:
        """Return the recommended allocation; None if the run does not name one yet.

        The mapping has ``allocation``, ``trial``, ``score``, ``budget`` and ``confidence``, as in
        ``report --format json``.
        """
        found: Mapping[str, Any] | None = self.report()["recommended"]
        return found

    def samples(self) -> pl.DataFrame:
        """Return every sample of the run once, with its prompt.

        The columns are those of ``export --samples``; ``prompt`` is a text, of a chat its messages
        in JSON.
        """
        import json

        import polars as pl

        rows = [
            {**row, "prompt": p if isinstance(p := row["prompt"], str) else json.dumps(p)}
            for row in self._samples()
        ]
        return pl.DataFrame(rows, schema=_samples_schema())

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the run's journal, in their order."""
        from agenttts.run.journal import readable_events

        return readable_events(self._directory.journal_file)

    def status(self) -> dict[str, Any]:
        """Return the state of the run, as ``status --json`` prints it; it asks the queue."""
        from agenttts.status.run_status import run_status

        return run_status(self._directory)

    def report(self) -> dict[str, Any]:
        """Return the report on the run, as in ``report --format json``."""
        from agenttts.loop.reports import report_of

        found: dict[str, Any] = report_of([self._directory]).as_dict()["runs"][0]
        return found

    def _samples(self) -> Iterator[dict[str, Any]]:
        from agenttts.run.drawn_samples import drawn_samples

        return drawn_samples(self._directory.read())


def _samples_schema() -> dict[str, Any]:
    import polars as pl

    text, number = pl.String(), pl.Int64()
    return {
        "trial": text,
        "example": text,
        "stage": text,
        "model": text,
        "index": number,
        "prompt": text,
        "text": text,
        "decode_tokens": number,
        "finish_reason": text,
        "prompt_tokens": number,
        "truncated": pl.Boolean(),
    }
