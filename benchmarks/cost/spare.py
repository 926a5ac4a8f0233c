"""What it saves to import an engine's libraries ahead, and what it costs the engine beside it.

    python benchmarks/cost/spare.py [MODEL] [--engine vllm] [--rounds 3] [--prompts 32]

MODEL is a directory; the default is a model of `make models`. Each round has two parts, each with
processes of its own: an engine is started without and with a spare process that has imported its
libraries; then it draws samples and another one is started after it, without and with a spare
process that begins with the drawing. The table has the median, least and most of the wall seconds,
and the median of the CPU seconds of the processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

from agenttts.inference.base import EngineName, ModelConfig, Request, SamplingParams
from agenttts.inference.engine_child import SpareEngine
from agenttts.inference.engine_process import EngineProcess

MODEL = Path(__file__).parents[2] / ".cache" / "models" / "smollm2-135m-instruct"


@dataclass(frozen=True)
class Cost:
    """Wall seconds, and seconds of CPU time."""

    wall: float
    cpu: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32)
    given = parser.parse_args()
    model = ModelConfig("m", str(given.model), engine=given.engine, options={"dtype": "float32"})
    rows: dict[str, list[Cost]] = {}
    for number in range(given.rounds):
        for ahead in (False, True):
            for name, cost in measure(model, given.engine, given.prompts, ahead).items():
                rows.setdefault(name, []).append(cost)
                print(f"{name}: {cost.wall:.1f} s, CPU {cost.cpu:.1f} s", flush=True)
        print(f"round {number + 1} of {given.rounds} done, load {os.getloadavg()[0]:.0f}")
    for name, costs in rows.items():
        wall = [cost.wall for cost in costs]
        cpu = statistics.median(cost.cpu for cost in costs)
        spread = f"{min(wall):.1f} to {max(wall):.1f}"
        print(f"| {name} | {statistics.median(wall):.1f} | {spread} | {cpu:.1f} |")


def measure(model: ModelConfig, engine: EngineName, prompts: int, ahead: bool) -> dict[str, Cost]:
    """Return the costs of the parts of a round, without or with a spare process."""
    how = "spare" if ahead else "fresh"
    spare = SpareEngine()
    imported = 0.0
    if ahead:
        spare.start(engine)
        imported = _until_quiet(spare)
    started = time.monotonic()
    first = EngineProcess(model, _nowhere(), spare)
    start = Cost(time.monotonic() - started, cpu_seconds(first.pid) - imported)
    requests = [
        Request(f"Tell a story of {number} trees.", SamplingParams(1.0, 64), (1, 2))
        for number in range(prompts)
    ]
    first.generate(requests[:1])
    before, started = cpu_seconds(first.pid), time.monotonic()
    if ahead:
        spare.start(engine)
    first.generate(requests)
    drawing = Cost(time.monotonic() - started, cpu_seconds(first.pid) - before)
    started = time.monotonic()
    second = EngineProcess(model, _nowhere(), spare)
    next_start = Cost(time.monotonic() - started, cpu_seconds(second.pid))
    first.close()
    second.close()
    return {
        f"start, {how}": start,
        f"drawing, {how}": drawing,
        f"the start after it, {how}": next_start,
        f"both, {how}": drawing + next_start,
    }


def cpu_seconds(pid: int | None) -> float:
    """Return the CPU time of a process and of its children that have ended."""
    return float(sum(psutil.Process(pid).cpu_times()[:4]))


def _until_quiet(spare: SpareEngine) -> float:
    """Wait until the spare process has nothing left to do; return its CPU time."""
    last = -1.0
    while (now := cpu_seconds(spare.pid)) != last or now < 1:
        last = now
        time.sleep(1.5)
    print(f"a spare process holds {spare.resident() >> 20} MiB, after {now:.1f} s of CPU time")
    return now


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


if __name__ == "__main__":
    main()
