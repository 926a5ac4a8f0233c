"""Format the plan of a launch or an extension for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from agenttts.cli.output import new_table, say, units_text
from agenttts.cli.status_texts import two_digits
from agenttts.errors import counted


def plan(document: dict[str, Any]) -> None:
    """``launch --dry-run``: show what would be done."""
    _plan(document)
    say(f"the run would be in {document['path']}{_new(document['new_results'])}")
    say(_NOTHING_DONE)


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


def _without_iterations(changes: Mapping[str, list[Any]], iterations: int) -> None:
    """Say which changed limits are for proposals, if there are no more proposals."""
    for_proposals = ("search.budget", "search.examples.", "stages.")
    unused = [key for key in changes if key.startswith(for_proposals)]
    if unused and not iterations and "search.iterations" not in changes:
        say(
            f"note: no iteration of the search is left, so no trial is proposed with the new "
            f"{' and '.join(unused)}; raise search.iterations too"
        )


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
            f"data: {source['source']}: {counted(source['records'], 'record')}{under}"
            + (left if source["skipped"] else ""),
            *(f"  skipped: {reason}" for reason in source["reasons"]),
            *(f"  {note}" for note in source["notes"]),
        ]
        more = source["skipped"] - len(source["reasons"])
        lines += [f"  and {more} more"] if more else []
        for line in lines:
            say(line)


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
    what = f"{task['name']}, {counted(examples, 'example')}, score {task['main_metric']}"
    say(Text.assemble((document["run"], "bold"), where, what))
    say(
        f"{search['method']}: budget {search['budget']:.10g} units an example (the "
        f"cheapest allocation costs {units_text(search['least_budget'])}), "
        f"{counted(search['initial_trials'], 'initial trial')} + {search['iterations']} x "
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


def _models_plan(document: dict[str, Any]) -> None:
    table = new_table(
        "stage", "model", "params", "budget of 1 sample", "most samples", "GPUs", "reason for GPUs"
    )
    for stage in document["stages"]:
        for model in stage["models"]:
            table.add_row(
                stage["stage"],
                model["model"],
                f"{model['params']:.3g}",
                units_text(model["unit_budget"]),
                str(model["samples_within_budget"]),
                str(model["gpus"]),
                document["resources"]["gpus"][model["model"]],
            )
    say(table)
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
        served = f", {counted(agent['gpus'], 'GPU')} ({agent['why']})" if "gpus" in agent else ""
        calls = counted(agent["max_calls"], "call")
        say(f"agent: {agent['kind']} {agent['model']}, at most {calls}{served}")


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
        counted(_span(document["engine_starts"]), "engine start"),
        counted(_span(document["jobs"]), "job"),
    ]
    say(f"expected: {', '.join(part for part in parts if part)}")
    if gpus:
        alone = _span(document["one_trial_a_job"], hours)
        say(f"  with one trial a job: {alone} GPU-hours")
    say(f"  assumed: {'; '.join(document['assumptions'])}")


def _span(span: Mapping[str, float], factor: float = 1.0) -> str:
    low, high = (two_digits(span[key] * factor) for key in ("low", "high"))
    return low if low == high else f"{low} to {high}"
