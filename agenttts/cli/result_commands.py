"""The commands that show, compare, write to files or remove what runs have made."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import Json, Results, Run, Runs, print_document
from agenttts.errors import UserError, counted


class Compared(StrEnum):
    """The allocation of each run that ``compare`` takes."""

    recommended = "recommended"
    best = "best"
    baseline = "baseline"


class ReportFormat(StrEnum):
    """The formats of ``report``."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"
    html = "html"


def status(
    run: Run,
    results: Results = Path("results"),
    follow: Annotated[bool, typer.Option("--watch", help="Follow until the run is over.")] = False,
    as_json: Json = False,
) -> None:
    """Show iteration, trials by state, the best so far and the running jobs of a run."""
    from agenttts.cli import show_status, watch
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import run_status

    directory = find_run(run, results)
    with in_use(directory):
        if follow:
            watch.progress(directory, quiet=as_json)
        print_document(run_status(directory), as_json, show_status.status)


def list_(results: Results = Path("results"), as_json: Json = False) -> None:
    """Show all runs: state, iteration, trials, best score, GPU-hours."""
    from agenttts.cli import show_status
    from agenttts.status.listed_runs import list_runs

    print_document(list_runs(results), as_json, show_status.runs)


def logs(
    run: Run,
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="A trial, such as t0003 or 3.")
    ] = None,
    results: Results = Path("results"),
    lines: Annotated[int, typer.Option("--lines", min=1, help="Lines of the log.")] = 40,
    whole: Annotated[
        bool, typer.Option("--all", help="The whole log, with the engine's own lines.")
    ] = False,
) -> None:
    """Show the important lines of the controller's log, or of one trial's log."""
    from agenttts.cli import output
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.logs import run_log, trial_log

    directory = find_run(run, results)
    shown = None if whole else lines
    with in_use(directory):
        text = run_log(directory, shown) if trial is None else trial_log(directory, trial, shown)
        for line in text:
            output.log_line(line)


def report(
    runs: Runs,
    results: Results = Path("results"),
    form: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format", help="The format. Default: by the ending of --out; without --out, a table."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write to a file: .html, .csv, .parquet, .json.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures",
            metavar="DIR",
            help="Write every figure of the page as SVG, PNG and PDF too.",
        ),
    ] = None,
) -> None:
    """Show the best allocation, best-so-far and Pareto fronts of runs.

    The Pareto fronts are of score against budget, tokens and GPU-seconds.
    """
    from agenttts.loop.reports import report_of
    from agenttts.report import format_of, render
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run

    wanted = format_of(out) if form is None else form.value
    directories = [find_run(run, results) for run in runs]
    if out is not None:
        for directory in directories:
            directory.check_not_own("--out", out)
    with in_use(*directories):
        built = report_of(directories, page=wanted == "html" or figures is not None)
    render(built, wanted, out)
    if figures is not None:
        from agenttts.report.figures.files import write_figures  # imports Altair

        written = write_figures(built, figures)
        typer.echo(f"{counted(len(written), 'file')} of figures written to {figures}", err=True)


def export(
    run: Run,
    results: Results = Path("results"),
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="All samples with their prompts, a line each; replaces FILE."
        ),
    ] = None,
    optuna: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An Optuna study: .db for SQLite, else a journal file."),
    ] = None,
    wandb: Annotated[
        Path | None, typer.Option(metavar="DIR", help="An offline run of Weights & Biases.")
    ] = None,
    mlflow: Annotated[
        Path | None,
        typer.Option(metavar="FILE.db", help="MLflow's SQLite file: a run for each trial."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's samples, or its table for other trackers, to files."""
    from agenttts.cli import show
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.export import export as export_run

    given = {"samples": samples, "optuna": optuna, "wandb": wandb, "mlflow": mlflow}
    directory = find_run(run, results)
    with in_use(directory):
        written = export_run(directory, {form: path for form, path in given.items() if path})
    print_document({"run": directory.name, "written": written}, as_json, show.exported)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN", help="Two runs.")],
    results: Results = Path("results"),
    of: Annotated[
        Compared, typer.Option("--of", help="The allocation of each run that is compared.")
    ] = Compared.recommended,
    as_json: Json = False,
) -> None:
    """Compare an allocation of one run with that of another run.

    Scores are compared example by example if the two trials have enough common examples, otherwise
    by their means. The verdict is "better", "worse" or "not to be told apart". The last one means
    that there is no clear difference.
    """
    if len(runs) != 2:
        raise UserError(
            f"compare takes two runs, not {len(runs)} ({', '.join(runs)}); for a table of several "
            "runs: 'agenttts-hpc report RUN...'"
        )
    from agenttts.cli.comparison import comparison
    from agenttts.loop.compare_runs import compare_runs
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run

    first, second = (find_run(run, results) for run in runs)
    with in_use(first, second):
        document = compare_runs(first, second, of.value)
    print_document(document, as_json, comparison)


def clean(
    runs: Runs,
    results: Results = Path("results"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove the files.")] = False,
    as_json: Json = False,
) -> None:
    """List files that finished runs no longer need, with sizes; --yes removes them.

    These are samples, logs, compiled code, batch files. Reports, compare and replay still work.
    """
    from agenttts.cli import show
    from agenttts.launch.clean import clean as clean_run
    from agenttts.launch.clean import planned_cleaning
    from agenttts.launch.description import describe_cleanings
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run

    directories = list(dict.fromkeys(find_run(run, results) for run in runs))
    with in_use(*directories):
        # All are checked before anything is removed.
        cleanings = [planned_cleaning(directory) for directory in directories]
        if yes:
            cleanings = [clean_run(directory) for directory in directories]
        print_document(describe_cleanings(cleanings, removed=yes), as_json, show.cleaned)
