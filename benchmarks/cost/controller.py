"""What the controller itself takes: time between iterations, CPU time a trial, memory.

    python benchmarks/cost/controller.py [--trials 50 500] [--per-job auto] [--json]

Whole searches with scripted models, whose trials take milliseconds, as processes of this machine
(`kind: local`). The searcher is `random`, so that what is measured is the dispatch of trials: the
journal, the assignment, polling, collecting, tables. Each size is measured in a process of its own,
in which the controller runs. CPU time and memory are those of this process, without its trials.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from agenttts.launch.create import create_run
from agenttts.launch.plan import make_plan
from agenttts.loop.controller_job import make_controller
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import readable_events
from agenttts.spec import load_spec

# What the controller is meant to keep within.
GAP_S, CPU_MS, MEMORY_MB = 2.0, 50.0, 300.0
BATCH = 50

SPEC = """
name: controller
task: {{name: retrieval_qa, data: "builtin:twohop", examples: 2}}
stages:
  retrieval: {{models: [weak, strong], prompt_tokens: 128, decode_tokens: 16, samples: [1, 60]}}
  answer: {{models: [weak, strong], prompt_tokens: 128, decode_tokens: 16, samples: [1, 60]}}
models:
  weak: {{path: {script}, params: 1.0e9, engine: scripted}}
  strong: {{path: {script}, params: 2.0e9, engine: scripted}}
search: {{method: random, budget: 1000000, iterations: {iterations}, batch_size: {batch}}}
cluster: {profile}
"""
PROFILE = """
kind: local
gpus_per_node: 0
max_running: 2
poll_seconds: 0.1
trials_per_job: {per_job}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--per-job", default="auto", help="trials_per_job of the profile")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.per_job)))
        return
    rows = []
    for trials in arguments.trials:
        command = [sys.executable, __file__, "--measure", str(trials)]
        command += ["--per-job", arguments.per_job]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    if arguments.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    print(
        f"| trials | last result to next assignment, s: median (worst), target {GAP_S:g} "
        f"| CPU a trial, ms, target {CPU_MS:g} | memory, MB, target {MEMORY_MB:g} | jobs |\n"
        "|--:|--:|--:|--:|--:|"
    )
    for row in rows:
        print(
            f"| {row['trials']} | {row['gap_median']:.2f} ({row['gap_worst']:.2f}) "
            f"| {row['cpu_ms_a_trial']:.0f} | {row['memory_mb']:.0f} | {row['jobs']} |"
        )


def measure(trials: int, per_job: str) -> dict[str, Any]:
    """Run one search here, and say what its controller took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.json").write_text('{"default": "[1] [2]"}')
        (folder / "profile.yaml").write_text(PROFILE.format(per_job=per_job))
        size = min(BATCH, trials)
        spec = folder / "spec.yaml"
        spec.write_text(
            SPEC.format(
                script=folder / "model.json",
                profile=folder / "profile.yaml",
                iterations=-(-trials // size),
                batch=size,
            )
        )
        results = folder / "results"
        plan = make_plan(load_spec(spec), [folder], results)
        run = RunDirectory(results / "controller")
        if not create_run(run, plan):
            sys.exit("the run exists")
        before = resource.getrusage(resource.RUSAGE_SELF)
        make_controller(run.read()).run()
        after = resource.getrusage(resource.RUSAGE_SELF)
        events = readable_events(run.journal_file)
    done = sum(event["event"] == "finished" for event in events)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    gaps = between_iterations(events)
    return {
        "trials": done,
        "gap_median": statistics.median(gaps) if gaps else 0.0,
        "gap_worst": max(gaps, default=0.0),
        "cpu_ms_a_trial": 1000 * cpu / done,
        "memory_mb": after.ru_maxrss / 1024,
        "jobs": sum(len(event["lists"]) for event in events if event["event"] == "submitting"),
    }


def between_iterations(events: list[dict[str, Any]]) -> list[float]:
    """The seconds from the last result of each iteration to the next trials' assignment."""
    gaps: list[float] = []
    last: datetime | None = None
    for event in events:
        time = datetime.fromisoformat(event["time"])
        if event["event"] == "finished":
            last = time
        elif event["event"] in ("assigned", "submitting") and last is not None:
            gaps.append((time - last).total_seconds())
            last = None
    return gaps


if __name__ == "__main__":
    main()
