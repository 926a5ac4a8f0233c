"""Follow a run: a live view on a terminal, a line for each change elsewhere.

The view is a list of lines, as wide as the terminal and no longer than it is high. It is drawn on
the terminal's alternate screen, so what was there before comes back when it ends. A terminal that
cannot move its cursor (``TERM=dumb``) gets plain lines, as a pipe does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from agenttts.cli import output, show_status
from agenttts.cli.status_texts import (
    choices_text,
    controller_text,
    interval_text,
    iteration_text,
    status_line,
    to_come_text,
    unscored_text,
    used_text,
    where_to_look,
)
from agenttts.errors import counted
from agenttts.files.signals import ended_in_order
from agenttts.run.directory import RunDirectory
from agenttts.status.run_status import follow

_LABEL = 12
"""Columns of the labels on the left."""
_GUIDELINE_LINES = 3
_BAR = 20
"""Characters of a trial's bar."""
_JOBS_NAMED = 4
"""The most jobs that are named if several wait for the same."""


def progress(run: RunDirectory, *, quiet: bool = False, keep: bool = False) -> None:
    """Follow a run to its end.

    Args:
        run: The run.
        quiet: Whether nothing is shown.
        keep: Whether the last state stays on the terminal.
    """
    console = output.console
    if quiet:
        follow(run, lambda status: None)
    elif console.is_terminal and not console.is_dumb_terminal:
        last = _follow_on_screen(run, console)
        if keep:
            show_status.status(last)
    else:
        follow(run, _Lines())


def _follow_on_screen(run: RunDirectory, console: Console) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    def view() -> Group:
        lines = watch_lines(seen[-1], datetime.now().astimezone(), console) if seen else [Text()]
        return Group(*fitted(lines, console.height))

    live = Live(get_renderable=view, console=console, screen=True, refresh_per_second=1)
    with ended_in_order(), live:

        def take(status: dict[str, Any]) -> None:
            seen.append(status)
            del seen[:-1]
            live.refresh()

        return follow(run, take)


class _Lines:
    """Prints a line for each change, and each reason to wait once."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = ""
        self._reasons: set[str] = set()

    def __call__(self, status: dict[str, Any]) -> None:
        text = status_line(status)
        if text != self._last:
            self._say(text)
            self._last = text
        for reason in waiting(status):
            if reason not in self._reasons:
                self._reasons.add(reason)
                self._say(f"waiting: {reason}")

    def _say(self, text: str) -> None:
        output.say(f"{time.monotonic() - self._started:6.0f} s  {text}")


def fitted(lines: list[Text], height: int) -> list[Text]:
    """Return the lines that a terminal has room for.

    If some are missing, the last one says how many.
    """
    if len(lines) <= height:
        return lines
    kept = lines[: max(0, height - 1)]
    more = counted(len(lines) - len(kept), "more line")
    return [*kept, Text(f"... {more}; a higher window shows them")]


def watch_lines(document: dict[str, Any], now: datetime, console: Console) -> list[Text]:
    """Return the view of a run, line by line.

    Args:
        document: Its state (`StatusDocument`).
        now: The time that the clock shows.
        console: The terminal; no line is wider.
    """
    lines = [_title(document, now, console.width)]
    for label, text, style in _facts(document):
        lines += _labelled(label, Text(text, style=style), console)
    guideline = document["guideline"]
    if guideline:
        found = _labelled("guideline", Text(guideline), console)
        if len(found) > _GUIDELINE_LINES:
            found = found[:_GUIDELINE_LINES]
            found[-1].append(" ...")
            found[-1].truncate(console.width, overflow="ellipsis")
        lines += found
    for warning in document["warnings"]:
        lines += _labelled("warning", Text(warning, style="yellow"), console)
    work = list(_work(document, console))
    return [*lines, Text(), *work] if work else lines


def _title(document: dict[str, Any], now: datetime, width: int) -> Text:
    title = Text(document["run"], style="bold")
    clock = f"{now:%H:%M:%S}"
    if document["started"]:
        ran = (now - datetime.fromisoformat(document["started"])).total_seconds()
        clock += f", began {_long(ran)} ago"
    state = document["outcome"] or iteration_text(document)
    title.append(f"  {state}", style="default not bold")
    title.truncate(max(0, width - len(clock) - 1), overflow="ellipsis")
    title.append(" " * max(1, width - title.cell_len - len(clock)))
    title.append(clock, style="dim not bold")
    return title


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield label, text and style of what is known of the run."""
    yield "controller", controller_text(document["controller"]), ""
    for line in where_to_look(document):
        yield "", line, "yellow"
    if document["controller"]["queue"]:
        yield "queue", f"it cannot be read: {document['controller']['queue']}", "yellow"
    states = ", ".join(f"{n} {state}" for state, n in sorted(document["trials"].items()))
    yield "trials", states or "none yet", ""
    best = document["best"]
    if best:
        score = f"{best['score']:.4f}{interval_text(document['best_interval'])}"
        yield "best", f"{score} {choices_text(best['allocation'])} ({best['trial']})", "bold"
    recommended = document["recommended"]
    if recommended and not (best and best["allocation"] == recommended):
        untried = f", {unscored}" if (unscored := unscored_text(document)) else ""
        yield "recommended", f"{choices_text(recommended)}{untried}", ""
    used, left = used_text(document["cost"]), to_come_text(document["to_come"])
    if used or left:
        yield "cost", "; ".join(part for part in (used, left) if part), ""
    served = document["served"]
    if served and (served["stuck"] or served["state"] == "PENDING"):
        yield "served model", f"job {served['job_id']} waits: {served['reason']}", ""
    elif document["agent"] and document["agent"]["served"] and not document["outcome"]:
        yield "served model", document["agent"]["served"][-1]["what"], ""


def _labelled(label: str, text: Text, console: Console) -> list[Text]:
    """Return a text as lines with a label before the first one."""
    wrapped = _wrapped(text, console, max(20, console.width - _LABEL))
    heads = [f"{label:{_LABEL}}", *([" " * _LABEL] * len(wrapped))]
    return [
        Text.assemble((head, "dim"), line)
        for head, line in zip(heads, wrapped or [Text()], strict=False)
    ]


def _wrapped(text: Text, console: Console, width: int) -> list[Text]:
    lines = list(text.wrap(console, width))
    for line in lines:
        line.rstrip()
    return lines


def _work(document: dict[str, Any], console: Console) -> Iterator[Text]:
    """Yield what the jobs do: running ones first, then those that wait."""
    stages = {job["trial"]: job for job in document["jobs"]}
    pending = [worker for worker in document["workers"] if worker["phase"] is None]
    for worker in document["workers"]:
        if worker["phase"] is not None:
            yield _cut(_worker(worker), console)
            for trial in worker["trials"]:
                yield _cut(_trial(stages[trial]), console)
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for worker in pending:
        by_reason.setdefault(_why(worker), []).append(worker)
    for reason, workers in by_reason.items():
        named = [worker["job_id"] for worker in workers[:_JOBS_NAMED]]
        more = f" and {len(workers) - len(named)} more" if len(workers) > len(named) else ""
        text = f"{'job' if len(workers) == 1 else 'jobs'} {', '.join(named)}{more}: {reason}"
        yield from _wrapped(Text(text, style="yellow"), console, console.width)


def waiting(document: dict[str, Any]) -> list[str]:
    """Return what jobs wait for, in sentences, each once."""
    reasons = (_why(w) for w in document["workers"] if w["state"] == "PENDING" and w["reason"])
    return list(dict.fromkeys(reasons))


def _why(worker: dict[str, Any]) -> str:
    return str(worker["reason"] or worker["state"].lower())


_PHASES = {
    "start": "its program starts",
    "load": "loads",
    "generate": "generates with",
    "other": "runs the task's own code",
    "idle": "waits for trials",
}


def _worker(worker: dict[str, Any]) -> Text:
    gpus = worker["gpus"] or 0
    where = [f"on {worker['node']}"] if worker["node"] else []
    where += [counted(gpus, "GPU")] if gpus else []
    doing = " ".join(filter(None, (_PHASES[worker["phase"]], worker["model"])))
    if worker["tokens_per_second"] is not None and worker["phase"] != "load":
        doing += f", {worker['tokens_per_second']:,.0f} tokens/s"
    line = Text(f"job {worker['job_id']}", style="bold")
    line.append(f" {', '.join(where)}" if where else "", style="default not bold")
    line.append(f", for {_long(worker['seconds'])}: ", style="default not bold")
    line.append(doing, style="cyan not bold")
    return line


def _trial(job: dict[str, Any]) -> Text:
    line = Text(f"  {job['trial']} ")
    at = job["progress"]
    if at is None:
        line.append("has not begun", style="dim")
    else:
        part = at["done"] / at["examples"] if at["examples"] else 1.0
        full = int(part * _BAR)
        line.append(f"stage {at['number']} of {at['stages']} {at['stage']} ")
        line.append(f"[{'#' * full}{'.' * (_BAR - full)}] ", style="green")
        line.append(f"{at['done']} of {counted(at['examples'], 'example')}")
    line.append(f"  {job['allocation']}", style="dim")
    return line


def _cut(line: Text, console: Console) -> Text:
    line.truncate(console.width, overflow="ellipsis")
    return line


def _long(seconds: float) -> str:
    minutes = max(0, int(seconds)) // 60
    if minutes < 1:
        return f"{max(0, int(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
