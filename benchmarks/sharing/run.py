"""What trials of one iteration save by sharing the drawing of the samples that they all need,
against each for itself.

    python benchmarks/sharing/run.py [--trials 8] [--samples 20 40 80] [--apart 0]
    [--seconds-per-sample 0.001] python benchmarks/sharing/run.py --model
    .cache/models/smollm2-135m-instruct --examples 16 --samples 2 4 --trials 2

Trials that begin alike and differ in their counts start at the same moment, as an array on a free
cluster does, or so many seconds apart; each is the program that a job runs. Both ways run in turn,
each with an empty sample store. By default the models are the scripted engine, which sleeps a while
a sample, so that one core can be many GPUs at once: what a call costs besides is not in its
seconds. Writes a table to standard output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from agenttts import tasks
from agenttts.files.atomic import atomic_write_json
from agenttts.inference.base import ModelConfig
from agenttts.loop.job_builder import sample_partitions
from agenttts.run.progress import PlannedTrial
from agenttts.space import Allocation, Choice
from agenttts.tasks.base import TaskConfig
from agenttts.trial.result import read_result
from agenttts.trial.spec import SPEC_FILE, TrialSpec


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--samples", type=int, nargs="+", default=[20, 40, 80])
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--seconds-per-sample", type=float, default=0.001)
    parser.add_argument("--apart", type=float, default=0.0, help="seconds between two starts")
    parser.add_argument("--model", type=Path, help="a model's directory, run by vLLM")
    arguments = parser.parse_args()
    alone, shared = (measure(arguments, sharing) for sharing in (False, True))
    if alone["scores"] != shared["scores"]:
        print(f"the scores differ: {alone['scores']} and {shared['scores']}")
    print("|  | each for itself | shared | ratio |\n|---|--:|--:|--:|")
    for name in (
        "samples drawn",
        "of them distinct",
        "tokens computed",
        "generating, s",
        "wall, s",
    ):
        a, b = alone[name], shared[name]
        print(f"| {name} | {a:.0f} | {b:.0f} | {b / a:.2f} |")


def measure(arguments: argparse.Namespace, sharing: bool) -> dict[str, Any]:
    """Run the trials at once and add up what they did."""
    with tempfile.TemporaryDirectory() as folder:
        specs = written(Path(folder), arguments, sharing)
        started = time.monotonic()
        processes = []
        for spec in specs:
            command = [
                sys.executable,
                "-m",
                "agenttts.trial",
                str(Path(spec.directory) / SPEC_FILE),
            ]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            time.sleep(arguments.apart)
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit("a trial failed")
        wall = time.monotonic() - started
        outputs = [read_result(Path(spec.directory)) for spec in specs]
        drawn = pl.read_parquet(Path(folder) / "samples" / "*.parquet", columns=["key", "index"])
        whole = [output for output in outputs if output is not None]
        return {
            "samples drawn": drawn.height,
            "of them distinct": drawn.n_unique(),
            "tokens computed": sum(
                o.decode_tokens + o.prompt_tokens - o.reused_tokens for o in whole
            ),
            "generating, s": sum(o.seconds["generate"] for o in whole),
            "wall, s": wall,
            "scores": [o.score for o in whole],
        }


def written(folder: Path, arguments: argparse.Namespace, sharing: bool) -> list[TrialSpec]:
    """The trials' specs, on disk."""
    script = folder / "model.json"
    words = "Ada Bo Cy Di Ed Flo Gus Hal Ivy Jo".split()
    script.write_text(
        json.dumps(
            {"default": "", "rules": [{"contains": [], "replies": [{"text": w} for w in words]}]}
        )
    )
    model = (
        ModelConfig("m", str(arguments.model.resolve()), gpus=0)
        if arguments.model
        else ModelConfig(
            "m",
            str(script),
            engine="scripted",
            gpus=0,
            options={"seconds_per_sample": arguments.seconds_per_sample},
        )
    )
    examples = folder / "examples.jsonl"
    loaded = tasks.create("retrieval_qa").load(TaskConfig("", "search", arguments.examples, seed=1))
    examples.write_text("".join(json.dumps({"id": e.id, "data": e.data}) + "\n" for e in loaded))
    planned = []
    for number in range(arguments.trials):
        count = arguments.samples[number % len(arguments.samples)]
        allocation = Allocation(
            (Choice("retrieval", "m", count), Choice("answer", "m", 1 + number))
        )
        planned.append(PlannedTrial(f"t{number:04}", 1, allocation, "insight", "", 1.0))
    specs = []
    for trial in planned:
        directory = folder / trial.trial
        directory.mkdir()
        spec = TrialSpec(
            run="sharing",
            trial=trial.trial,
            allocation=trial.allocation,
            task="retrieval_qa",
            examples=str(examples),
            seed=1,
            decode_tokens={"retrieval": 32, "answer": 16},
            models={"m": model},
            directory=str(directory),
            samples=str(folder / "samples"),
        )
        if sharing:
            partitions = sample_partitions(trial, [[other] for other in planned], len(planned))
            spec = replace(spec, shares=partitions)
        atomic_write_json(directory / SPEC_FILE, spec.to_json())
        specs.append(spec)
    return specs


if __name__ == "__main__":
    main()
