"""Collect what a report shows of a run beside its trials."""

from __future__ import annotations

import logging

from agenttts.errors import AgentTTSError, cli_command, counted
from agenttts.loop.told_results import told_results
from agenttts.report.background import Background, Provenance
from agenttts.run.directory import Run, RunDirectory
from agenttts.run.state import RunState
from agenttts.run.task_identity import task_identity
from agenttts.space import Allocation, units_text
from agenttts.tables.insights import Outlook
from agenttts.tables.schema import AFTER_SEARCH

log = logging.getLogger(__name__)


def background_of(directory: RunDirectory, state: RunState, *, curves: bool = True) -> Background:
    """Return what is known of a run; what cannot be read is logged and left out.

    Without ``curves`` the surrogate is not fitted.
    """
    reasons = {trial: each.planned.reason for trial, each in state.trials.items()}
    try:
        run = directory.read()
    except (AgentTTSError, OSError) as error:
        log.warning("the report of %s lacks what the run was made with: %s", directory.path, error)
        return Background(reasons=reasons)
    outlook = _outlook(run, state) if curves else None
    return Background(_provenance(run, state), reasons, outlook)


def _provenance(run: Run, state: RunState) -> Provenance:
    record, spec, path = run.record, run.spec, run.directory.path
    container = record.container
    facts = {
        "launched": (state.started_at or "not known").partition(".")[0].replace("T", " "),
        "version": f"agenttts-hpc {record.version}",
        "image": str(container.image) if container else "none (Python of the host)",
        "SHA-256 of the image": record.image_sha256 or "-",
        "task": spec.task.name,
        "data": "; ".join(
            f"{each.source}: {counted(f'{each.records:,}', 'record')}" for each in record.data
        )
        or "-",
        "score": record.main_metric or "-",
        "search": f"{spec.search.method}, budget {units_text(spec.search.budget)}, "
        f"seed {spec.search.seed}",
        "scheduler": run.profile.kind,
    }
    models = tuple(
        (name, model.engine, model.path, model.weights or "")
        for name, model in sorted(record.models.items())
    )
    profile = path / "profile.yaml"
    command = cli_command(
        "launch", path / "spec.yaml", "--cluster", profile, "--name", f"{run.name}-again"
    )
    task = task_identity(run.directory, spec.task.name)
    return Provenance(facts, models, dict(record.examples), record.contents, command, task)


def _outlook(run: Run, state: RunState) -> Outlook | None:
    """Return what the surrogate expects; None if it cannot be fitted."""
    # Imports the surrogate and numpy, which only the page of a report needs.
    from agenttts.loop.outlook import outlook

    try:
        space = run.spec.space()
        # One after the other: all at once, those of 3,350 trials took 150 MB.
        results = (
            result
            for trial, each in state.trials.items()
            if each.row is not None and each.planned.source not in AFTER_SEARCH
            for result in told_results(
                each, run.directory.trial(trial), run.record.main_metric, space
            )
        )
        chosen = Allocation.from_records(state.recommended) if state.recommended else None
        return outlook(space, results, chosen)
    except (AgentTTSError, OSError) as error:
        log.warning("the report of %s lacks the curves of its stages: %s", run.name, error)
        return None
