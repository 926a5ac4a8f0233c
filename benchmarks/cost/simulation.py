"""GPU-hours and wall time of whole searches: one trial an element, workers, and the ideal.

    python benchmarks/cost/simulation.py [--scales 2wiki taskbench-dailylife] [--seeds 5]
    [--gpu a100] [--json]

The allocations are those that the project's searcher proposes (without a language model) on a
synthetic surface. The workers get their trials by the project's own rule
(`agenttts.loop.assignment`) and its estimates (`agenttts.loop.estimates`), which know the simulated
cluster only by its records. All ways evaluate the same trials. Figures are means over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from agenttts.loop.assignment import DEFAULT_POLICY, Policy
from agenttts.loop.estimates import GPUS
from benchmarks.cost.cluster import (
    Bill,
    Cluster,
    WorkerRun,
    ideal,
    one_trial_an_element,
)
from benchmarks.cost.scales import FUSED, Scale, searched

HOUR = 3600.0
# What workers are meant to reach, as shares of the other two ways.
GPU_TO_IDEAL, GPU_TO_ELEMENTS, WALL_TO_ELEMENTS = 1.5, 0.25, 0.30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scales", nargs="+", default=["2wiki", "taskbench-dailylife"], choices=sorted(FUSED)
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gpu", default="a100", choices=sorted(GPUS))
    parser.add_argument("--slack", type=float, default=DEFAULT_POLICY.slack)
    parser.add_argument("--gpu-weight", type=float, default=DEFAULT_POLICY.gpu_weight)
    parser.add_argument("--no-hand-over", action="store_true", help="evaluate every trial whole")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    policy = Policy(
        slack=arguments.slack,
        gpu_weight=arguments.gpu_weight,
        hand_over=not arguments.no_hand_over,
    )
    plain = Cluster(GPUS[arguments.gpu])
    settings = {
        "no queue": plain,
        "1 h queue": replace(plain, queue_seconds=HOUR),
        "1 h queue, a node failure in 20 h, limit 2 h": replace(
            plain, queue_seconds=HOUR, failures_per_hour=0.05, time_limit=2 * HOUR
        ),
    }
    began = time.monotonic()
    rows = []
    for name in arguments.scales:
        scales = [searched(name, seed) for seed in range(arguments.seeds)]
        rows += [row(scales, setting, cluster, policy) for setting, cluster in settings.items()]
    document = {"gpu": arguments.gpu, "seeds": arguments.seeds, "rows": rows}
    if arguments.json:
        print(json.dumps(document, indent=1))
        return
    print(table(rows))
    print(f"\n{arguments.seeds} seeds, {arguments.gpu}, {time.monotonic() - began:.0f} s")


def row(scales: list[Scale], setting: str, cluster: Cluster, policy: Policy) -> dict[str, object]:
    """One scale in one setting: means over the seeds, and whether the targets are met."""
    bills = {
        "elements": [one_trial_an_element(s, cluster, i) for i, s in enumerate(scales)],
        "workers": [WorkerRun(s, cluster, i, policy).run() for i, s in enumerate(scales)],
        "ideal": [ideal(s, replace(cluster, queue_seconds=0.0), i) for i, s in enumerate(scales)],
    }
    means = {way: mean_bill(found) for way, found in bills.items()}
    elements, workers, best = (means[way] for way in ("elements", "workers", "ideal"))
    to_ideal = workers["gpu_hours"] / best["gpu_hours"]
    to_elements = workers["gpu_hours"] / elements["gpu_hours"]
    wall = workers["wall_hours"] / elements["wall_hours"]
    return {
        "scale": scales[0].name,
        "setting": setting,
        "trials": statistics.mean(scale.trials for scale in scales),
        **means,
        "gpu_to_ideal": to_ideal,
        "gpu_to_elements": to_elements,
        "wall_to_elements": wall,
        "met": {
            "gpu_to_ideal": to_ideal <= GPU_TO_IDEAL if not cluster.queue_seconds else None,
            "gpu_to_elements": to_elements <= GPU_TO_ELEMENTS,
            "wall_to_elements": wall <= WALL_TO_ELEMENTS if cluster.queue_seconds else None,
        },
    }


def mean_bill(bills: list[Bill]) -> dict[str, float]:
    """Means over the seeds."""
    return {
        "gpu_hours": statistics.mean(bill.gpu_hours for bill in bills),
        "start_hours": statistics.mean(bill.start_gpu_seconds for bill in bills) / HOUR,
        "draw_hours": statistics.mean(bill.draw_gpu_seconds for bill in bills) / HOUR,
        "wall_hours": statistics.mean(bill.wall_seconds for bill in bills) / HOUR,
        "starts": statistics.mean(bill.starts for bill in bills),
        "jobs": statistics.mean(bill.jobs for bill in bills),
        "lost_jobs": statistics.mean(bill.lost_jobs for bill in bills),
        "unevaluated": statistics.mean(bill.unevaluated for bill in bills),
    }


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| scale, setting | way | GPU-hours | starting | drawing | rest | starts | jobs | wall, h |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for found in rows:
        label = f"{found['scale']} ({found['trials']:.0f} trials), {found['setting']}"
        for way, shown in (
            ("elements", "one trial an element"),
            ("workers", "workers"),
            ("ideal", "ideal"),
        ):
            bill = found[way]
            assert isinstance(bill, dict)
            rest = bill["gpu_hours"] - bill["start_hours"] - bill["draw_hours"]
            lines.append(
                f"| {label} | {shown} | {bill['gpu_hours']:.1f} | {bill['start_hours']:.1f} "
                f"| {bill['draw_hours']:.1f} | {rest:.1f} | {bill['starts']:.0f} "
                f"| {bill['jobs']:.1f} | {bill['wall_hours']:.1f} |"
            )
            label = ""
    lines += [
        "",
        "| workers compared | GPU-hours to ideal (≤ 1.5 without a queue) "
        "| GPU-hours to one trial an element (≤ 25 %) | wall to one trial an element (≤ 30 % with a queue) |",
        "|---|--:|--:|--:|",
    ]
    for found in rows:
        met = found["met"]
        assert isinstance(met, dict)
        marks = {key: {True: " ✓", False: " ✗", None: ""}[value] for key, value in met.items()}
        lines.append(
            f"| {found['scale']}, {found['setting']} | {found['gpu_to_ideal']:.2f}{marks['gpu_to_ideal']} "
            f"| {found['gpu_to_elements']:.0%}{marks['gpu_to_elements']} "
            f"| {found['wall_to_elements']:.0%}{marks['wall_to_elements']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
