"""Format the output of commands for people.

Lines are wrapped by the terminal and not here (``soft_wrap``), so that paths and commands can be
copied. Only tables are fitted to the terminal's width. The console does not interpret mark-up,
because names of models and messages may contain brackets and colons. Styles are given by `Text`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agenttts.cli.status_texts import (
    choices_text,
    controller_text,
    how_they_count,
    status_line,
    two_digits,
    unscored_text,
    where_to_look,
)
from agenttts.errors import cli_command
from agenttts.tables.confidence import Confidence, since_text
from agenttts.tables.console import PlainConsole, without_controls

if TYPE_CHECKING:
    import polars as pl

    from agenttts.launch.differences import Differences
    from agenttts.launch.profile_change import ProfileOutcome
    from agenttts.launch.rebuild import Rebuilt
    from agenttts.report.summary import RunReport
    from agenttts.run.directory import RunDirectory


def new_console() -> Console:
    """Return a console as wide as the terminal.

    If standard output is not a terminal and COLUMNS is not set, the console has 120 columns. Rich's
    default of 80 is too narrow for long model names.
    """
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return PlainConsole(width=width, markup=False, emoji=False, highlight=False)


console = new_console()

_MARKS = {True: ("ok", "green"), False: ("missing", "red"), None: ("note", "yellow")}
_WIDE = 110
"""``list`` shows allocations if the terminal has at least this many columns."""


def say(line: str | Text = "") -> None:
    """Print a line, which the terminal wraps."""
    console.print(line, soft_wrap=True)


def _table(*columns: str, **settings: Any) -> Table:
    """Return an empty table that breaks long words instead of cutting them."""
    table = Table(**settings)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def status(document: dict[str, Any]) -> None:
    """``status``: show the state of a run."""
    for part in _status_view(document):
        console.print(part, soft_wrap=isinstance(part, Text))


def launched(document: dict[str, Any]) -> None:
    """``launch``: show what was started and how to watch it."""
    run, outcome = document["path"], document["outcome"]
    verb = "launched"
    if not document["created"]:
        # A run that was cancelled or failed is started again, one that is done is not.
        verb = "exists and is over (done)" if outcome == "done" else "exists and goes on"
        verb += f" (it was over: {outcome})" if outcome not in (None, "done") else ""
    say(Text.assemble("run ", (document["run"], "bold"), f" {verb}: {run}"))
    if outcome == "done" and not document["created"]:
        _what_next(document)
        return
    if document["new_results"]:
        say("results:    a new directory, made for it (--results names another)")
    data_surprises(document["data"], document["skip_bad"])
    say(f"controller: {document['controller']['described']}")
    if document["nodes"]:
        say(f"nodes:      {document['nodes']}")
    say(f"watch it:   {cli_command('status', run, '--watch')}")
    say(f"aggregate:  {cli_command('report', run)}")


def _what_next(document: dict[str, Any]) -> None:
    """Say what can be done with a run that is done."""
    run, iterations = document["path"], document["iterations"]
    say("nothing was started")
    for line in where_to_look(document):
        say(line)
    say(f"aggregate:  {cli_command('report', run)}")
    if iterations:  # else it evaluates given allocations, without a search
        setting = f"search.iterations={2 * iterations}"
        say(f"go on:      {cli_command('extend', run, '--set', setting)}")
    say("anew:       this command with --name and another name")


def repaired(rebuilt: Rebuilt | None, retried: list[str] | None) -> None:
    """``resume``: show how the journal was rebuilt, and which trials are tried again.

    Args:
        rebuilt: What ``--from-tables`` did; None without this option.
        retried: The trials of ``--retry-failed``; None without this option.
    """
    lines = []
    if rebuilt is not None:
        lines = [
            f"a new journal was made; the old one is {rebuilt.old or 'lost'}",
            f"kept: {_names(rebuilt.from_results)} from their result files, "
            f"{_names(rebuilt.from_table)} from their rows in the table of trials",
        ]
        lines += [f"run again: {_names(rebuilt.again)}"] if rebuilt.again else []
        if rebuilt.lost:
            lines.append(
                "moved aside, because they cannot be restored without their allocation: "
                f"{_names(rebuilt.lost)}"
            )
        lines += [f"note: {note}" for note in rebuilt.notes]
    if retried is not None:
        lines.append(
            f"to be tried again: {_names(retried)}"
            if retried
            else "no trial has failed, so no trial is tried again"
        )
    for line in lines:
        say(line)


def evaluated(run: RunReport) -> None:
    """``evaluate --wait``: show the score of the allocation, and its cost per example."""
    from agenttts.report.contents import allocation_text, number, score_text

    row = run.best
    if row is None:
        say(f"no score; '{cli_command('logs', run.path, 0)}' shows why")
        return
    task = run.settings["task"]["name"]
    tokens = (row["prompt_tokens"] + row["decode_tokens"]) / row["examples"]
    say(
        f"{allocation_text(row['allocation'])}: score {score_text(row['score'], run.interval)} "
        f"(95% interval over {row['examples']} examples of {task}), budget "
        f"{number(row['budget'])}, {number(round(tokens, 1))} tokens an example"
    )


def profile_taken(outcome: ProfileOutcome | None) -> None:
    """Show what a given profile changes in a run, a line for each key."""
    from agenttts.launch.differences import difference_lines

    if outcome is None:
        return
    if not outcome.changes:
        say("the run already has this profile; nothing changes")
        return
    kept = f"the run keeps its profile, because {outcome.refused}; the given profile differs in:"
    say(kept if outcome.refused else "the run takes the corrected profile:")
    for line in difference_lines(outcome.changes):
        say(f"  {line}")


def profile_edited(changes: Differences, run: RunDirectory) -> None:
    """``resume`` without a profile: show what an edited one would change."""
    from agenttts.launch.differences import difference_lines

    if not changes:
        return
    command = cli_command("resume", run.path, "--cluster", run.spec().cluster)
    say(
        "note: the profile was edited since the launch, and the run keeps its own; after "
        f"'{cli_command('cancel', run.path)}', '{command}' gives it the edited one:"
    )
    for line in difference_lines(changes):
        say(f"  {line}")


def extended(changes: Mapping[str, list[Any]], iterations: int) -> None:
    """``extend``: show what changes in a run, a line for each key.

    Args:
        changes: For each key that differs, the run's value and the given one.
        iterations: How many iterations the search had left when the command was called.
    """
    from agenttts.launch.differences import difference_lines

    if not changes:
        say("the run has these values already; nothing changes")
        return
    say("the search is wider now, and keeps its trials and samples. Changed:")
    for line in difference_lines(dict(changes)):
        say(f"  {line}")
    _without_iterations(changes, iterations)


def extension_plan(document: dict[str, Any], iterations: int) -> None:
    """``extend --dry-run``: show what would change, and the plan of the whole search.

    ``iterations`` is as in `extended`.
    """
    from agenttts.launch.differences import difference_lines

    lines = difference_lines(document["changes"])
    say("would change:" if lines else "the run has these values already")
    for line in lines:
        say(f"  {line}")
    _without_iterations(document["changes"], iterations)
    say(f"trials of the search so far: {document['trials']}; the plan of the whole search:")
    _plan(document)
    say(_NOTHING_DONE)


def _without_iterations(changes: Mapping[str, list[Any]], iterations: int) -> None:
    """Say which changed limits are for proposals, if there are no more proposals."""
    for_proposals = ("search.budget", "search.examples.", "stages.")
    unused = [key for key in changes if key.startswith(for_proposals)]
    if unused and not iterations and "search.iterations" not in changes:
        say(
            f"note: no iteration of the search is left, so no trial is proposed with the new "
            f"{' and '.join(unused)}; raise search.iterations too"
        )


def cleaned(document: dict[str, Any]) -> None:
    """``clean``: show files, their sizes, and what is impossible without them."""
    removed = document["removed"]
    for run in document["runs"]:
        if not run["parts"]:
            say(f"{run['path']}: nothing to remove")
        else:
            verb = "removed" if removed else "can be removed"
            say(f"{run['path']}: {_bytes(run['bytes'])} {verb}")
        for part in run["parts"]:
            files = f"{part['files']} file{'s' if part['files'] != 1 else ''}"
            say(f"  {part['what']}: {_bytes(part['bytes'])} in {files}")
            say(f"    without them, {part['without']}")
        for line in run["kept"]:
            say(f"  {line}")
    if not removed and any(run["parts"] for run in document["runs"]):
        say("nothing was removed; --yes removes the files")


def _bytes(size: int) -> str:
    for unit in ("GB", "MB", "kB"):
        factor = {"GB": 1e9, "MB": 1e6, "kB": 1e3}[unit]
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def finish(run: RunDirectory, ends: bool) -> None:
    """``finish``: show what happens now."""
    if not ends:
        say(f"{run.path}: the run is over, so there is no search to end")
        return
    search = run.spec().search
    asked = {"the finalists": search.finalists, "the final test": search.test_split}
    after = " and ".join(name for name, section in asked.items() if section is not None)
    say(
        "no more trials are proposed; the trials that have been proposed still run"
        + (f", and after them {after}" if after else "")
    )


def _names(trials: list[str]) -> str:
    """Return the number of trials and their names; of many, only some names."""
    if not trials:
        return "no trial"
    more = f", … {trials[-1]}" if len(trials) > 6 else ""
    shown = ", ".join(trials[:5] if more else trials)
    return f"{len(trials)} {'trial' if len(trials) == 1 else 'trials'} ({shown}{more})"


def data_surprises(data: list[dict[str, Any]], skip_bad: int) -> None:
    """Show the sources of data that a user may want to check.

    These have skipped records, records that were found under a key, or notes.
    """
    surprising = [s for s in data if s["skipped"] or s["key"] or s["notes"]]
    data_read(surprising, skip_bad)


def data_read(sources: list[dict[str, Any]], skip_bad: int) -> None:
    """Show what was read of the task's data, by file or hub split."""
    for source in sources:
        under = f" under '{source['key']}'" if source["key"] else ""
        left = f", {source['skipped']} of them bad and skipped (task.skip_bad: {skip_bad})"
        lines = [
            f"data: {source['source']}: {source['records']} records{under}"
            + (left if source["skipped"] else ""),
            *(f"  skipped: {reason}" for reason in source["reasons"]),
            *(f"  {note}" for note in source["notes"]),
        ]
        more = source["skipped"] - len(source["reasons"])
        lines += [f"  and {more} more"] if more else []
        for line in lines:
            say(line)


def plan(document: dict[str, Any]) -> None:
    """``launch --dry-run``: show what would be done."""
    _plan(document)
    say(f"the run would be in {document['path']}{_new(document['new_results'])}")
    say(_NOTHING_DONE)


_NOTHING_DONE = "nothing was created or submitted (--dry-run)"


def _plan(document: dict[str, Any]) -> None:
    _search_plan(document)
    data_read(document["task"]["data"], document["task"]["skip_bad"])
    _models_plan(document)
    _jobs_plan(document)
    for problem in document["problems"]:
        say(Text.assemble(("missing", "red"), f" {problem['what']}"))
        say(f"        fix: {problem['fix']}")


def _new(results: bool) -> str:
    return ", in a new results directory (--results names another)" if results else ""


def _last_trials(search: dict[str, Any]) -> str:
    """Say which trials may follow the iterations, before any finalists."""
    if not search["recommended"]:
        return ""
    if search["recommended"] == 1:
        return ", plus a trial of the recommended allocation if it has not been tried"
    return (
        f", plus up to {search['recommended']} trials that compare the recommended allocation "
        "with its rivals"
    )


def _search_plan(document: dict[str, Any]) -> None:
    search = document["search"]
    examples = document["task"]["examples"] or "all"
    cluster, task = document["cluster"], document["task"]
    where = f" on {cluster['name']} ({cluster['kind']}): "
    what = f"{task['name']}, {examples} examples, score {task['main_metric']}"
    say(Text.assemble((document["run"], "bold"), where, what))
    say(
        f"{search['method']}: budget {search['budget']:.10g} units an example (the "
        f"cheapest allocation costs {_units(search['least_budget'])}), "
        f"{search['initial_trials']} initial trials + {search['iterations']} x "
        f"{search['batch_size']} "
        f"= {search['trials_at_most']} at most{_last_trials(search)}"
    )
    if part := search["examples"]:
        again = (
            f"; good allocations are scored again, on {part['first']} further ones at a time, "
            f"up to {part['most'] or 'all'}"
        )
        say(
            f"each new trial is scored on {part['first']} of the examples"
            + ("" if part["first"] == part["most"] else again)
        )
    if search["first"]:
        say(f"tried first, as given: {'; '.join(search['first'])}")
    say(
        f"seed {search['seed']}: draws the examples and samples; in the search it decides "
        f"{search['seed_role']}"
    )


def _units(budget: float) -> str:
    return f"{budget:.0f}" if budget >= 100 else f"{budget:.3g}"


def _models_plan(document: dict[str, Any]) -> None:
    table = _table(
        "stage", "model", "params", "budget of 1 sample", "most samples", "GPUs", "reason for GPUs"
    )
    for stage in document["stages"]:
        for model in stage["models"]:
            table.add_row(
                stage["stage"],
                model["model"],
                f"{model['params']:.3g}",
                _units(model["unit_budget"]),
                str(model["samples_within_budget"]),
                str(model["gpus"]),
                document["resources"]["gpus"][model["model"]],
            )
    console.print(table)
    search = document["search"]
    for key, what in (("finalists", "examples of the search split"), ("test", "held-out examples")):
        if search[key]:
            say(
                f"then ({key}): the best {search[key]['allocations']} on "
                f"{search[key]['examples']} {what}"
            )
    for name, model in document["models"].items():
        thinking = model["thinking"]
        if thinking is None:
            say(f"{name}: thinking is not removed from its replies")
        elif thinking["known"]:
            pairs = zip(thinking["starts"], thinking["ends"], strict=False)
            markers = ", ".join(f"{start} … {end}" for start, end in pairs)
            say(f"{name}: thinking is removed from its replies: {markers}")
    agent = document["agent"]
    if agent:
        served = f", {agent['gpus']} GPUs ({agent['why']})" if "gpus" in agent else ""
        say(f"agent: {agent['kind']} {agent['model']}, at most {agent['max_calls']} calls{served}")


def _jobs_plan(document: dict[str, Any]) -> None:
    for kind in ("controller", "trial"):
        asked = ", ".join(f"{k}={v}" for k, v in document["resources"][kind].items())
        say(f"{kind} job: {asked}")
    if document["forecast"]:
        forecast(document["forecast"])
    image = document["container"]
    say(f"container: {image['runtime']} {image['image']}" if image else "container: none")
    if document["cluster"]["nodes"]:
        say(f"nodes: {document['cluster']['nodes']}")


def forecast(document: dict[str, Any]) -> None:
    """Show what a search is expected to cost, and what was assumed."""
    hours = 1 / 3600
    gpus = document["gpu_seconds"]["high"] > 0
    parts = [
        f"{_span(document['gpu_seconds'], hours)} GPU-hours" if gpus else "",
        f"{_span(document['wall_seconds'], hours)} h from the first trial to the last",
        f"{_span(document['engine_starts'])} engine starts",
        f"{_span(document['jobs'])} jobs",
    ]
    say(f"expected: {', '.join(part for part in parts if part)}")
    if gpus:
        alone = _span(document["one_trial_a_job"], hours)
        say(f"  with one trial a job: {alone} GPU-hours")
    say(f"  assumed: {'; '.join(document['assumptions'])}")


def _span(span: Mapping[str, float], factor: float = 1.0) -> str:
    low, high = (two_digits(span[key] * factor) for key in ("low", "high"))
    return low if low == high else f"{low} to {high}"


def exported(document: dict[str, Any]) -> None:
    """``export``: show what was written where."""
    for item in document["written"]:
        say(f"{item['path']}: {item['count']} {item['unit']} ({item['form']})")


def drafted(document: dict[str, Any]) -> None:
    """``init``: show what was written, what was found, and what to do next."""
    for path in document["written"]:
        say(f"wrote {path}")
    for path in document["kept"]:
        say(f"{path} exists and is used")
    for note in document["notes"]:
        say(f"- {note}")
    say("next:")
    for command in document["next"]:
        say(f"  {command}")


def line(text: str) -> None:
    """Print a line while a command waits."""
    say(text)


def log_line(text: str) -> None:
    """Print a line of a log without control characters."""
    print(without_controls(text))


def silence(text: str) -> None:
    """Print nothing. It replaces `line` if only a JSON document may be printed."""


def runs(document: dict[str, Any]) -> None:
    """``list``: show a line for each run, then details of some runs."""
    if not document["runs"]:
        say(
            f"no runs in {document['results']}; 'agenttts-hpc launch SPEC' starts one, and "
            "--results names another directory"
        )
        return
    table = _table("run", "state", "iteration", "trials", "best", "GPU-hours", "last activity")
    wide = console.width >= _WIDE
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
            _score(best["score"]) if best else "-",
            f"{run['gpu_hours']:.1f}",
            _ago(run["active"]),
            *([choices_text(best["allocation"]) if best else "-"] if wide else []),
        )
    console.print(table)
    for run in document["runs"]:
        if run["detail"]:
            say(f"{run['run']}: {run['detail']}")


def doctor(document: dict[str, Any]) -> None:
    """``doctor``: show each check in one line, and its fix in another.

    The checks of this machine come first. The checks of each other place have a heading.
    """
    places = {check["where"] for check in document["checks"]}
    last = "here"
    for check in document["checks"]:
        if len(places) > 1 and check["where"] != last:
            last = check["where"]
            say(f"{last}:")
        mark, style = _MARKS[check["ok"]]
        say(Text.assemble((f"{mark:7}", style), f" {check['what']}: {check['detail']}"))
        if check["fix"]:
            say(f"        fix: {check['fix']}")


def record(document: dict[str, Any]) -> None:
    """Show a flat document, one line for each key."""
    for key, value in document.items():
        say(f"{key}: {value!s}")


def trace(frame: pl.DataFrame) -> None:
    """``replay`` without ``--out``: show the trace as a table."""
    table = _table("step", "allocation", "budget", "score", "best so far", "source")
    for row in frame.iter_rows(named=True):
        table.add_row(
            str(row["step"]),
            " → ".join(f"{c['model']}×{c['samples']}" for c in row["allocation"]),
            _units(row["budget"]),
            _score(row["score"]),
            _score(row["best_so_far"]),
            row["source"],
        )
    console.print(table)


def _ago(moment: str) -> str:
    """Return how long ago a moment (ISO 8601) was."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


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
    if document["recommended"]:
        parts.append(
            Text(
                f"recommended: {choices_text(document['recommended'])} (highest expected score"
                f"{untried}). 'best' above is the highest measured score."
            )
        )
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
                f"agent {agent['model']}: {agent['calls']} calls, "
                f"{sum(agent['failed'].values())} failed; "
                f"proposals: {decisions or 'none'}; {len(agent['fallbacks'])} batches without it"
            )
        )
    if document["jobs"]:
        table = _table("trial", "job", "state", "allocation", box=None)
        for job in document["jobs"]:
            state = f"{job['state']} {job['reason']}".strip()
            table.add_row(job["trial"], job["job_id"], state, job["allocation"])
        parts.append(table)
    return parts


def _cost_lines(cost: dict[str, Any]) -> str:
    """Return two lines: what a run used so far, and for what."""
    from agenttts.report.contents import duration, number, share

    on_gpus = cost["gpu_seconds"] > 0
    by_part = cost["gpu_seconds_by"] if on_gpus else cost["seconds"]
    parts = {part: seconds for part, seconds in by_part.items() if part != "queue"}
    used = sum(parts.values())
    shares = ", ".join(f"{part} {share(s / used)}" for part, s in parts.items() if used)
    tokens, queued = cost["tokens"], duration(cost["seconds"]["queue"])
    return (
        f"cost: {f'{number(used / 3600)} GPU-hours' if on_gpus else f'{duration(used)} of jobs'}, "
        f"{cost['engine_starts']} engine starts, {tokens['computed']:,} tokens computed, "
        f"{tokens['reused']:,} reused\n"
        f"time of jobs: {shares or 'none yet'}; waited in the queue before that: {queued}"
    )
