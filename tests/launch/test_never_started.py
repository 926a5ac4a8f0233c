"""A job that ended before its trial began: the queue's word alone says why, and there is no
record to wait for.
"""

from __future__ import annotations

import pytest

from agenttts.dispatch.attempts import HANDED_OVER, Attempt
from agenttts.dispatch.base import JobStatus
from agenttts.loop.verdicts import last_word, verdict_of
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


def record(stopped: str | None = None, state: str | None = None, node: str = "n1") -> Attempt:
    now = "2026-01-01T00:00:00+00:00"
    return Attempt(1, "7", node, 0, "", now, now if state else None, state, "its end", retry=state != "TIMEOUT", stopped=stopped)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "detail", "never", "node", "fault"),
    [
        ("FAILED", "setup line failed: x on node n1 (exit status 1)", True, "n1", True),
        ("FAILED", "setup line failed: x", True, "", False),
        ("FAILED", "", False, "n1", True),  # the node could not open the job's log
        ("NODE_FAIL", "", False, "n1", True),
        ("BOOT_FAIL", "", False, "n1", True),
        ("LAUNCH_FAILED", "", False, "", True),
        ("COMPLETED", "", False, "n1", False),
        ("TIMEOUT", "", False, "n1", True),
        ("DEADLINE", "", False, "", False),
    ],
)
def test_a_job_without_an_attempt_is_no_trial_s_fault(tmp_path, state, detail, never, node, fault):
    verdict = verdict_of(None, JobStatus(state, True, None, detail, never, node=node), tmp_path)
    assert (verdict.state, verdict.retry) == (TrialState.INFRA_FAILED, True)
    assert verdict.exclude_node is fault
    if state in ("TIMEOUT", "DEADLINE"):
        assert "before its trial began" in verdict.explanation
        assert "setup line" in verdict.explanation


def test_a_node_that_went_down_under_an_attempt_is_the_node_s_fault(tmp_path):
    verdict = verdict_of(record(), JobStatus("NODE_FAIL", True), tmp_path)
    assert (verdict.state, verdict.exclude_node) == (TrialState.INFRA_FAILED, True)
    assert "on n1" in verdict.explanation
    timeout = verdict_of(record(), JobStatus("TIMEOUT", True), tmp_path)
    assert timeout.state is TrialState.TIMEOUT, "an attempt that had begun"


TIMEOUT = record("time limit", "TIMEOUT")
PREEMPTED = record("preemption", "PREEMPTED")


@pytest.mark.parametrize("last", [TIMEOUT, PREEMPTED])
@pytest.mark.parametrize(
    ("status", "state"),
    [
        (JobStatus("FAILED", True, None, "setup line failed: x", never_started=True), "INFRA_FAILED"),
        (JobStatus("CANCELLED", True, None, "held", never_started=True), "INFRA_FAILED"),
        (JobStatus("CANCELLED", True), "CANCELLED"),
        (JobStatus("COMPLETED", True), "INFRA_FAILED"),
    ],
)  # fmt: skip
def test_the_record_of_a_start_that_the_job_ended_itself_is_not_the_last_word(
    tmp_path, last, status, state
):
    verdict = verdict_of(last, status, tmp_path)
    assert verdict.state == state
    assert verdict.retry is (state == "INFRA_FAILED")
    assert last_word(last, status) is None


def test_a_part_that_was_drawn_says_nothing_of_how_its_job_ended(tmp_path):
    """The job was given the rest and ended before it took it."""
    last, status = record(None, HANDED_OVER), JobStatus("NODE_FAIL", True)
    assert last_word(last, status) is None
    assert verdict_of(last, status, tmp_path).state is TrialState.INFRA_FAILED


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "UNKNOWN", "ENDED"])
def test_it_is_where_the_job_ended_with_it(tmp_path, state):
    assert verdict_of(TIMEOUT, JobStatus(state, True), tmp_path).state is TrialState.TIMEOUT
    completed = record(None, "INFRA_FAILED")
    assert last_word(completed, JobStatus("COMPLETED", True)) is completed
