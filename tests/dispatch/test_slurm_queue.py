"""What Slurm's state words mean for a trial."""

from __future__ import annotations

import pytest

from agenttts.dispatch.slurm_queue import status
from agenttts.tables.schema import TrialState


@pytest.mark.parametrize("word", ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD"])  # fmt: skip
def test_a_living_job_has_no_verdict(word):
    found = status(word, "Priority")
    assert not found.ended
    assert found.verdict is None
    assert found.detail == "Priority"


@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        ("COMPLETED", TrialState.INFRA_FAILED),
        ("FAILED", TrialState.INFRA_FAILED),
        ("TIMEOUT", TrialState.TIMEOUT),
        ("OUT_OF_MEMORY", TrialState.OOM),
        ("NODE_FAIL", TrialState.INFRA_FAILED),
        ("PREEMPTED", TrialState.PREEMPTED),
        ("CANCELLED by 1000", TrialState.CANCELLED),
        ("CANCELLED+", TrialState.CANCELLED),
    ],
)
def test_an_ended_job_without_a_result(word, verdict):
    found = status(word, "None")
    assert found.ended
    assert found.verdict is verdict
    assert found.detail == ""
