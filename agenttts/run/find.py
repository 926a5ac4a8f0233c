"""Find a run by its name or path."""

from __future__ import annotations

from pathlib import Path

from agenttts.errors import UserError, valid_names
from agenttts.run.directory import RunDirectory
from agenttts.run.listing import run_paths
from agenttts.run.record import INCOMPLETE, OLDER_RUN_FILE, RUN_FILE
from agenttts.spec.paths import check_characters


def find_run(run: str, results: Path) -> RunDirectory:
    """Return the run of that name under the results directory, or at that path.

    Raises:
        UserError: There is no such run; the message lists those that exist.
    """
    for path in (results / run, Path(run)):
        directory = RunDirectory(path.resolve())
        if directory.exists:
            check_characters(str(directory.path), f"run '{run}': its path")
            return directory
    from agenttts.run.named_jobs import told_by_jobs  # takes the schedulers

    told = told_by_jobs(Path(run).name, (results / run, Path(run)))
    for path in (results / run, Path(run)):
        if any(
            (path / name).exists() for name in ("journal.jsonl", RUN_FILE, OLDER_RUN_FILE, "trials")
        ):
            incomplete = f"{path / 'spec.yaml'}: the file does not exist; {INCOMPLETE}"
            raise UserError("; ".join(filter(None, (incomplete, told))))
    names = [path.name for path in run_paths(results)]
    where = results.absolute()
    if told:
        raise UserError(f"run '{run}' does not exist in {where}: {told}")
    if not names:
        there = "has no runs" if results.is_dir() else "does not exist"
        raise UserError(
            f"run '{run}' does not exist: the results directory {where} {there}; change to the "
            "directory that the run was launched from, name its results with --results DIR (or "
            "AGENTTTS_RESULTS), or give the run's path"
        )
    raise UserError(f"run '{run}' does not exist in {where}; {valid_names(run, names)}")
