"""Parts of a run's state as text, for ``status`` and for those who follow a run."""

from __future__ import annotations

from typing import Any

from agenttts.errors import cli_command, counted
from agenttts.run.profile_fix import names_a_command

_FAILED = ("FAILED", "INFRA_FAILED", "TIMEOUT", "OOM", "PREEMPTED")


def status_line(document: dict[str, Any]) -> str:
    """Return iteration, trials by state and the best so far, as one line."""
    states = ", ".join(f"{n} {state}" for state, n in sorted(document["trials"].items()))
    best = document["best"]
    found = f"; best {best['score']:.3f} {choices_text(best['allocation'])}" if best else ""
    over = f"; over: {document['outcome']}" if document["outcome"] else ""
    found += _test_text(document["test"], best["allocation"] if best else [])
    return f"{iteration_text(document)}: {states or 'no trial yet'}{found}{over}"


def _test_text(tests: list[dict[str, Any]], best: list[dict[str, Any]]) -> str:
    """Return the best allocation's test score, else another one's with its allocation."""
    from agenttts.report.contents import tested_row

    shown = tested_row(tests, best)
    if shown is None:
        return ""
    name = "" if shown["allocation"] == best else f" ({choices_text(shown['allocation'])})"
    return f"; test {shown['score']:.3f}{name}"


def iteration_text(document: dict[str, Any]) -> str:
    """Return the iteration, of how many."""
    iteration = document["iteration"]
    early = " (the search ends early)" if document["finishing"] else ""
    if not early and document["ended_early"]:
        early = " (the search ended early; logs says why)"
    return f"iteration {'-' if iteration is None else iteration} of {document['iterations']}{early}"


def choices_text(records: list[dict[str, Any]]) -> str:
    """Return an allocation, stage by stage."""
    return " → ".join(f"{r['model']}×{r['samples']}" for r in records)


def interval_text(interval: dict[str, float] | None) -> str:
    """Return the interval of a score, with a space before; '' without one."""
    return f" [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else ""


def unscored_text(document: dict[str, Any]) -> str:
    """Return why the recommended allocation has no score; '' if it has one."""
    if document["recommended_tried"]:
        return ""
    failed = document["recommended_failed"]
    return f"{failed}, no score" if failed else "not tried yet"


def controller_text(controller: dict[str, Any]) -> str:
    """Return how the controller is, and why."""
    state = controller["state"]
    word = {True: "running", False: "not running", None: "unknown"}[controller["alive"]]
    if controller["alive"] and state != "RUNNING":
        word = "waiting" if controller.get("stuck") or state == "PENDING" else state.lower()
    reason = f" ({controller['reason']})" if controller["reason"] else ""
    job = f"{controller['job_id']} " if controller["job_id"] else ""
    host = f"on {controller['host']} " if controller["host"] else ""
    cancelled = (
        ", cancelled" if controller["cancelled"] and controller["alive"] is not False else ""
    )
    return f"{job}{host}{word}{cancelled}{reason}"


def where_to_look(document: dict[str, Any]) -> list[str]:
    """Return where to look when a controller is dead or waits, or trials have failed."""
    controller, run = document["controller"], document["path"]
    if document["outcome"] == "done":
        failed = sum(n for state, n in document["trials"].items() if state in _FAILED)
        have, them = ("trial has", "it") if failed == 1 else ("trials have", "them")
        again = f"'{cli_command('resume', run, '--retry-failed')}' tries {them} again"
        return [f"{failed} {have} no score; {again}"] if failed else []
    if document["outcome"] is not None or controller["alive"] is None:
        return []
    log = f"its log is {controller['log']}" if controller["log"] else "it has not written a log"
    if not controller["alive"]:
        lines = [log]
        if controller["log"]:
            lines[0] += f"; '{cli_command('logs', run)}' shows what matters of it"
        if not names_a_command(controller["reason"]):
            lines.append(f"'{cli_command('resume', run)}' continues the run")
        return lines
    if controller["state"] != "PENDING":
        return []
    when = f"'{controller['when']}' shows when it may start; " if controller["when"] else ""
    return [f"{when}'{cli_command('cancel', run)}' removes it"]


def how_they_count(run: str) -> str:
    """Return the commands after which a recommendation counts all trials."""
    return (
        f"'{cli_command('resume', run)}' continues the search, "
        f"'{cli_command('finish', run)}' ends it with them"
    )


def used_text(cost: dict[str, Any] | None, used: str = " used") -> str:
    """Return what the run and its served model have used; '' if that is not known.

    ``used`` follows the quantity.
    """
    from agenttts.report.contents import duration, number

    if cost is None:
        return ""
    trials, served = cost["gpu_seconds"], cost["served"]["gpu_seconds"]
    if trials + served > 0:
        total, own = f"{number((trials + served) / 3600)} GPU-hours", number(served / 3600)
    else:
        trials = sum(s for part, s in cost["seconds"].items() if part != "queue")
        served = cost["served"]["seconds"]
        total, own = f"{duration(trials + served)} of jobs", duration(served)
    return f"{total}{used}" + (f" ({own} for the search's own model)" if served else "")


def to_come_text(rest: dict[str, Any] | None) -> str:
    """Return what the rest of the search may use; '' if that is not known."""
    if rest is None:
        return ""
    low, high = (two_digits(rest["gpu_seconds"][key] / 3600) for key in ("low", "high"))
    hours = f"{low if low == high else f'{low} to {high}'} GPU-hours"
    on_gpus, trials = rest["gpu_seconds"]["high"] > 0, rest["trials"]
    if not rest["measured"]:
        return f"{hours} expected in all" if on_gpus else ""
    if not trials:
        return ""
    count = counted(trials, "trial")
    return f"{hours} to come ({count})" if on_gpus else f"{count} to come"


def two_digits(value: float) -> str:
    """Format a number to two digits, or more if it has more before the point."""
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"
