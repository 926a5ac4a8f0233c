"""Why jobs wait: one table, every reason in a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.slurm.queue_reasons import Waiting, end_sentence, wait_sentence, waiting_for


@pytest.mark.parametrize(
    ("code", "waiting", "part"),
    [
        ("JobArrayTaskLimit", "ours", "the profile's max_running"),
        ("Dependency", "ours", "the job before it"),
        ("BeginTime", "ours", "requeued"),
        ("Priority", "wait", "higher priority"),
        ("(Resources)", "wait", "no node has free"),
        ("None", "wait", "not looked at it yet"),
        ("PartitionDown", "wait", "'sinfo' shows when"),
        ("PartitionInactive", "wait", "'sinfo' shows when"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "wait", "sinfo -R"),
        ("(ReqNodeNotAvail, May be reserved for other job)", "wait", "reserved"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "wait", "sinfo -R"),
        ("QOSMaxGRESPerUser", "wait", "when others of these jobs have ended"),
        ("QOSMaxJobsPerUserLimit", "wait", "sacctmgr show qos"),
        ("AssocGrpGRES", "wait", "as much as they may"),
        ("AssocGrpCpuLimit", "wait", "as much as they may"),
        ("AssocMaxJobsLimit", "wait", "as much as they may"),
        ("AssocGrpCPUMinutesLimit", "wait", "used up"),
        ("AssocGrpBillingMinutes", "wait", "used up"),
        ("AssocGrpCPURunMinutesLimit", "wait", "the jobs that run"),
        ("QOSGrpGRESMinutes", "wait", "used up"),
        ("JobHeldUser", "never", "'scontrol release 12_3' lets it run"),
        ("JobHeldAdmin", "never", "administrator"),
        ("launch failed requeued held", "never", "'scontrol release 12_3'"),
        ("(launch_failed_requeued_held)", "never", "'scontrol release 12_3'"),
        ("JobHoldMaxRequeue", "never", "'scontrol release 12_3'"),
        ("PartitionTimeLimit", "never", "lower time in the profile"),
        ("PartitionNodeLimit", "wait", "sinfo -R"),
        ("SPECIAL_EXIT", "never", "'scontrol release 12_3' lets it run"),
        ("DependencyNeverSatisfied", "never", "'scancel 12_3'"),
        ("BadConstraints", "never", "correct constraint"),
        ("InvalidAccount", "never", "correct account"),
        ("InvalidQOS", "never", "correct qos"),
        ("QOSMaxGRESPerJob", "never", "ask for less"),
        ("QOSMaxCpuPerNode", "never", "ask for less"),
        ("AssocMaxCpuPerJobLimit", "never", "ask for less"),
        ("QOSMaxWallDurationPerJobLimit", "never", "lower time"),
        ("AssocMaxGRESMinutesPerJob", "never", "lower time"),
        ("QOSMinGRES", "never", "ask for more"),
    ],
)  # fmt: skip
def test_a_reason_says_whether_to_wait_and_what_helps(code, waiting, part):
    assert waiting_for(code).waiting == waiting
    sentence = wait_sentence(code, "12_3")
    assert sentence.startswith(f"{code}: ")
    assert part in sentence
    assert "JOB" not in sentence


@given(st.text(max_size=40))
def test_a_reason_that_is_not_known_is_waited_for_and_shown_as_it_is(code):
    code = f"New{code}"
    assert waiting_for(code).waiting is Waiting.WAIT
    assert wait_sentence(code, "1") == code


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("None", ""),
        ("NonZeroExitCode", ""),
        ("TimeLimit", "it reached its time limit (raise time in the profile)"),
        ("PartitionTimeLimit", "it never started: PartitionTimeLimit: its time limit is above"),
        ("RaisedSignal:9(Killed)", "RaisedSignal:9(Killed)"),
    ],
)
def test_why_a_job_ended(code, sentence):
    assert end_sentence(code, "1").startswith(sentence)
    assert bool(end_sentence(code, "1")) == bool(sentence)


def test_a_node_that_cannot_write_the_log_is_thought_of():
    assert "file system that the nodes share" in end_sentence("JobLaunchFailure", "1")
