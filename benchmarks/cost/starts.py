"""What one search costs with several trials a job, against one trial a job.

    python benchmarks/cost/starts.py [SPEC] [--trials-per-job 1 auto] [--set KEY=VALUE ...]

The same spec and seed are launched once with each number of trials a job, here and with an empty
sample store, through the command line as a user does. The default spec is `jobs/demo.yaml`, whose
models are two real small LLMs (`make models` makes them). It writes a table to standard output: the
engines that were started, the seconds of starting and of generating, the wall time, and whether
allocations and scores are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """What a whole search took; seconds are wall seconds, summed over trials but for ``wall``."""

    trials: int
    jobs: int
    engine_starts: int
    start_seconds: float
    generate_seconds: float
    wall: float
    outcome: list[tuple[object, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", type=Path, default=ROOT / "jobs" / "demo.yaml")
    parser.add_argument("--trials-per-job", nargs="+", default=["1", "auto"])
    parser.add_argument("--set", action="append", default=[], help="as of launch")
    arguments = parser.parse_args()
    costs = [measure(arguments.spec, number, arguments.set) for number in arguments.trials_per_job]
    columns = [f"{number} a job" for number in arguments.trials_per_job]
    print(f"|  | {' | '.join(columns)} | last to first |\n|---|{'--:|' * (len(costs) + 1)}")
    for name, values in (
        ("trials", [cost.trials for cost in costs]),
        ("jobs", [cost.jobs for cost in costs]),
        ("engine starts", [cost.engine_starts for cost in costs]),
        ("starting engines, s", [cost.start_seconds for cost in costs]),
        ("generating, s", [cost.generate_seconds for cost in costs]),
        ("engine seconds", [cost.start_seconds + cost.generate_seconds for cost in costs]),
        ("wall, s", [cost.wall for cost in costs]),
    ):
        cells = " | ".join(f"{value:.0f}" for value in values)
        print(f"| {name} | {cells} | {values[-1] / values[0]:.2f} |")
    same = all(cost.outcome == costs[0].outcome for cost in costs)
    print(f"\nallocations and scores: {'the same' if same else 'NOT the same'}")


def measure(spec: Path, trials_per_job: str, changes: list[str]) -> Cost:
    """Run the search and add up what it did."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.yaml"
        profile.write_text(
            "{kind: local, max_running: 1, gpus_per_node: 0, poll_seconds: 0.3, "
            f"trials_per_job: {trials_per_job}}}\n"
        )
        command = [sys.executable, "-m", "agenttts.cli", "launch", str(spec), "--cluster"]
        command += [str(profile), "--results", folder, "--name", "run", "--wait"]
        for change in changes:
            command += ["--set", change]
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
        )
        wall = time.monotonic() - started
        if done.returncode:
            sys.exit(done.stderr)
        run = Path(folder) / "run"
        table = pl.read_parquet(run / "trials.parquet").sort("trial")
        results = [json.loads(p.read_text()) for p in run.glob("trials/*/result.json")]
        return Cost(
            trials=table.height,
            jobs=table["job_id"].n_unique(),
            engine_starts=sum(result["engine_starts"] for result in results),
            start_seconds=sum(result["seconds"]["load"] for result in results),
            generate_seconds=sum(result["seconds"]["generate"] for result in results),
            wall=wall,
            outcome=table.select("trial", "allocation", "state", "score").rows(),
        )


if __name__ == "__main__":
    main()
