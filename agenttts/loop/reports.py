"""Make reports of runs.

A report is made on request, and in the run's own directory when the run ends.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenttts.errors import AgentTTSError
from agenttts.loop.backgrounds import background_of
from agenttts.loop.baseline import against_baseline
from agenttts.report import Report, build_report, render, write_plain_page
from agenttts.report.summary import RunReport
from agenttts.run.costs import CostReader
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.state import RunState
from agenttts.search.llm.transcript import summarise

FIGURES = "AGENTTTS_REPORT_FIGURES"
"""Where this variable is 0, the page that a run writes at its end has no figures.

They take some seconds of a controller's CPU time.
"""

MOST_TRIALS_HERE = 500
"""The report of a run with more trials is written by a process of its own at the run's end.

Its figures and the results by example take as much memory as a controller does otherwise, and the
controller would keep it. The process takes 1.5 s of CPU time more.
"""

_LONGEST_S = 1800
"""Its limit, far above what the largest runs take: 5,000 trials take about 80 s."""

log = logging.getLogger(__name__)


def report_of(runs: Sequence[RunDirectory], *, page: bool = False) -> Report:
    """Return the report of these runs as they stand.

    With ``page`` it holds what only the page and its figures show, which takes longer to collect.
    """
    return _report({run: read_state(run.journal_file) for run in runs}, page)


def write_report(run: RunDirectory, state: RunState, outcome: str) -> None:
    """Write the run's own ``report/`` with ``outcome`` as the run's end.

    Errors are logged. The results are safe without the report, and ``report`` makes it again.
    """
    try:
        if len(state.trials) > MOST_TRIALS_HERE:
            _write_elsewhere(run, outcome)
        else:
            _write(run, state, outcome)
    except (AgentTTSError, OSError, subprocess.TimeoutExpired) as error:
        log.warning("the report of %s could not be written: %s", run.path, error)
    except Exception:
        log.exception("the report of %s could not be written", run.path)


def _write_elsewhere(run: RunDirectory, outcome: str) -> None:
    """Write a report in a process of its own."""
    command = [sys.executable, "-P", "-m", __spec__.name, str(run.path), outcome]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_LONGEST_S
    )
    told = done.stderr.decode(errors="replace").strip()
    if done.returncode:
        code = f"its process ended with exit code {done.returncode}"
        raise AgentTTSError(f"{code}: {told}" if told else code)
    if told:
        log.warning("%s", told)


def _write(run: RunDirectory, state: RunState, outcome: str) -> None:
    figures = os.environ.get(FIGURES) != "0"
    built = _report({run: state}, page=True, curves=figures)
    built = Report(tuple(replace(part, outcome=outcome) for part in built.runs))
    run.report.mkdir(exist_ok=True)
    if figures:
        render(built, "html", run.report / "report.html")
    else:
        write_plain_page(built, run.report / "report.html")
    render(built, "json", run.report / "report.json")


def _report(runs: dict[RunDirectory, RunState], page: bool, *, curves: bool = True) -> Report:
    built = build_report(
        [run.path for run in runs],
        guidelines={run.path: state.guidelines for run, state in runs.items()},
        agents={run.path: summarise(run.transcript_file) for run in runs},
        recommended={run.path: state.recommended for run, state in runs.items()},
        confidences={run.path: state.confidence for run, state in runs.items()},
        costs={run.path: CostReader(run).cost(state, alone=True) for run, state in runs.items()},
        backgrounds={
            run.path: background_of(run, state, curves=page and curves)
            for run, state in runs.items()
            if page or len(runs) > 1  # with several, it tells whether they can be compared
        },
        main_metrics={
            run.path: record.main_metric
            for run in runs
            if (record := run.known_record()) is not None
        },
    )
    compared = (
        replace(
            report,
            baseline=_against_baseline(run, report),
            scored_since=state.scored_since(),
            guidelines_from=state.guidelines_from,
        )
        for (run, state), report in zip(runs.items(), built.runs, strict=True)
    )
    return Report(tuple(compared))


def _against_baseline(run: RunDirectory, report: RunReport) -> dict[str, Any] | None:
    try:
        return against_baseline(run, report)
    except (AgentTTSError, OSError) as error:
        log.warning("the report of %s lacks the comparison with its baseline: %s", run.name, error)
        return None


if __name__ == "__main__":
    _run = RunDirectory(Path(sys.argv[1]))
    try:
        _write(_run, read_state(_run.journal_file), sys.argv[2])
    except (AgentTTSError, OSError) as _error:
        sys.exit(str(_error))
