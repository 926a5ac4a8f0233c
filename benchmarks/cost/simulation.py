"""GPU-hours and wall time of whole searches: one trial an element, workers, and the ideal.

    python benchmarks/cost/simulation.py [--scales 2wiki taskbench-dailylife] [--seeds 8]
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
import time
from dataclasses import replace
from typing import Any

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
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--gpu", default="a100", choices=sorted(GPUS))
    parser.add_argument("--slack", type=float, default=DEFAULT_POLICY.slack)
    parser.add_argument("--gpu-weight", type=float, default=DEFAULT_POLICY.gpu_weight)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    policy = Policy(
        slack=arguments.slack,
        gpu_weight=arguments.gpu_weight,
    )
    plain = Cluster(GPUS[arguments.gpu])
    settings = {
        "no queue": plain,
        "1 h queue": replace(plain, queue_seconds=HOUR),
        "1 h queue, a node failure in 5 h, limit 2 h": replace(
            plain, queue_seconds=HOUR, failures_per_hour=0.2, time_limit=2 * HOUR
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
    parts = replace(policy, hand_over=True)
    numbered = list(enumerate(scales))
    means = {
        "elements": mean_bill([one_trial_an_element(s, cluster, i) for i, s in numbered]),
        "workers": mean_bill([WorkerRun(s, cluster, i, policy).run() for i, s in numbered]),
        "handing_over": mean_bill([WorkerRun(s, cluster, i, parts).run() for i, s in numbered]),
        "ideal": mean_bill([ideal(s, cluster, i) for i, s in numbered]),
    }
    return {
        "scale": scales[0].name,
        "setting": setting,
        "trials": statistics.mean(scale.trials for scale in scales),
        **means,
        "compared": {way: compared(means, way, cluster) for way in ("workers", "handing_over")},
    }


def compared(
    means: dict[str, dict[str, float]], way: str, cluster: Cluster
) -> dict[str, dict[str, float | bool | None]]:
    """The three ratios, and whether each meets its target (None: not meant for this setting)."""
    hours = means[way]["gpu_hours"]
    to_ideal = hours / means["ideal"]["gpu_hours"]
    to_elements = hours / means["elements"]["gpu_hours"]
    wall = means[way]["wall_hours"] / means["elements"]["wall_hours"]
    queued = cluster.queue_seconds > 0
    return {
        "gpu_to_ideal": {
            "ratio": to_ideal,
            "met": None if queued else to_ideal <= GPU_TO_IDEAL,
        },
        "gpu_to_elements": {"ratio": to_elements, "met": to_elements <= GPU_TO_ELEMENTS},
        "wall_to_elements": {
            "ratio": wall,
            "met": wall <= WALL_TO_ELEMENTS if queued else None,
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
        "evaluated": statistics.mean(bill.evaluated for bill in bills),
        "unfit": statistics.mean(bill.unfit for bill in bills),
    }


NAMES = {
    "elements": "one trial an element",
    "workers": "workers",
    "handing_over": "workers, handing over",
    "ideal": "ideal",
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| scale, setting | way | GPU-hours | starting | drawing | rest | starts | jobs | lost "
        "| wall, h |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for found in rows:
        label = f"{found['scale']} ({found['trials']:.0f} trials), {found['setting']}"
        for way, name in NAMES.items():
            bill = found[way]
            rest = max(0.0, bill["gpu_hours"] - bill["start_hours"] - bill["draw_hours"])
            lines.append(
                f"| {label} | {name} | {bill['gpu_hours']:.1f} | {bill['start_hours']:.1f} "
                f"| {bill['draw_hours']:.1f} | {rest:.1f} | {bill['starts']:.0f} "
                f"| {bill['jobs']:.1f} | {bill['lost_jobs']:.1f} | {bill['wall_hours']:.1f} |"
            )
            label = ""
    lines += [
        "",
        "| compared | way | GPU-hours to ideal (target: 1.5 without a queue) "
        "| GPU-hours to one trial an element (25 %) "
        "| wall time to one trial an element (30 % with a queue) |",
        "|---|---|--:|--:|--:|",
    ]
    marks = {True: " met", False: " missed", None: ""}
    for found in rows:
        label = f"{found['scale']}, {found['setting']}"
        for way, ratios in found["compared"].items():
            ideal_ratio, elements, wall = (
                ratios[name] for name in ("gpu_to_ideal", "gpu_to_elements", "wall_to_elements")
            )
            lines.append(
                f"| {label} | {NAMES[way]} "
                f"| {ideal_ratio['ratio']:.2f}{marks[ideal_ratio['met']]} "
                f"| {elements['ratio']:.0%}{marks[elements['met']]} "
                f"| {wall['ratio']:.0%}{marks[wall['met']]} |"
            )
            label = ""
    return "\n".join(lines)


if __name__ == "__main__":
    main()
