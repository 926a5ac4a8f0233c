"""Where the time of jobs went: the parts add up, whatever was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.tables.cost import (
    PARTS,
    AloneDocument,
    CostDocument,
    CostSeconds,
    JobCostDocument,
    MeasuredStart,
    RunCost,
    TrialTokens,
    cost_alone,
    job_costs,
)
from agenttts.tables.documents import printed


def measured(job="w1", **changes):
    values = {
        "job": job, "job_id": "7_0", "node": "n1", "gpus": 1, "attempts": 2, "queue": 30.0,
        "seconds": 100.0, "busy": 80.0, "idle": 15.0, "lost": 0.0, "program_after": 10.0,
        "load": 20.0, "generate": 40.0, "engines": (("a", 12.0), ("b", 8.0)),
        "tokens": {"a": 300, "b": 100}, "decode": {"a": 200, "b": 50},
        "model_seconds": {"a": 30.0, "b": 10.0},
    }  # fmt: skip
    return MeasuredStart(**(values | changes))


def test_the_parts_of_a_start():
    assert measured().parts == CostSeconds(
        queue=30, start=10, load=20, generate=40, idle=15, other=15, lost=0
    )


def test_lost_time_is_in_no_other_part():
    parts = measured(lost=40.0).parts
    assert parts.lost == 40
    assert (parts.load, parts.generate) == (10, 20), "half of the time with trials was lost"
    assert parts.used == 100


def test_a_program_that_left_no_record_has_other_time_only():
    parts = measured(program_after=None, load=0.0, generate=0.0).parts
    assert (parts.start, parts.other, parts.idle) == (5, 80, 15)


SECONDS = st.floats(-10, 1e6, allow_nan=False)
STARTS = st.builds(
    measured,
    job=st.sampled_from(["w1", "w2", "t0001"]),
    gpus=st.integers(0, 8),
    queue=st.none() | SECONDS,
    seconds=SECONDS,
    busy=SECONDS,
    idle=SECONDS,
    lost=SECONDS,
    program_after=st.none() | SECONDS,
    load=st.floats(0, 1e6),
    generate=st.floats(0, 1e6),
)


@given(STARTS)
def test_the_parts_of_any_start_add_up_to_its_time(start):
    parts = start.parts
    assert all(getattr(parts, part) >= -1e-6 for part in PARTS)
    assert parts.used == pytest.approx(max(0.0, start.seconds), abs=1e-6)


@given(st.lists(STARTS, max_size=8))
def test_jobs_and_the_run_add_up_to_the_starts(starts):
    jobs = job_costs(starts)
    cost = RunCost(jobs, 0)
    assert sum(job.starts for job in jobs) == len(starts)
    assert len({job.job for job in jobs}) == len(jobs)
    for part in PARTS:
        total = sum(getattr(start.parts, part) for start in starts)
        assert getattr(cost.seconds, part) == pytest.approx(total)
        weighted = sum(getattr(start.parts, part) * start.gpus for start in starts)
        assert getattr(cost.gpu_seconds, part) == pytest.approx(weighted)
    assert cost.engine_starts == 2 * len(starts)
    assert cost.tokens_computed == 400 * len(starts)
    shares = [cost.share(part) for part in PARTS if part != "queue"]
    assert None in shares or sum(shares) == pytest.approx(1)


def test_documents_fit_their_schemas():
    cost = RunCost(job_costs([measured(), measured("w2", gpus=4)]), 70)
    document = printed(CostDocument, cost.document())
    assert document["tokens"] == {"computed": 800, "reused": 70}
    assert document["gpu_seconds"] == 500
    assert document["seconds"].keys() == set(PARTS)
    assert document["gpu_seconds_by"].keys() == set(PARTS) - {"queue"}
    assert [printed(JobCostDocument, job)["job"] for job in cost.jobs_document()] == ["w1", "w2"]
    assert cost.alone_document() is None


def test_one_trial_a_job_starts_each_engine_and_generates_all_itself():
    # The job: 10 s until its program begins, a: 12 s to start and 0.15 s a token, b: 8 s and 0.2 s.
    trials = [
        TrialTokens(1, ["a", "b"], {"a": 100, "b": 50}),
        TrialTokens(2, ["a", "a"], {"a": 200}),
        TrialTokens(1, ["a", "b"], {"a": 100}),
    ]
    alone = cost_alone([measured(seconds=85.0, busy=70.0)], trials)
    # The task's own code took 5 s of the shared job.
    other = 0.0
    seconds = [10 + 20 + 15 + 10 + other, 10 + 12 + 30 + other, 10 + 12 + 15 + other]
    assert alone.trials == 3
    assert alone.engine_starts == 4, "a model of which nothing was drawn is not started"
    assert alone.seconds == pytest.approx(sum(seconds))
    assert alone.gpu_seconds == pytest.approx(seconds[0] + 2 * seconds[1] + seconds[2])


def test_one_trial_a_job_estimates_a_model_without_records_from_the_others():
    alone = cost_alone([measured()], [TrialTokens(1, ["c"], {"c": 100})])
    assert alone.seconds == pytest.approx(10 + 10 + 100 * 40 / 250 + 15)


def test_the_estimate_says_that_it_is_probably_too_low():
    alone = cost_alone([measured()], [TrialTokens(1, ["a"], {"a": 100})])
    document = printed(AloneDocument, RunCost([], 0, alone).alone_document())
    assert "calls were for several trials at once" in document["assumptions"]
    assert "probably too low" in document["assumptions"]


def test_nothing_measured_gives_no_estimate():
    trial = TrialTokens(1, ["a"], {"a": 10})
    assert cost_alone([], [trial]) is None
    assert cost_alone([measured()], []) is None
    assert cost_alone([measured(engines=())], [trial]) is None
    assert cost_alone([measured(decode={})], [trial]) is None
