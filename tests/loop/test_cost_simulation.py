"""The simulation of the cost of searches: its bills add up, and its command prints them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts.loop.assignment import Policy
from agenttts.loop.estimates import GPUS
from benchmarks.cost.cluster import Cluster, WorkerRun, ideal, one_trial_an_element
from benchmarks.cost.scales import Scale, searched

SIMULATION = Path(__file__).parents[2] / "benchmarks" / "cost" / "simulation.py"
PLAIN = Cluster(GPUS["a100"])
TROUBLED = replace(PLAIN, queue_seconds=1800, failures_per_hour=1.0, time_limit=3600)


@pytest.fixture(scope="module")
def scale() -> Scale:
    return searched("2wiki", 0)


@pytest.mark.parametrize("hand_over", [False, True])
def test_workers_cost_less_than_one_trial_an_element_and_more_than_the_ideal(
    scale: Scale, hand_over: bool
) -> None:
    workers = WorkerRun(scale, PLAIN, 0, Policy(hand_over=hand_over)).run()
    elements, best = one_trial_an_element(scale, PLAIN, 0), ideal(scale, PLAIN, 0)
    assert workers.evaluated == elements.evaluated == best.evaluated == scale.trials
    assert best.gpu_seconds < workers.gpu_seconds < 0.5 * elements.gpu_seconds
    assert best.starts <= workers.starts < elements.starts
    assert workers.start_gpu_seconds + workers.draw_gpu_seconds <= workers.gpu_seconds
    # Without noise in common, the distinct samples are the least that can be drawn.
    assert workers.draw_gpu_seconds > 0.8 * best.draw_gpu_seconds


@pytest.mark.parametrize("hand_over", [False, True])
def test_all_trials_are_evaluated_when_nodes_fail_and_time_is_short(
    scale: Scale, hand_over: bool
) -> None:
    for seed in range(5):
        bill = WorkerRun(scale, TROUBLED, seed, Policy(hand_over=hand_over)).run()
        assert bill.evaluated + bill.unfit == scale.trials
        assert bill.unfit == 0
        assert bill.wall_seconds > TROUBLED.queue_seconds
    lost = [WorkerRun(scale, TROUBLED, s, Policy()).run().lost_jobs for s in range(5)]
    assert sum(lost) > 0


def test_the_command_prints_one_document_and_the_targets() -> None:
    command = [sys.executable, str(SIMULATION), "--scales", "2wiki", "--seeds", "1"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["rows"][0]["setting"] == "no queue"
    compared = document["rows"][0]["compared"]["handing_over"]["gpu_to_ideal"]
    assert compared["met"] == (compared["ratio"] <= 1.5)
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| workers, handing over |" in table
