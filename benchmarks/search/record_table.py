"""Record a replay table with real small LLMs, by the project's own trial code: a spec's whole grid,
whatever it costs.

    python benchmarks/search/record_table.py [SPEC] [--work .cache/record]

SPEC is a job spec with explicit sample counts whose models are on this machine (`make models`). All
trials share one sample store and one process a model, so k samples are a prefix of more; the
largest counts run first and the others mostly reuse them. Finished trials are kept under --work:
stopped and started again, it goes on with the missing ones. Writes NAME.parquet beside SPEC, for
`agenttts-hpc replay` and for run.py.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import polars as pl

from agenttts import tasks
from agenttts.files.atomic import atomic_write_json, atomic_write_parquet
from agenttts.inference.base import ModelConfig
from agenttts.inference.sampler import Sampler
from agenttts.inference.store import SampleStore
from agenttts.run.models import find_facts, model_configs
from agenttts.spec import JobSpec, load_spec
from agenttts.tasks.base import TaskConfig
from agenttts.trial.result import TrialOutput, read_result
from agenttts.trial.run import evaluate_alone
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
    store = SampleStore(work / "samples", writer=f"record-{time.time_ns()}")
    sampler = Sampler(store, models_of(spec), spec.search.seed)
    rows: list[dict[str, object]] = []
    try:
        for number, trial in enumerate(trials, 1):
            started = time.monotonic()
            output = read_result(Path(trial.directory)) or run(trial, sampler)
            rows.append(table_row(trial, output))
            seconds = time.monotonic() - started
            print(
                f"{number}/{len(trials)} {trial.allocation}: {output.score:.3f} ({seconds:.0f} s)",
                flush=True,
            )
    finally:
        sampler.close()
    out = arguments.out or arguments.spec.with_suffix(".parquet")
    atomic_write_parquet(out, pl.DataFrame(rows))
    print(f"{out}: {len(rows)} rows")


def models_of(spec: JobSpec) -> dict[str, ModelConfig]:
    """The spec's models, on one GPU each, as their files are now."""
    return model_configs(spec, dict.fromkeys(spec.models, 1), find_facts(spec))


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
    frozen.write_text(
        "".join(json.dumps({"id": e.id, "data": e.data}) + "\n" for e in examples), encoding="utf-8"
    )
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


def run(trial: TrialSpec, sampler: Sampler) -> TrialOutput:
    """Evaluate one allocation; its result is stored before the next begins."""
    directory = Path(trial.directory)
    directory.mkdir(parents=True, exist_ok=True)
    atomic_write_json(directory / SPEC_FILE, trial.to_json())
    return evaluate_alone(trial, sampler)


def table_row(trial: TrialSpec, output: TrialOutput) -> dict[str, object]:
    """A row of a replay table: choices, score, the stages' metrics."""
    row: dict[str, object] = {}
    for choice in trial.allocation.choices:
        row[f"{choice.stage}.model"] = choice.model
        row[f"{choice.stage}.samples"] = choice.samples
    return row | {"score": output.score} | dict(output.metrics)


if __name__ == "__main__":
    main()
