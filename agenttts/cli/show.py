"""Format what commands did for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from agenttts.cli.output import new_table, say, score_text, units_text
from agenttts.cli.show_plan import data_surprises
from agenttts.cli.status_texts import where_to_look
from agenttts.errors import cli_command, counted

if TYPE_CHECKING:
    import polars as pl

    from agenttts.launch.differences import Differences
    from agenttts.launch.profile_change import ProfileOutcome
    from agenttts.launch.rebuild import Rebuilt
    from agenttts.report.summary import RunReport
    from agenttts.run.directory import RunDirectory

_MARKS = {True: ("ok", "green"), False: ("missing", "red"), None: ("note", "yellow")}


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
    interval = "" if run.interval is None else "95% interval "
    task = run.settings["task"]["name"]
    tokens = (row["prompt_tokens"] + row["decode_tokens"]) / row["examples"]
    say(
        f"{allocation_text(row['allocation'])}: score {score_text(row['score'], run.interval)} "
        f"({interval}over {counted(row['examples'], 'example')} of {task}), budget "
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
            files = counted(part["files"], "file")
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
    asked = {
        "trials of the best allocations on common examples": search.examples,
        "the finalists": search.finalists,
        "the final test": search.test_split,
    }
    after = ", then ".join(name for name, section in asked.items() if section is not None)
    say(
        "no further iteration is proposed; the trials that have been proposed still run"
        + (f", and after them {after}" if after else "")
    )


def _names(trials: list[str]) -> str:
    """Return the number of trials and their names; of many, only some names."""
    if not trials:
        return "no trial"
    more = f", … {trials[-1]}" if len(trials) > 6 else ""
    shown = ", ".join(trials[:5] if more else trials)
    return f"{counted(len(trials), 'trial')} ({shown}{more})"


def exported(document: dict[str, Any]) -> None:
    """``export``: show what was written where."""
    for item in document["written"]:
        written = counted(item["count"], item["unit"].removesuffix("s"))
        form = "" if item["form"] == item["unit"] else f" ({item['form']})"
        say(f"{item['path']}: {written}{form}")


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
    table = new_table("step", "allocation", "budget", "score", "best so far", "source")
    for row in frame.iter_rows(named=True):
        table.add_row(
            str(row["step"]),
            " → ".join(f"{c['model']}×{c['samples']}" for c in row["allocation"]),
            units_text(row["budget"]),
            score_text(row["score"]),
            score_text(row["best_so_far"]),
            row["source"],
        )
    say(table)
