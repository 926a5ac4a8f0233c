"""Record a replay table with real small LLMs, by the project's own trial code: a spec's whole grid,
whatever it costs.

    python benchmarks/search/record_table.py [SPEC] [--work .cache/record]

SPEC is a job spec with explicit sample counts whose models are on this machine (`make models`). All
trials share one sample store, so k samples are a prefix of more. They advance side by side: the
union of the samples that they need of a model in a stage is drawn in one go. Samples and finished
trials are kept under --work: stopped and started again, it goes on with the missing ones. Writes
NAME.parquet beside SPEC, for `agenttts-hpc replay` and for run.py. The column ``examples`` has the
scores by example, in the same order in all rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from agenttts import tasks
from agenttts.files.atomic import atomic_write_json
from agenttts.files.table_files import atomic_write_parquet
from agenttts.inference.base import ModelConfig
from agenttts.inference.engine_process import create_engine
from agenttts.run.models import find_facts, model_configs
from agenttts.spec import JobSpec, load_spec
from agenttts.tables.example_scores import example_scores
from agenttts.tasks.base import TaskConfig
from agenttts.trial.command import DueTrial, TrialCommand
from agenttts.trial.result import EXAMPLES_FILE, MARKER_FILE, read_result, result_problem
from agenttts.trial.run import run_trials
from agenttts.trial.spec import SPEC_FILE, TrialSpec

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", type=Path, default=HERE / "tables" / "small_llms.yaml")
    parser.add_argument("--work", type=Path, default=Path(".cache/record"))
    parser.add_argument("--examples", type=int, help="instead of the spec's number")
    parser.add_argument("--out", type=Path, help="the table; default: beside the spec")
    arguments = parser.parse_args()
    spec = load_spec(arguments.spec)
    if arguments.examples:
        task = spec.task.model_copy(update={"examples": arguments.examples})
        spec = spec.model_copy(update={"task": task})
    work = (arguments.work / spec.name).resolve()
    trials = planned(spec, work)
    evaluate(trials, work)
    rows = [table_row(trial) for trial in trials]
    out = arguments.out or arguments.spec.with_suffix(".parquet")
    atomic_write_parquet(out, pl.DataFrame(rows))
    print(f"{out}: {len(rows)} rows")


def models_of(spec: JobSpec) -> dict[str, ModelConfig]:
    """The spec's models, on one GPU each, as their files are now."""
    return model_configs(spec, dict.fromkeys(spec.models, 1), find_facts(spec, gpus_per_node=1))


def planned(spec: JobSpec, work: Path) -> list[TrialSpec]:
    """One trial an allocation of the whole grid, by models, the largest counts first."""
    (work / "samples").mkdir(parents=True, exist_ok=True)
    task = tasks.create(spec.task.name)
    examples = task.load(
        TaskConfig(
            data=spec.task.data,
            split=spec.task.split,
            examples=spec.task.examples,
            seed=spec.search.seed,
            options=spec.task.options,
        )
    )
    frozen = work / "examples.jsonl"
    lines = "".join(json.dumps({"id": e.id, "data": e.data}) + "\n" for e in examples)
    before = frozen.read_text(encoding="utf-8") if frozen.is_file() else None
    if before != lines and any(work.glob(f"trials/*/{MARKER_FILE}")):
        sys.exit(
            f"{work} has trials on other examples than the spec's; valid: another --work, or the "
            "data, split, number of examples and seed with which these were recorded"
        )
    frozen.write_text(lines, encoding="utf-8")
    # Every allocation is measured, so that the table also serves smaller and larger budgets.
    space = replace(spec.space(), budget=1e12)
    allocations = sorted(
        space.feasible(),
        key=lambda a: ([c.model for c in a.choices], [-c.samples for c in a.choices]),
    )
    models = models_of(spec)
    made = []
    for allocation in allocations:
        name = "_".join(f"{c.model}x{c.samples}" for c in allocation.choices)
        made.append(
            TrialSpec(
                run=spec.name,
                trial=name,
                allocation=allocation,
                task=spec.task.name,
                examples=str(frozen),
                seed=spec.search.seed,
                decode_tokens={n: stage.decode_tokens for n, stage in spec.stages.items()},
                models={c.model: models[c.model] for c in allocation.choices},
                directory=str(work / "trials" / name),
                samples=str(work / "samples"),
            )
        )
    return made


def evaluate(trials: Sequence[TrialSpec], work: Path) -> None:
    """Evaluate the trials that are not complete; the reasons of failures go to stderr."""
    due = []
    for trial in trials:
        directory = Path(trial.directory)
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write_json(directory / SPEC_FILE, trial.to_json())
        due.append(DueTrial(directory / SPEC_FILE))
    command = TrialCommand(tuple(due), notes=work)
    if run_trials(command, create_engine, out=sys.stdout, err=sys.stderr):
        sys.exit("a trial failed; its reason is above, and no table was written")


def table_row(trial: TrialSpec) -> dict[str, object]:
    """A row of a replay table: choices, score, its standard error and parts, the stages' metrics.

    The trials have the same frozen examples, and so the scores by example have one order.
    """
    directory = Path(trial.directory)
    output = read_result(directory)
    if output is None:
        raise RuntimeError(result_problem(directory))
    row: dict[str, object] = {}
    for choice in trial.allocation.choices:
        row[f"{choice.stage}.model"] = choice.model
        row[f"{choice.stage}.samples"] = choice.samples
    row |= {"score": output.score, "stderr": output.score_stderr}
    scores = example_scores(directory / EXAMPLES_FILE, tasks.create(trial.task).main_metric) or {}
    if len(scores) < output.examples:
        sys.exit(
            f"{trial.allocation}: only {len(scores)} of {output.examples} examples have a score"
        )
    return row | {"examples": list(scores.values())} | dict(output.metrics)


if __name__ == "__main__":
    main()
