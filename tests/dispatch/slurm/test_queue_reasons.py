"""Why jobs wait: one table, every reason in a sentence."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agenttts.dispatch.slurm.queue_reasons import Waiting, end_sentence, wait_sentence, waiting_for


@pytest.mark.parametrize(
    ("code", "waiting", "part"),
    [
        ("JobArrayTaskLimit", "ours", "the profile's max_running"),
        ("Dependency", "ours", "waits for another job to end"),
        ("BeginTime", "ours", "requeued"),
        ("Priority", "wait", "higher priority"),
        ("(Resources)", "wait", "resources that it requests are not free"),
        ("None", "wait", "not considered it yet"),
        ("PartitionDown", "wait", "'sinfo' shows when"),
        ("PartitionInactive", "wait", "'sinfo' shows when"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "wait", "sinfo -R"),
        ("(ReqNodeNotAvail, May be reserved for other job)", "wait", "reserved"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "wait", "sinfo -R"),
        ("QOSMaxGRESPerUser", "wait", "when other jobs that count against the limit have ended"),
        ("QOSMaxJobsPerUserLimit", "wait", "sacctmgr show qos"),
        ("AssocGrpGRES", "wait", "have reached a limit"),
        ("AssocGrpCpuLimit", "wait", "have reached a limit"),
        ("AssocMaxJobsLimit", "wait", "have reached a limit"),
        ("AssocGrpCPUMinutesLimit", "wait", "used up"),
        ("AssocGrpBillingMinutes", "wait", "used up"),
        ("AssocGrpCPURunMinutesLimit", "wait", "the running jobs"),
        ("QOSGrpGRESMinutes", "wait", "used up"),
        ("JobHeldUser", "never", "'scontrol release 12_3' releases it"),
        ("JobHeldAdmin", "never", "administrator"),
        ("launch failed requeued held", "never", "'scontrol release 12_3'"),
        ("(launch_failed_requeued_held)", "never", "'scontrol release 12_3'"),
        ("JobHoldMaxRequeue", "never", "'scontrol release 12_3'"),
        ("PartitionTimeLimit", "never", "lower the key time in the profile"),
        ("PartitionNodeLimit", "wait", "sinfo -R"),
        ("SPECIAL_EXIT", "never", "'scontrol release 12_3' releases it"),
        ("DependencyNeverSatisfied", "never", "'scancel 12_3'"),
        ("BadConstraints", "never", "correct the key constraint"),
        ("InvalidAccount", "never", "correct the key account"),
        ("InvalidQOS", "never", "correct the key qos"),
        ("QOSMaxGRESPerJob", "never", "lower the request"),
        ("QOSMaxCpuPerNode", "never", "lower the request"),
        ("AssocMaxCpuPerJobLimit", "never", "lower the request"),
        ("QOSMaxWallDurationPerJobLimit", "never", "lower the key time"),
        ("AssocMaxGRESMinutesPerJob", "never", "lower the key time"),
        ("QOSMinGRES", "never", "raise the request"),
        ("MaxGRESPerAccount", "wait", "jobs of your account"),
        ("MaxCpuPerAccount", "wait", "sacctmgr show qos"),
        ("MaxSubmitJobsPerAccount", "wait", "jobs of your account"),
        ("ReqNodeNotAvail(Unavailable:n[1-3])", "wait", "sinfo -R"),
        ("(ReqNodeNotAvail(Unavailable:held1))", "wait", "sinfo -R"),
        ("DeadLine", "never", "correct the key deadline"),
        # What Slurm says in words, as squeue shows it and as it stands in the comment of a job that
        # was given up.
        ("user env retrieval failed requeued held", "never", "'scontrol release 12_3'"),
        ("user_env_retrieval_failed_requeued_held", "never", "get-user-env"),
        ("Job's account not permitted to use this partition (gpu allows a not b)", "never", "correct the key account or partition"),
        ("Job's_account_not_permitted_to_use_this_partition_(gpu_denies_a,b_including_b)", "never", "correct the key account"),
        ("Job s account not permitted to use this partition gpu allows a not b", "never", "correct the key account"),
        ("Job's QOS not permitted to use this partition (gpu allows a not b)", "never", "correct the key qos or partition"),
        ("AccountNotPermitted", "never", "correct the key account"),
        ("GroupNotAllowed", "never", "is not allowed"),
        # What sites say.
        ("Held by submit plugin: account over quota", "never", "'scontrol release 12_3'"),
        ("JobHeldBySite", "never", "'scontrol release 12_3'"),
        ("IS_HELD", "never", "it is held"),
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
    assume(not re.search("held|permitted|allowed|retrieval", code, re.IGNORECASE))
    assert waiting_for(code).waiting is Waiting.WAIT
    assert wait_sentence(code, "1") == code


WORD = st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda word: word not in ("held", "not"))


@given(st.lists(WORD, max_size=4), st.lists(WORD, max_size=4), st.sampled_from(["held", "Held", "HELD", "not permitted", "NOT allowed"]), st.sampled_from(" _-"))  # fmt: skip
def test_a_reason_in_anybody_s_words_that_says_held_or_not_permitted(before, after, said, space):
    code = space.join([*before, *said.split(), *after])
    assert waiting_for(code).waiting is Waiting.NEVER
    assert "scontrol" in wait_sentence(code, "7")


@given(st.from_regex(r"[A-Z]?[a-z]{0,5}held[a-z]{1,5}|[a-z]{1,5}held|[Ss]heldon", fullmatch=True))
def test_a_word_with_held_in_it_is_another_word(word):
    assert waiting_for(word).waiting is Waiting.WAIT


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


@pytest.mark.parametrize(
    "code", ["JobLaunchFailure", "RaisedSignal:53(Real-time_signal_19)", "RaisedSignal:53"]
)
def test_a_node_that_cannot_write_the_log_is_thought_of(code):
    assert "file system that the nodes share" in end_sentence(code, "1")
