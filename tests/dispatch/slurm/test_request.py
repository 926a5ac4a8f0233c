"""From a profile to sbatch's options, as tables."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from agenttts.dispatch.profile import JobResources, describe, load_profile
from agenttts.dispatch.slurm.request import JobNeeds, sbatch_options
from agenttts.dispatch.slurm.sbatch_options import flag_line
from agenttts.errors import UserError


def options(gpus: int = 0, requeue: bool = True, **resources: object) -> dict[str, str]:
    needs = JobNeeds("i0t1-r", "agenttts batch=r-0", gpus, grace_seconds=60, requeue=requeue)
    return sbatch_options(JobResources(**resources), needs)


def test_a_plain_request_says_nothing_that_the_profile_does_not():
    assert options() == {
        "job-name": "i0t1-r",
        "comment": "agenttts batch=r-0",
        "time": "240",
        "nodes": "1",
        "cpus-per-task": "1",
        "signal": "B:USR2@60",
        "requeue": "true",
    }


@pytest.mark.parametrize(
    ("resources", "gpus", "expected"),
    [
        ({}, 2, {"gpus-per-node": "2"}),
        ({"gpu_type": "a100"}, 2, {"gpus-per-node": "a100:2"}),
        ({"gpu_request": "gres"}, 2, {"gres": "gpu:2"}),
        ({"gpu_request": "gres", "gpu_type": "a100"}, 2, {"gres": "gpu:a100:2"}),
        ({"gpu_request": "gpus"}, 2, {"gpus": "2"}),
        ({"gpu_request": "gpus", "gpu_type": "a100"}, 2, {"gpus": "a100:2"}),
        ({"gpu_request": "none", "gpu_type": "a100"}, 2, {}),
        ({"gpu_request": "none", "mem_per_gpu": "32G", "sbatch": {"gres": "lscratch:100"}}, 2, {"mem": "64G", "gres": "lscratch:100"}),
        ({"gpu_request": "gres", "sbatch": {"gres": "lscratch:100"}}, 2, {"gres": "gpu:2,lscratch:100"}),
        ({"sbatch": {"gres": "lscratch:100"}}, 2, {"gpus-per-node": "2", "gres": "lscratch:100"}),
        ({"sbatch": {"gres": "lscratch:100"}}, 0, {"gres": "lscratch:100"}),
        ({"gpu_type": "a100"}, 0, {}),
        ({"mem": "32G"}, 2, {"gpus-per-node": "2", "mem": "32G"}),
        ({"mem_per_gpu": "32G"}, 3, {"gpus-per-node": "3", "mem": "96G"}),
        ({"mem": "4G", "mem_per_gpu": "32G"}, 3, {"gpus-per-node": "3", "mem": "96G"}),
        ({"mem": "4G", "mem_per_gpu": "32G"}, 0, {"mem": "4G"}),
        ({"mem_per_gpu": "32G"}, 0, {}),
        ({"mem": "64gb"}, 0, {"mem": "64G"}),
        ({"mem": "0"}, 0, {"mem": "0"}),
        ({"mem": "4000"}, 0, {"mem": "4000"}),
        ({"cpus": 4}, 2, {"gpus-per-node": "2", "cpus-per-task": "8"}),
        ({"time": "1-12"}, 0, {"time": "2160"}),
        ({"wckey": "project7"}, 0, {"wckey": "project7"}),
        ({"requeue": False}, 0, {"requeue": "false"}),
        ({"partition": "a,b", "account": "me", "qos": "high", "reservation": "r1"}, 0, {"partition": "a,b", "account": "me", "qos": "high", "reservation": "r1"}),
        ({"constraint": "[rack1*2&rack2*4]", "exclude": "n[1-3,7]", "nodelist": "gpu-a.b"}, 0, {"constraint": "[rack1*2&rack2*4]", "exclude": "n[1-3,7]", "nodelist": "gpu-a.b"}),
        ({"sbatch": {"mail_type": "END,FAIL", "nice": "100"}}, 0, {"mail-type": "END,FAIL", "nice": "100"}),
    ],
)  # fmt: skip
def test_resources_become_options(resources, gpus, expected):
    plain = options(gpus=0) | ({"cpus-per-task": str(gpus)} if gpus else {})
    assert options(gpus, **resources) == plain | expected


@pytest.mark.parametrize(
    ("resources", "gpus", "expected"),
    [
        ({"mem": "4G", "mem_per_gpu": "32G"}, 3, ("96G", 96 << 30)),
        ({"mem": "4G", "mem_per_gpu": "32G"}, 0, ("4G", 4 << 30)),
        ({"mem_per_gpu": "32G"}, 0, None),
        ({"mem": "0"}, 2, None),
        ({}, 2, None),
    ],
)
def test_the_memory_of_a_job_is_known_as_it_is_requested(resources, gpus, expected):
    assert JobResources(**resources).memory_for(gpus) == expected


def test_a_job_that_must_not_be_started_again_is_not_whatever_the_profile_says():
    assert options(requeue=False)["requeue"] == "false"
    assert flag_line("requeue", "false") == "--no-requeue"
    assert flag_line("requeue", "true") == "--requeue"


def test_a_name_of_a_model_cannot_add_a_line():
    needs = JobNeeds("a\nb", "agenttts a\n#SBATCH --hold\x00\u2028c", 0, grace_seconds=60)
    found = sbatch_options(JobResources(), needs)
    assert found["job-name"] == "a b"
    assert found["comment"] == "agenttts a #SBATCH --hold c"


@pytest.mark.parametrize(
    ("option", "text", "line"),
    [
        ("exclusive", "true", "--exclusive"),
        ("exclusive", "Yes", "--exclusive"),
        ("exclusive", "false", None),
        ("exclusive", "user", "--exclusive=user"),
        ("no-kill", "false", None),
        ("some-new-flag", "true", "--some-new-flag"),
        ("some-new-flag", "false", None),
        ("kill-on-invalid-dep", "true", "--kill-on-invalid-dep=yes"),
        ("kill-on-invalid-dep", "no", "--kill-on-invalid-dep=no"),
        ("wait-all-nodes", "true", "--wait-all-nodes=1"),
        ("licenses", "yes", "--licenses=yes"),
        ("mail-type", "END", "--mail-type=END"),
    ],
)
def test_truth_values_are_written_as_slurm_wants_them(option, text, line):
    assert flag_line(option, text) == line


@pytest.mark.parametrize("name", ["no", "on", "OFF", "true"])
@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint", "reservation", "wckey", "exclude", "nodelist"])  # fmt: skip
def test_a_name_that_reads_as_a_truth_value_is_passed_on(key, name):
    needs = JobNeeds("job", "agenttts x", 1, grace_seconds=60)
    found = sbatch_options(JobResources.model_validate({key: name}), needs)
    assert flag_line(key, found[key]) == f"--{key}={name}"


def test_truth_values_and_numbers_of_python_are_taken():
    assert JobResources(sbatch={"exclusive": True, "nice": 5}).sbatch == {
        "exclusive": "true",
        "nice": "5",
    }


RESERVED = {
    "comment": "found again", "job-name": "squeue", "job_name": "squeue", "array": "max_running", "signal": "grace_seconds",
    "requeue": "requeue beside sbatch", "no-requeue": "requeue beside sbatch", "output": "slurm/", "error": "slurm/",
    "open-mode": "log", "dependency": "controller", "wrap": "batch file", "nodes": "one node", "ntasks": "ntasks-per-node: 1",
    "time": "time beside", "partition": "partition beside", "account": "account beside", "qos": "qos beside",
    "constraint": "constraint beside", "reservation": "reservation beside", "wckey": "wckey beside",
    "nodelist": "nodelist beside", "exclude": "exclude beside", "mem": "mem beside", "mem-per-cpu": "mem_per_gpu",
    "mem_per_gpu": "mem_per_gpu beside", "cpus-per-task": "cpus beside", "gpus": "gpu_request (gpus)",
    "gpus-per-node": "gpu_type", "hold": "never starts", "wait": "end of the job", "parsable": "job's number",
    "clusters": "login node", "test-only": "nothing",
}  # fmt: skip


@pytest.mark.parametrize(("option", "instead"), RESERVED.items())
def test_options_that_the_project_sets_are_refused_by_name(option, instead):
    with pytest.raises(ValidationError) as caught:
        JobResources(sbatch={option: "x"})
    message = str(caught.value)
    assert f"'{option}' is set by the project" in message
    assert instead in message


@pytest.mark.parametrize(
    ("sbatch", "message"),
    [
        ({"comm": "x"}, "'comm' is short for comment, which is set by the project"),
        ({"J": "x"}, "'J' is a short name; write the long name, job-name: it shows run and trial"),
        ({"L": "x"}, "'L' is a short name; write the long name, licenses"),
        ({"--mail-type": "x"}, "'--mail-type' is not a valid option; valid: a long name without dashes"),
        ({"mail type": "x"}, "'mail type' is not a valid option"),
        ({"mail-type": "END\n#SBATCH --hold"}, r"'mail-type': 'END\n#SBATCH --hold' contains '\n'"),
        ({"mail-type": "$(id)"}, "'mail-type': '$(id)' contains $, which only a shell interprets"),
        ({"mail-user": "a;b"}, "contains ;"),
        ({"mail-user": "a|b"}, "contains |"),
        ({"mail-user": " "}, "'mail-user': it is empty"),
        ({"mail-type": True}, "'mail-type': its value cannot be true or false"),
        ({"ntasks-per-node": "4"}, "'ntasks-per-node': a job is one task, and Slurm would give it"),
        ({"tres-per-task": "gres/gpu:2"}, "'tres-per-task' is set by the project: use the keys cpus"),
        ({"gres": "gpu:2"}, "'gres': the project requests GPUs itself; use the keys gpu_request"),
        ({"gres": "lscratch:10, gpu:a100:2"}, "'gres': the project requests GPUs itself"),
        ({"mail-type": "END", "mail_type": "FAIL"}, "'mail_type' is given twice"),
    ],
)  # fmt: skip
def test_other_options_that_would_come_out_wrong_are_refused(sbatch, message):
    with pytest.raises(ValidationError) as caught:
        JobResources(sbatch=sbatch)
    assert message in str(caught.value)


def test_features_may_be_joined_and_one_task_named():
    assert JobResources(sbatch={"ntasks-per-node": 1}).sbatch == {"ntasks-per-node": "1"}
    assert JobResources(sbatch={"prefer": "a100|h100&ib"}).sbatch == {"prefer": "a100|h100&ib"}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *[(key, text) for key in ("mem", "mem_per_gpu") for text in ("nan", "$(id)", "1.5G", "-1G", "G", "", "12 G", "64GiB", "٣G", "1G\n")],
        *[(key, text) for key in ("partition", "account", "qos", "reservation", "wckey", "gpu_type") for text in ("", "a b", "a\nb", "-x", "a;b", "$(id)", "a,", "`id`", "'a'")],
        *[("gpu_type", text) for text in ("a100,h100", "a100:2", "gpu:a100", "a100=2")],
        *[(key, text) for key in ("nodelist", "exclude") for text in ("", "n 1", "n1\nn2", "n1;n2", "$(hostname)", "-w")],
        *[("constraint", text) for text in ("", "a b", "a\nb", "$x", "a;b", "`a`", "'a'")],
        *[("time", text) for text in ("", "nan", "4h", "1:00:00\n", "$(id)")],
    ],
)  # fmt: skip
def test_values_that_slurm_does_not_know_are_refused(key, text):
    with pytest.raises(ValidationError) as caught:
        JobResources(**{key: text})
    assert re.search("valid", str(caught.value))


def test_a_profile_s_mistake_names_file_line_and_key(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text("kind: slurm\ntrial:\n  mem: nan\n  sbatch: {comment: mine}\n")
    with pytest.raises(UserError) as caught:
        load_profile(str(path), [])
    message = str(caught.value)
    assert "big.yaml:3: trial.mem: 'nan' is not a valid amount of memory" in message
    assert "big.yaml:4: trial.sbatch: 'comment' is set by the project" in message


def test_unquoted_values_come_as_they_are_written(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text(
        "kind: slurm\n"
        "trial: {time: 12:00:00, account: 12345, partition: 0700, nodelist: 1e3, mem: 4000, wckey: yes,\n"
        "        sbatch: {exclusive: true, kill-on-invalid-dep: yes, nice: 0100, begin: 16:00}}\n"
    )
    trial = load_profile(str(path), []).trial
    assert (trial.time, trial.account, trial.partition) == ("12:00:00", "12345", "0700")
    assert (trial.nodelist, trial.mem, trial.wckey) == ("1e3", "4000", "yes")
    assert trial.sbatch == {
        "exclusive": "true",
        "kill-on-invalid-dep": "yes",
        "nice": "0100",
        "begin": "16:00",
    }


def test_plans_show_what_is_set():
    shown = describe(JobResources(partition="gpu", gpu_request="gres", sbatch={"exclusive": True}))
    assert shown == {
        "partition": "gpu",
        "time": "04:00:00",
        "cpus": 1,
        "gpu_request": "gres",
        "sbatch": {"exclusive": "true"},
    }


@pytest.mark.parametrize(
    ("profile", "nodes", "expected"),
    [(None, (), None), ("n1", (), "n1"), (None, ("n2", "n3"), "n2,n3"), ("n[1-2]", ("n3",), "n[1-2],n3")],
)  # fmt: skip
def test_nodes_that_failed_are_excluded_besides_the_profile_s(profile, nodes, expected):
    needs = JobNeeds("name", "comment", 0, 60, exclude=nodes)
    assert sbatch_options(JobResources(exclude=profile), needs).get("exclude") == expected
