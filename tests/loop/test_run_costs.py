"""The costs of a run: sizes and profile first, then what its workers recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.dispatch.sizing.model_facts import model_facts
from agenttts.dispatch.sizing.model_size import ModelSize, model_size
from agenttts.loop.cost_basis import QUEUE_SECONDS, CostBasis
from agenttts.loop.estimates import CPU, GPUS, UNKNOWN_GPU
from agenttts.loop.run_costs import RunCosts
from agenttts.run.directory import Run
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.space import Allocation, Choice
from agenttts.trial.usage import USAGE


@pytest.fixture
def run(unstarted_run) -> Run:
    directory = unstarted_run()
    profile = Profile(kind="slurm", gpus_per_node=4)
    record = directory.record()
    sizes = {name: ModelSize(7e9, gpus=1) for name in record.models}
    return Run(directory, directory.spec(), profile, record.model_copy(update={"sizes": sizes}))


def costs_of(run: Run) -> RunCosts:
    return RunCosts(run, create_scheduler(run.profile, run.directory.scheduler_logs))


def write_usage(run: Run, worker: str, number: int, **values: object) -> None:
    folder = Path(run.directory.worker(worker)) / USAGE
    folder.mkdir(parents=True, exist_ok=True)
    moment = f"2026-01-0{number}T00:00:00+00:00"
    document = {"number": number, "started": moment, "written": moment, **values}
    (folder / f"{number:02}.json").write_text(json.dumps(document))


def planned(trial: str, *samples: int, source: str = "random") -> PlannedTrial:
    stages = ("retrieval", "answer")
    choices = (Choice(s, "weak", n) for s, n in zip(stages, samples, strict=True))
    return PlannedTrial(trial, 0, Allocation(tuple(choices)), source, "", 1.0)


def test_records_of_workers_correct_the_estimates(run):
    costs = costs_of(run)
    before = costs.models()
    slow = [{"model": "weak", "seconds": 20 * before["weak"].start_seconds}] * 5
    draws = [{"model": "weak", "decode_tokens": 1000, "sequences": 256, "seconds": 1e4, "calls": 1}]
    write_usage(run, "w0", 1, starts=slow, draws=draws, awake="weak", asleep=["strong"])
    usage = costs.usage("w0")
    assert usage is not None
    assert (usage.awake, tuple(usage.asleep)) == ("weak", ("strong",))
    after = costs.models()
    assert after["weak"].start_seconds > 5 * before["weak"].start_seconds
    assert after["weak"].tokens_per_second < before["weak"].tokens_per_second
    assert after["strong"].start_seconds > before["strong"].start_seconds, "it follows the others"
    costs.usage("w0")
    assert costs.models() == after, "each record counts once"


def test_a_worker_without_records_has_no_engines(run):
    assert costs_of(run).usage("w0") is None


def test_only_samples_that_are_not_stored_cost(run):
    costs = costs_of(run)
    done = TrialProgress(planned("t0000", 4, 2), row={"state": "COMPLETED"})
    failed = TrialProgress(planned("t0001", 9, 9), row={"state": "FAILED"})
    [work] = costs.works([TrialProgress(planned("t0002", 4, 3))], [done, failed])
    assert work.stages[0].least_gpus == 1, "its model may yet have to fuse"
    first, second = work.stages
    assert first.empty, "drawn by the trial that completed"
    assert second.decode_tokens > 0
    examples = run.directory.examples_file.read_text().count("\n")
    assert second.decode_tokens == examples * run.spec.stages["answer"].decode_tokens


def test_a_record_of_an_older_version_has_no_sizes(run):
    record = run.record.model_copy(update={"sizes": {}})
    costs = costs_of(Run(run.directory, run.spec, run.profile, record))
    assert set(costs.models()) == set(run.spec.models)


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ({"gpus_per_node": 4, "trial": {"gpu_type": "h100"}}, GPUS["h100"]),
        ({"gpus_per_node": 4, "trial": {"constraint": "a40&ib"}}, GPUS["a40"]),
        ({"gpus_per_node": 4, "trial": {"partition": "gpu"}}, UNKNOWN_GPU),
        ({"gpus_per_node": 0}, CPU),
    ],
)
def test_the_kind_of_gpu_is_that_which_the_profile_names(profile, expected):
    basis = CostBasis(Profile(kind="slurm", **profile), {}, {}, False, True, 0.0)
    assert basis.gpu == expected


def test_waits_of_the_run_replace_the_assumed_one(run):
    costs = costs_of(run)
    assert costs.queue_seconds([]) == QUEUE_SECONDS
    assert costs.queue_seconds([3600.0] * 5) == 3600.0
    local = Run(run.directory, run.spec, Profile(kind="local"), run.record)
    assert costs_of(local).queue_seconds([]) == 0.0


def test_memory_for_engines_that_wait_is_that_of_the_job():
    def left(**values: object) -> float:
        profile = Profile(kind="slurm", trial=values)
        return CostBasis(profile, {}, {}, False, True, 0.0).sleep_gb(2)

    assert left(mem="100G") == pytest.approx(100 * 1.073741824 - 8)
    assert left(mem_per_gpu="100G") == pytest.approx(200 * 1.073741824 - 8)
    assert left(mem="1G") == 0.0


def test_sizes_come_from_the_models_files(tmp_path):
    """Nominal parameters may be any, as in the demo."""
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 30}))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 2_000_000)
    found = model_size(model_facts(str(tmp_path), 7e9, {}), 7e9, gpus=2)
    assert (found.layers, found.gpus) == (30, 2)
    assert found.bytes == pytest.approx(2_000_000, rel=0.05)
    assert found.params == pytest.approx(1e6, rel=0.05)
    assert model_size(model_facts("org/model", 7e9, {}), 7e9, gpus=1).params == 7e9


@pytest.mark.parametrize("engine", ["scripted", "endpoint"])
def test_a_model_that_loads_no_weights_starts_at_once(engine):
    size = model_size(model_facts("x", 7e9, {}, engine), 7e9, gpus=0)
    basis = CostBasis(Profile(kind="local"), {"m": size}, {}, False, False, 0.0)
    cost = basis.estimates().model_cost("m")
    assert (cost.start_seconds, cost.asleep_gb) == (0.0, 0.0)
