"""The command that runs a search method on recorded results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from agenttts.errors import UserError

_LAST_BATCH = "the smaller last batch (--trials)"


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
    # Wrong options are an error before the table is read. The searcher itself may refuse a large
    # space, so it is made with the space of the table.
    search.check_options(spec, searcher)
    if out is not None:
        check_out(out, (table, space))
    recorded = load_table(table, feasible)
    if trials is None and evaluations is None:
        trials = 50
    given = {
        "--seed": seed,
        "--batch": batch,
        # A longer replay does not ask its question.
        _LAST_BATCH: trials if trials is not None and trials % batch else None,
        "--examples-first": examples_first,
        "--examples-most": examples_most,
        "--stored": stored,
    }
    until = {_LAST_BATCH: math.inf if trials is None else trials}
    session = session_for_replay(spec, searcher, recorded, out, given, until)
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
            "the score of the nearest recorded one with the same models, or no score if no "
            "recorded one has these models",
            err=True,
        )
    typer.echo(f"seed {seed} decides {search.seed_role(method, llm=session is not None)}", err=True)
