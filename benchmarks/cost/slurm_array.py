"""An array of a thousand jobs on the test cluster: nothing is lost, one squeue call a poll.

    python benchmarks/cost/slurm_array.py [--trials 1000] [--running 4] [--minutes 25] [--cold]

Starts a cluster of real Slurm on this machine (`slurm/test-cluster.sh`), and on it a search with
one trial a job (`trials_per_job: 1`), all of whose trials are one iteration: one array, up to the
cluster's MaxArraySize (1,001, Slurm's default). The models are scripted, so a trial computes
nothing; what it takes is the start of two Python processes, of the job and of its trial. They are
copies of a process that has imported the project (`benchmarks.cost.warm_python`), since a thousand
jobs would import it for longer than they work; ``--cold`` starts Python itself. The
controller runs in this process. Programs on PATH in place of squeue, sacct, sbatch and scontrol
count the calls of the controller, and then call the real ones. In the end it is checked that every
trial has one row, and that every completed one had one attempt, in a job of its own. If the trials
have not ended after the given minutes, the run is cancelled, and the rest have rows as cancelled.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.job_starts import read_job_starts
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.launch.create import create_run
from agenttts.launch.plan import make_plan
from agenttts.loop.controller_job import make_controller
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import readable_events
from agenttts.run.starts import RunCancelled
from agenttts.spec import load_spec
from benchmarks.cost.controller import SPEC
from benchmarks.cost.warm_python import warm_python

ROOT = Path(__file__).parents[2]
COUNTED = ("squeue", "sacct", "sbatch", "scontrol", "scancel")
MAX_ARRAY_SIZE = 1001
PROFILE = """
kind: slurm
trial: {{partition: cpu, time: "00:30:00", mem: 100M}}
gpus_per_node: 0
trials_per_job: 1
max_running: {running}
poll_seconds: {poll}
settle_seconds: 5
"""
COUNTING = """#!/bin/sh
[ "$PPID" = {caller} ] && echo {name} >> '{log}'
exec '{real}' "$@"
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--running", type=int, default=4, help="max_running of the profile")
    parser.add_argument("--poll", type=float, default=5.0, help="poll_seconds of the profile")
    parser.add_argument("--minutes", type=float, default=60, help="the run is cancelled after them")
    parser.add_argument("--cold", action="store_true", help="start Python itself for each job")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            cluster(folder / "cluster"),
            counted_commands(folder) as calls,
            nullcontext(Path(sys.executable)) if arguments.cold else warm_python(folder) as python,
        ):
            # The jobs and their trials are started with it.
            sys.executable = str(python)
            found = measure(folder, arguments, calls)
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{key}: {value}" for key, value in found.items()))
    wrong = [
        text
        for text, is_so in (
            ("not every trial has one row", found["rows"] != arguments.trials),
            ("rows without an end", found["completed"] + found["cancelled"] != found["rows"]),
            ("completed trials without a job of their own", found["jobs"] != found["completed"]),
            ("more than one attempt of a trial", found["attempts"] != found["completed"]),
            # In the end jobs are looked for that belong to no trial, and those to be cancelled.
            (
                "more than one squeue call a poll",
                found["squeue_calls"] > found["polls"] + (2 if found["cancelled"] else 1),
            ),
        )
        if is_so
    ]
    if wrong:
        sys.exit(f"not as wanted: {'; '.join(wrong)}")


@contextmanager
def cluster(directory: Path) -> Iterator[None]:
    """Run a test cluster of one node; this process is a login shell of it."""
    script = str(ROOT / "slurm" / "test-cluster.sh")
    options = ["--nodes", "1", "--gpus", "0", "--conf", f"MaxArraySize={MAX_ARRAY_SIZE}"]
    subprocess.run([script, "up", str(directory), *options], check=True, stdout=subprocess.DEVNULL)
    os.environ["SLURM_CONF"] = str(directory / "etc" / "slurm.conf")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    try:
        yield
    finally:
        subprocess.run([script, "down", str(directory)], check=False, stdout=subprocess.DEVNULL)


@contextmanager
def counted_commands(folder: Path) -> Iterator[Path]:
    """Put programs on PATH that note each call of a Slurm command in a file, and yield the file.

    Those of jobs, which inherit PATH, are not noted.
    """
    programs, log = folder / "bin", folder / "calls"
    programs.mkdir()
    log.touch()
    for name in COUNTED:
        real = shutil.which(name)
        if real is not None:
            (programs / name).write_text(
                COUNTING.format(name=name, log=log, real=real, caller=os.getpid())
            )
            (programs / name).chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{programs}{os.pathsep}{before}"
    try:
        yield log
    finally:
        os.environ["PATH"] = before


def measure(folder: Path, arguments: argparse.Namespace, calls: Path) -> dict[str, Any]:
    """Run the search; return what it took and what came out."""
    (folder / "model.json").write_text('{"default": "[1] [2]"}')
    profile = PROFILE.format(running=arguments.running, poll=arguments.poll)
    (folder / "profile.yaml").write_text(profile)
    spec = folder / "spec.yaml"
    spec.write_text(
        SPEC.format(
            script=folder / "model.json",
            profile=folder / "profile.yaml",
            iterations=1,
            batch=arguments.trials,
        )
    )
    plan = make_plan(load_spec(spec), [folder], folder / "results")
    run = RunDirectory(folder / "results" / "controller")
    if not create_run(run, plan):
        sys.exit("the run exists")
    calls.write_text("")  # those of the launch do not count
    polls = count_polls()
    began, usage = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    make_controller(run.read(), cancelled_after(60 * arguments.minutes)).run()
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    events = readable_events(run.journal_file)
    # Without the closing trial of the recommended allocation, which follows by itself.
    names = [t["trial"] for e in events if e["event"] == "proposed" for t in e["trials"]]
    table = pl.read_parquet(run.trials_file).filter(
        pl.col("trial").is_in(names[: arguments.trials])
    )
    done = table.filter(pl.col("state") == "COMPLETED")
    attempts = {trial: read_attempts(run.trial(trial)) for trial in done["trial"]}
    counts = Counter(calls.read_text().split())
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    moments = [datetime.fromisoformat(event["time"]) for event in events]
    submitting = [m for m, e in zip(moments, events, strict=True) if e["event"] == "submitting"]
    submitted = [m for m, e in zip(moments, events, strict=True) if e["event"] == "submitted"]
    proposed = [m for m, e in zip(moments, events, strict=True) if e["event"] == "proposed"]
    starts = [start for trial in done["trial"] for start in read_job_starts(run.trial(trial))]
    return {
        "rows": table["trial"].n_unique() if len(table) == table["trial"].n_unique() else -1,
        "completed": len(done),
        "cancelled": len(table.filter(pl.col("state") == "CANCELLED")),
        "jobs": done["job_id"].n_unique(),
        "attempts": sum(map(len, attempts.values())),
        "arrays": len({job.partition("_")[0] for job in table["job_id"]}),
        "polls": len(polls),
        **{f"{name}_calls": counts[name] for name in COUNTED},
        "wall_s": round(wall, 1),
        "proposed_to_submitting_s": round((submitting[0] - proposed[0]).total_seconds(), 1),
        "sbatch_s": round((submitted[0] - submitting[0]).total_seconds(), 1),
        "job_s": round(statistics.median(_seconds(s.started, s.finished) for s in starts), 2),
        "trial_s": round(
            statistics.median(a.seconds for tried in attempts.values() for a in tried), 2
        ),
        "controller_cpu_ms_a_trial": round(1000 * cpu / arguments.trials, 1),
        "controller_memory_mb": round(after.ru_maxrss / 1024),
    }


def cancelled_after(seconds: float) -> Callable[[], None]:
    """Return a check that cancels the run after so many seconds from now."""
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise RunCancelled("the minutes are over")

    return check


def count_polls() -> list[int]:
    """Note every look of the scheduler at its jobs in the list that is returned."""
    polls: list[int] = []
    poll = SlurmScheduler.poll

    def noted(self: SlurmScheduler, job_ids: Any) -> Any:
        jobs = list(job_ids)
        if jobs:
            polls.append(len(jobs))
        return poll(self, jobs)

    SlurmScheduler.poll = noted  # type: ignore[method-assign]
    return polls


def _seconds(started: str, finished: str | None) -> float:
    if finished is None:
        return 0.0
    return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()


if __name__ == "__main__":
    main()
