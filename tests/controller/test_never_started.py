"""A job that ended before its trial began: the queue's word alone says why, and there is no record to wait for."""

from __future__ import annotations

import pytest

from agenttts.controller.verdicts import verdict_of
from agenttts.dispatch.base import JobStatus
from agenttts.tables.schema import TrialState


@pytest.mark.parametrize("state", ["PENDING", "CANCELLED", "FAILED", "COMPLETED"])
def test_the_reason_is_the_error_and_the_trial_is_tried_again(tmp_path, state):
    status = JobStatus(state, True, TrialState.INFRA_FAILED, "setup line failed: x", True)
    verdict = verdict_of(None, status, tmp_path)
    assert verdict.state is TrialState.INFRA_FAILED
    assert verdict.retry
    assert verdict.explanation == "setup line failed: x"


def test_a_job_that_the_user_cancelled_is_not_tried_again(tmp_path):
    verdict = verdict_of(None, JobStatus("CANCELLED", True, TrialState.CANCELLED, ""), tmp_path)
    assert verdict.state is TrialState.CANCELLED
    assert not verdict.retry
