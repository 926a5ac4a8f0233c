"""The commands that start, change or stop a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from agenttts.cli.options import (
    Cluster,
    Json,
    Overrides,
    Results,
    Run,
    Wait,
    print_document,
    profile_folders,
)
from agenttts.errors import UserError


def launch(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A job spec, e.g. jobs/demo.yaml.")],
    cluster: Cluster = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the spec's.")] = None,
    results: Results = Path("results"),
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan and what this machine lacks; do nothing."),
    ] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Check SPEC and start its run.

    If a run of the same spec exists, it is continued. If it is over (done), nothing is started:
    extend searches further, and another --name makes another run.
    """
    from agenttts.cli import show_plan
    from agenttts.launch.description import describe_plan
    from agenttts.launch.plan import make_plan
    from agenttts.spec import load_spec

    settings = _settings(overrides, cluster, name)
    plan = make_plan(load_spec(spec, settings), profile_folders(spec), results, dry_run=dry_run)
    if dry_run:
        print_document(describe_plan(plan), as_json, show_plan.plan)
        return
    _launch(plan, wait, as_json)


def _settings(overrides: list[str] | None, cluster: str | None, name: str | None) -> list[str]:
    """Return the values of --set, and those of --cluster and --name in the same form."""
    from agenttts.spec.paths import check_characters

    settings = [*(overrides or [])]
    if cluster:
        check_characters(cluster, "--cluster")
        settings.append(f"cluster={_quoted(cluster)}")
    if name:
        settings.append(f"name={_quoted(name)}")
    return settings


def _quoted(text: str) -> str:
    """Return a text as a YAML scalar on one line."""
    text = text.encode("utf-8", "backslashreplace").decode()
    # JSON has other escapes for characters above U+FFFF, which YAML refuses.
    kept = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(kept)}"'


def _launch(plan: Any, wait: bool, as_json: bool) -> Any:
    """Launch the run of a plan, or continue it; return its directory."""
    from agenttts.cli import show
    from agenttts.launch.launch import launch as launch_run
    from agenttts.run.directory import in_use

    profile_outcomes: list[Any] = []

    def profile_differs(outcome: Any) -> None:
        profile_outcomes.append(outcome)
        if not as_json:
            show.profile_taken(outcome)

    known = plan.experiment.results.exists()
    run, created = launch_run(plan, profile_differs)
    place = {"created": created, "new_results": not known}
    with in_use(run):
        _after_launch(run, place, plan, wait, as_json, profile_outcomes)
    return run


def evaluate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A job spec, e.g. jobs/demo.yaml.")],
    allocation: Annotated[
        str,
        typer.Option(
            "--allocation",
            metavar="STAGE=MODEL xSAMPLES,...",
            help="E.g. 'retrieval=qwen-7b x8, answer=llama-3b x4'.",
        ),
    ],
    examples: Annotated[
        int | None,
        typer.Option("--examples", min=1, help="Number of examples; default: the spec's."),
    ] = None,
    cluster: Cluster = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    results: Results = Path("results"),
    overrides: Overrides = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Evaluate one allocation of SPEC, as a run of its own without a search."""
    from agenttts.cli import show
    from agenttts.launch.evaluation import evaluation_spec
    from agenttts.launch.plan import make_plan
    from agenttts.loop.reports import report_of
    from agenttts.spec import load_spec

    settings = _settings(overrides, cluster, name)
    one = evaluation_spec(
        load_spec(spec, settings), allocation, examples=examples, named=name is not None
    )
    run = _launch(make_plan(one, profile_folders(spec), results), wait, as_json)
    if wait and not as_json:
        show.evaluated(report_of([run]).runs[0])


def _after_launch(
    run: Any,
    place: dict[str, bool],
    plan: Any,
    wait: bool,
    as_json: bool,
    profile_outcomes: Sequence[Any],
) -> None:
    """Print what was launched, or follow it to its end."""
    from agenttts.cli import show, show_plan, show_status, watch
    from agenttts.status.run_status import check_outcome, run_status

    plan_facts: dict[str, Any] = {
        **place,
        "nodes": plan.nodes,
        "skip_bad": plan.experiment.spec.task.skip_bad,
        "data": plan.examples.report.to_json(),
        **({"profile": vars(profile_outcomes[-1])} if profile_outcomes else {}),
    }
    if not wait and not plan.experiment.scheduler.runs_in_this_process:
        print_document({**run_status(run), **plan_facts}, as_json, show.launched)
        return
    if not as_json:
        show_plan.data_surprises(plan_facts["data"], plan_facts["skip_bad"])
    watch.progress(run, quiet=as_json, keep=True)
    if as_json:
        print_document({**run_status(run), **plan_facts}, as_json, show_status.status)
    check_outcome(run)


def resume(
    run: Run,
    results: Results = Path("results"),
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="NAME|FILE",
            help="Take this corrected profile; what changes is shown.",
        ),
    ] = None,
    wait: Wait = False,
    again: Annotated[
        bool, typer.Option("--retry-failed", help="Try every trial without a score again.")
    ] = False,
    from_tables: Annotated[
        bool,
        typer.Option(
            "--from-tables",
            help="Make a new journal from the old one, the trials' files and the table of trials.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the controller of a run again; finished trials are kept and not repeated.

    A run that is over (done) is left as it is, unless --retry-failed finds trials to try again.
    """
    from agenttts.cli import show, show_status, watch
    from agenttts.dispatch.schedulers import load_completed_profile
    from agenttts.launch.launch import correct_profile, repair
    from agenttts.launch.launch import resume as resume_run
    from agenttts.launch.profile_change import edited_profile
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import check_outcome, run_status

    directory = find_run(run, results)
    with in_use(directory):
        folders = [*profile_folders(None), directory.path.parent.parent]
        profile = load_completed_profile(cluster, folders) if cluster else None
        rebuilt, _ = repair(directory, from_tables=from_tables)
        taken = None
        if cluster and profile is not None:
            taken = correct_profile(directory, cluster, profile, retry=again)
        _, retried = repair(directory, retry=again)
        if not as_json:
            show.repaired(rebuilt, retried if again else None)
            show.profile_taken(taken)
            if cluster is None:
                show.profile_edited(edited_profile(directory, folders), directory)
        resume_run(directory)
        if wait:
            watch.progress(directory, quiet=as_json)
        done: dict[str, Any] = {"rebuilt": vars(rebuilt)} if rebuilt else {}
        done |= {"retried": retried} if again else {}
        done |= {"profile": vars(taken)} if taken else {}
        print_document({**run_status(directory), **done}, as_json, show_status.status)
        if wait:
            check_outcome(directory)


def extend(
    run: Run,
    results: Results = Path("results"),
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY.PATH=VALUE", help="A wider limit, e.g. search.iterations=8."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change and the plan; do nothing.")
    ] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Continue the search of a run with wider limits, e.g. more iterations.

    Trials and samples are kept. The finalists and the final test run again at the new end.
    """
    from agenttts.cli import show_plan, show_status, watch
    from agenttts.launch.description import describe_extension
    from agenttts.launch.extension import planned_extension
    from agenttts.launch.launch import extend as extend_run
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import check_outcome, iterations_to_come, run_status

    if not overrides:
        raise UserError("extend: what is to change? E.g. --set search.iterations=8")
    directory = find_run(run, results)
    with in_use(directory):
        if dry_run:
            planned = planned_extension(directory.read(), overrides, dry_run=True)
            shown = partial(show_plan.extension_plan, iterations=iterations_to_come(directory))
            print_document(describe_extension(planned), as_json, shown)
            return
        iterations = iterations_to_come(directory)
        outcome = extend_run(directory, overrides)
        if not as_json:
            show_plan.extended(outcome.changes, iterations)
        if wait:
            watch.progress(directory, quiet=as_json)
        done = {**run_status(directory), "extended": outcome.changes}
        print_document(done, as_json, show_status.status)
        if wait:
            check_outcome(directory)


def finish(
    run: Run,
    results: Results = Path("results"),
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """End a search early: propose no more trials, then run finalists and final test.

    Proposed trials still run to their end. The controller of a stopped run is started again.
    """
    from agenttts.cli import show, show_status, watch
    from agenttts.launch.finish import finish as finish_run
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import check_outcome, run_status

    directory = find_run(run, results)
    with in_use(directory):
        ends = finish_run(directory)
        if not as_json:
            show.finish(directory, ends)
        if wait:
            watch.progress(directory, quiet=as_json)
        print_document(run_status(directory), as_json, show_status.status)
        if wait:
            check_outcome(directory)


def cancel(run: Run, results: Results = Path("results"), as_json: Json = False) -> None:
    """Stop a run's controller and jobs; finished trials are kept."""
    from agenttts.cli import show_status
    from agenttts.launch.launch import cancel as cancel_run
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import run_status

    directory = find_run(run, results)
    with in_use(directory):
        cancel_run(directory)
        print_document(run_status(directory), as_json, show_status.status)
