"""Format the state of runs for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from agenttts.cli import output
from agenttts.cli.output import new_table, say, score_text
from agenttts.cli.status_texts import (
    choices_text,
    controller_text,
    how_they_count,
    status_line,
    unscored_text,
    where_to_look,
)
from agenttts.errors import counted
from agenttts.tables.confidence import Confidence, since_text

_WIDE = 110
"""``list`` shows allocations if the terminal has at least this many columns."""


def status(document: dict[str, Any]) -> None:
    """``status``: show the state of a run."""
    for part in _status_view(document):
        say(part)


def runs(document: dict[str, Any]) -> None:
    """``list``: show a line for each run, then details of some runs."""
    if not document["runs"]:
        say(
            f"no runs in {document['results']}; 'agenttts-hpc launch SPEC' starts one, and "
            "--results names another directory"
        )
        return
    table = new_table(
        *("run", "state", "iteration", "trials", "best", "GPU-hours of trials", "last activity"),
        box=None,
        pad_edge=False,
    )
    # A name that is broken in two cannot be copied.
    longest = max(len(run["run"]) for run in document["runs"])
    table.columns[0].no_wrap = longest <= output.console.width // 2
    wide = output.console.width >= _WIDE
    if wide:
        table.add_column("best allocation", overflow="fold")
    for run in document["runs"]:
        iteration = "-" if run["iteration"] is None else str(run["iteration"])
        best = run["best"]
        table.add_row(
            run["run"],
            run["state"],
            f"{iteration} of {run['iterations']}" if run["iterations"] is not None else iteration,
            f"{run['scored']} of {run['trials']}" if run["trials"] else "-",
            score_text(best["score"]) if best else "-",
            f"{run['gpu_hours']:.1f}",
            _ago(run["active"]),
            *([choices_text(best["allocation"]) if best else "-"] if wide else []),
        )
    say(table)
    for run in document["runs"]:
        if run["detail"]:
            say(f"{run['run']}: {run['detail']}")


def _status_view(document: dict[str, Any]) -> list[Text | Table]:
    head = Text(f"{document['run']}  ", style="bold")
    outcome = document["outcome"]
    # Why it failed is on the next line of the output.
    ended = outcome if outcome in (None, "done", "cancelled") else "failed"
    head.append(ended or f"controller {controller_text(document['controller'])}", style="dim")
    parts: list[Text | Table] = [head, Text(status_line(document))]
    if document["controller"]["queue"]:
        parts.append(Text(f"the queue cannot be read: {document['controller']['queue']}"))
    parts += [Text(line) for line in where_to_look(document)]
    untried = f"; {unscored}" if (unscored := unscored_text(document)) else ""
    best = document["best"]
    if document["recommended"]:
        own = (
            "('best' above)"
            if best and best["allocation"] == document["recommended"]
            else f"(expected to score best{untried}). 'best' above is the highest measured score."
        )
        parts.append(Text(f"recommended: {choices_text(document['recommended'])} {own}"))
        if (since := document["scored_since"]) and outcome is not None:
            parts.append(Text(f"{since_text(since)}; {how_they_count(document['path'])}"))
    if document["confidence"]:
        parts.append(Text(f"the recommended allocation is {Confidence(**document['confidence'])}"))
    if document["cost"]:
        parts.append(Text(_cost_lines(document["cost"])))
    if document["cut_share"]:
        shares = ", ".join(
            f"{name} {part['share']:.0%}" for name, part in document["cut_share"].items()
        )
        parts.append(Text(f"samples cut at decode_tokens: {shares}"))
    parts += [Text(f"warning: {warning}", style="yellow") for warning in document["warnings"]]
    agent = document["agent"]
    if agent and agent["served"] and not document["outcome"]:
        parts.append(Text(f"served model: {agent['served'][-1]['what']}"))
    served = document["served"]
    if served and (served["stuck"] or served["state"] == "PENDING"):
        parts.append(Text(f"served model: job {served['job_id']} waiting ({served['reason']})"))
    if agent and agent["calls"]:
        decisions = ", ".join(f"{count} {what}" for what, count in agent["decisions"].items())
        parts.append(
            Text(
                f"agent {agent['model']}: {counted(agent['calls'], 'call')}, "
                f"{sum(agent['failed'].values())} failed; "
                f"proposals: {decisions or 'none'}; "
                f"{counted(len(agent['fallbacks']), 'batch', 'batches')} without it"
            )
        )
    if document["jobs"]:
        table = new_table("trial", "job", "state", "allocation", box=None)
        for job in document["jobs"]:
            state = f"{job['state']} {job['reason']}".strip()
            table.add_row(job["trial"], job["job_id"], state, job["allocation"])
        parts.append(table)
    return parts


def _cost_lines(cost: dict[str, Any]) -> str:
    """Return two lines: what a run used so far, and for what."""
    from agenttts.cli.status_texts import used_text
    from agenttts.report.contents import duration, share

    by_part = cost["gpu_seconds_by"] if cost["gpu_seconds"] > 0 else cost["seconds"]
    parts = {part: seconds for part, seconds in by_part.items() if part != "queue"}
    used = sum(parts.values())
    shares = ", ".join(f"{part} {share(s / used)}" for part, s in parts.items() if used)
    tokens, queued = cost["tokens"], duration(cost["seconds"]["queue"])
    own = cost["served"]["queue"]
    queued += f" ({duration(own)} more for the search's own model)" if own >= 1 else ""
    return (
        f"cost: {used_text(cost, used='')}, "
        f"{counted(cost['engine_starts'], 'engine start')}, "
        f"{tokens['computed']:,} tokens computed, {tokens['reused']:,} reused\n"
        f"time of jobs: {shares or 'none yet'}; waited in the queue before that: {queued}"
    )


def _ago(moment: str) -> str:
    """Return how long ago a moment (ISO 8601) was."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
