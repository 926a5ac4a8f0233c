"""What a search is expected to cost, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.loop.cost_basis import CostBasis
from agenttts.loop.estimates import GPUS
from agenttts.loop.forecast import Phase, forecast
from agenttts.space import Allocation, Choice
from agenttts.tables.forecast import Forecast, Span

SIZES = {
    "small": ModelSize(3.2e9, 6.4e9, 1, 28),
    "large": ModelSize(70.6e9, 141e9, 4, 80),
}
TOKENS = {"retrieve": (2048.0, 64.0), "answer": (1024.0, 128.0)}


def basis(kind: str = "slurm", **profile: object) -> CostBasis:
    values = {"kind": kind, "gpus_per_node": 8, "max_running": 8}
    return CostBasis(Profile(**values | profile), SIZES, TOKENS, True, kind == "slurm", 12.0)


def allocation(first: tuple[str, int], second: tuple[str, int]) -> Allocation:
    return Allocation((Choice("retrieve", *first), Choice("answer", *second)))


choices = st.tuples(st.sampled_from(sorted(SIZES)), st.integers(1, 50))
phases = st.lists(
    st.lists(st.builds(allocation, choices, choices), min_size=1, max_size=6), max_size=3
).map(lambda iterations: [Phase(found, 50) for found in iterations])


def spans(found: Forecast) -> Sequence[Span]:
    return (
        found.gpu_seconds,
        found.wall_seconds,
        found.engine_starts,
        found.jobs,
        found.one_trial_a_job,
    )


@given(
    phases=phases,
    per_job=st.sampled_from(["auto", 1, 3]),
    most=st.integers(1, 4),
    time=st.sampled_from(["10", "60", "1-00:00:00"]),
    kind=st.sampled_from(["slurm", "local"]),
)
def test_a_forecast_is_made_for_any_search(phases, per_job, most, time, kind):
    found = forecast(
        basis(kind, trials_per_job=per_job, max_running=most, trial={"time": time}), phases
    )
    for span in spans(found):
        assert 0 <= span.low <= span.high
    trials = sum(len(phase.allocations) for phase in phases)
    stages = 2 if per_job == "auto" else 1  # each may be drawn by a job of its own
    assert found.jobs.high <= stages * trials
    assert (found.gpu_seconds.high > 0) == (trials > 0)
    if per_job == 1:
        assert found.gpu_seconds == found.one_trial_a_job
        assert found.jobs.low == trials


def test_one_trial_takes_its_start_and_its_samples():
    """By hand: 12 s until the container runs, the engine's start, and a call."""
    one = basis(trials_per_job=1, container={"image": "x.sif"}, trial={"gpu_type": "h100"})
    found = forecast(one, [Phase([allocation(("small", 1), ("small", 16))], 10)])
    cost = one.estimates(read_rate=3.0e9).model_cost("small")
    prompts, tokens = 10 * (2048 + 1024), 10 * (64 + 16 * 128)
    expected = 12.0 + cost.start_seconds + cost.draw_seconds(prompts, tokens)
    assert found.gpu_seconds.low == pytest.approx(expected)
    assert found.wall_seconds.low == pytest.approx(expected)
    assert found.engine_starts == Span(1, 1)
    assert any("H100" in text for text in found.assumptions)


def test_lists_of_trials_cost_much_less_than_jobs_of_their_own():
    due = [
        Phase([allocation(("large", n + 1), ("small", 10 + n)) for n in range(8)], 50)
        for _ in range(4)
    ]
    found = forecast(basis(), due)
    assert found.gpu_seconds.high < 0.5 * found.one_trial_a_job.high
    assert found.engine_starts.high < 10


def test_a_small_job_is_expected_to_draw_the_stages_of_small_models():
    """Without a queue: the large model's four GPUs are not held meanwhile."""
    local = basis("local", max_running=8)
    found = forecast(local, [Phase([allocation(("small", 50), ("large", 1))], 50)])
    costs = local.estimates(read_rate=3.0e9).model_costs()
    small, large = costs["small"], costs["large"]
    part = small.start_seconds + small.draw_seconds(50 * 2048, 50 * 50 * 64)
    rest = large.start_seconds + large.draw_seconds(50 * 1024, 50 * 128)
    assert found.jobs.low == 2
    assert found.gpu_seconds.low == pytest.approx(12.0 + part + 4 * (12.0 + rest))
    assert found.gpu_seconds.low < found.one_trial_a_job.low


def test_an_unknown_gpu_is_said_to_be_assumed():
    found = forecast(basis(), [Phase([allocation(("small", 1), ("small", 1))], 1)])
    assert any("A100 (the profile names no known GPU)" in text for text in found.assumptions)


@pytest.mark.parametrize(
    ("trial", "gpu", "text"),
    [
        ({"gpu_type": "l40"}, GPUS["l40"], "L40"),
        ({"gpu_type": "a100_1g.5gb"}, GPUS["a100"].part(1 / 7), "MIG device, 1/7 of one A100"),
        ({"gpu_type": "h100_7g.80gb"}, GPUS["h100"], "H100"),
        ({"gpu_type": "a30_2g.12gb"}, GPUS["a30"].part(2 / 4), "MIG device, 2/4 of one A30"),
        (
            {"gpu_type": "3g.40gb", "constraint": "h100"},
            GPUS["h100"].part(3 / 7),
            "MIG device, 3/7 of one H100",
        ),
        (
            {"gpu_type": "1g.10gb", "partition": "small4"},
            GPUS["a100"].part(1 / 7),
            "MIG device, 1/7 of one A100 (the profile names no known GPU)",
        ),
    ],
)
def test_the_gpu_is_the_one_that_the_profile_names(trial, gpu, text):
    named = basis(trial=trial)
    assert named.gpu == gpu
    found = forecast(named, [Phase([allocation(("small", 1), ("small", 1))], 1)])
    assert f"GPU: {text}" in found.assumptions


def test_a_search_without_gpus_takes_time_only():
    sizes = {name: ModelSize(1e8, gpus=0, loads=False) for name in SIZES}
    local = CostBasis(Profile(kind="local", gpus_per_node=0), sizes, TOKENS, False, False, 3.0)
    found = forecast(local, [Phase([allocation(("small", 1), ("large", 1))], 20)])
    assert found.gpu_seconds == Span(0, 0)
    assert found.wall_seconds.low > 0
    assert not any(text.startswith("GPU") for text in found.assumptions)
    assert "models without GPU jobs as fast as on one A100" in found.assumptions
