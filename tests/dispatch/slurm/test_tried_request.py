"""Requests that Slurm is asked about before anything is submitted."""

from __future__ import annotations

import pytest

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.slurm.tried_request import check_accepted, request_check
from agenttts.errors import MissingRequirement

PARTITIONS = (
    "PartitionName=cpu Default=YES MaxTime=1-00:00:00 State=UP TotalNodes=2\\n"
    "PartitionName=gpu MaxTime=02:00:00 State=DOWN TotalNodes=4"
)


def profile(**trial: object) -> Profile:
    return Profile.model_validate(
        {"kind": "slurm", "gpus_per_node": 4, "trial": {"partition": "gpu", **trial}}
    )


def check(gpus: int = 2, **trial: object) -> None:
    site = profile(**trial)
    check_accepted("trial", site, site.trial, gpus)


@pytest.fixture
def slurm(fake, tmp_path):
    """A cluster whose sbatch accepts what it is asked about, and notes it."""
    fake("scontrol", f"printf '{PARTITIONS}'")
    fake("squeue", "echo 'JOBID|STATE|REASON|COMMENT'")
    fake("sinfo", "exit 0")
    fake("sbatch", f'echo "$@" >> {tmp_path}/asked')
    return fake


def test_the_real_request_is_tried_and_nothing_is_submitted(slurm, tmp_path):
    check(gpus=3, time="01:00:00", account="mine")
    [asked] = (tmp_path / "asked").read_text().splitlines()
    assert asked.startswith("--test-only ")
    for option in ("--partition=gpu", "--account=mine", "3"):
        assert option in asked


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "allocation failure: Invalid qos specification",
        "sbatch: error: Invalid generic resource (gres) specification",
        "allocation failure: Requested node configuration is not available",
        "allocation failure: Requested time limit is invalid (missing or exceeds some limit)",
    ],
)  # fmt: skip
def test_a_refusal_is_one_error_with_what_slurm_says(slurm, said):
    slurm("sbatch", f"echo '{said}' >&2; exit 1")
    with pytest.raises(MissingRequirement) as refused:
        check(time="01:00:00")
    text = str(refused.value)
    assert said in text
    assert "the trial job (2 GPUs; 'sbatch --test-only')" in text
    assert "correct trial's partition, account, qos, time, mem or cpus" in text


@pytest.mark.parametrize(
    "said",
    [
        "allocation failure: Socket timed out on send/recv operation",
        "allocation failure: Required partition not available (inactive or drain)",
        "allocation failure: Required node not available (down, drained or reserved)",
        "allocation failure: Requested nodes are busy",
        "sbatch: fatal: Could not establish a configuration source",
        "allocation failure: Requested partition configuration not available now",
    ],
)
def test_what_may_pass_is_no_error(slurm, said):
    slurm("sbatch", f"echo '{said}' >&2; exit 1")
    check(time="01:00:00")


def test_a_test_that_a_signal_ended_is_no_error(slurm):
    slurm("sbatch", "kill -TERM $$")
    check()


def test_nodes_that_are_out_of_service_may_have_what_is_requested(slurm):
    said = "allocation failure: Requested node configuration is not available"
    slurm("sbatch", f"echo '{said}' >&2; exit 1")
    slurm("sinfo", "echo n7")
    check(time="01:00:00")


def test_several_nodes_are_tried_as_the_exclusion_of_all_others(slurm, tmp_path):
    slurm("scontrol", f"printf '{PARTITIONS.replace('State', 'Nodes=gpu[1-8] State')}'")
    check(time="01:00:00", nodelist="gpu[3-4]")
    asked = (tmp_path / "asked").read_text()
    assert "--exclude=gpu[1-2,5-8] " in asked
    assert "nodelist" not in asked
    with pytest.raises(MissingRequirement, match="trial: nodelist names gpu9, and"):
        check(time="01:00:00", nodelist="gpu[8-9]")
    slurm("scontrol", "exit 1")
    check(time="01:00:00", nodelist="gpu[8-9]")


def test_a_reservation_that_has_not_begun_is_waited_for(slurm):
    """Slurm 22.05 answers this to a test, and accepts the job."""
    slurm("sbatch", "echo 'allocation failure: Invalid time specified' >&2; exit 1")
    check(time="01:00:00", reservation="r1")
    site = profile(time="01:00:00", reservation="r1")
    found = request_check("trial", site, site.trial, 1)
    assert found.ok is None
    assert "jobs would wait at present (1 GPU)" in found.detail
    with pytest.raises(MissingRequirement, match="Invalid time specified"):
        check(time="01:00:00")


def test_a_request_without_an_option_for_gpus(slurm, tmp_path):
    """For clusters that refuse such an option; the fix of a refusal names it."""
    slurm("sbatch", f'echo "$@" >> {tmp_path}/asked; case "$*" in *--gres=gpu*|*--gpus*) echo "Invalid generic resource (gres) specification" >&2; exit 1;; esac')  # fmt: skip
    for form in ("gpus-per-node", "gres", "gpus"):
        with pytest.raises(
            MissingRequirement, match=r"gpu_request \(none if sinfo shows no GPUs\)"
        ):
            check(time="01:00:00", gpu_request=form)
    check(time="01:00:00", gpu_request="none", cpus=4)
    assert "--cpus-per-task=8" in (tmp_path / "asked").read_text().splitlines()[-1]


def test_the_fix_names_what_narrows_the_nodes(slurm):
    slurm("sbatch", "echo 'Requested node configuration is not available' >&2; exit 1")
    with pytest.raises(MissingRequirement, match="gpu_type, constraint, exclude in the profile"):
        check(time="01:00:00", constraint="nvlink", exclude="gpu7")


def test_a_refusal_whose_reason_is_known_names_what_is_valid(slurm):
    slurm("sbatch", "echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1")
    with pytest.raises(
        MissingRequirement, match="partition 'gpuu' does not exist; valid: cpu, gpu"
    ):
        check(partition="gpuu", time="01:00:00")


def test_jobs_that_sbatch_takes_and_slurm_never_starts(slurm):
    """A partition that is down is waited for."""
    with pytest.raises(MissingRequirement, match="time is 03:00:00, and the limit of gpu"):
        check(time="03:00:00")


@pytest.mark.parametrize(
    "trial",
    [{"time": "03:00:00", "qos": "long"}, {"partition": "public", "time": "01:00:00"}],
)
def test_what_sbatch_takes_is_right_where_the_cluster_changes_it(slurm, trial):
    """A QOS allows more time than its partition; a plugin replaces a public partition's name."""
    check(**trial)


def test_a_limit_that_colleagues_use_up_may_pass(slurm):
    slurm("sbatch", "echo 'sbatch: error: AssocGrpSubmitJobsLimit' >&2; exit 1")
    check(time="01:00:00")


@pytest.mark.parametrize("answer", ["exit 1", "echo 'what is that'", "exit 0"])
def test_a_cluster_that_does_not_show_its_partitions(slurm, tmp_path, answer):
    slurm("scontrol", answer)
    check(time="01:00:00")
    assert (tmp_path / "asked").exists()
