"""SBATCH_* of the login shell go into the run's profile where that says nothing else."""

from __future__ import annotations

import pytest
import yaml

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import SCHEDULERS
from agenttts.dispatch.slurm.login_defaults import with_login_defaults
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.errors import UserError
from agenttts.spec import load_strict


def completed(text: str, **environment: str) -> Profile:
    return with_login_defaults(load_strict(Profile, text, "big.yaml"), environment)


def test_what_the_profile_leaves_open_is_taken():
    profile = completed(
        "kind: slurm",
        SBATCH_ACCOUNT="me",
        SBATCH_PARTITION="gpu",
        SBATCH_QOS="high",
        SBATCH_RESERVATION="course",
        SBATCH_CONSTRAINT="a100",
        SBATCH_WCKEY="w",
        SBATCH_TIMELIMIT="01:30:00",
        SBATCH_HINT="nomultithread",
        SBATCH_EXCLUSIVE="",
    )
    trial = profile.trial
    assert (trial.account, trial.partition, trial.qos, trial.reservation) == ("me", "gpu", "high", "course")  # fmt: skip
    assert (trial.constraint, trial.wckey, trial.time) == ("a100", "w", "01:30:00")
    assert trial.sbatch == {"hint": "nomultithread", "exclusive": "true"}
    assert (profile.controller.account, profile.controller.partition) == ("me", "gpu")
    assert profile.controller.time == "2-00:00:00", "the controller's default is the project's word"


def test_what_the_profile_says_stays():
    text = "{kind: slurm, trial: {account: mine, qos: null, sbatch: {hint: compute_bound}}}"
    trial = completed(text, SBATCH_ACCOUNT="me", SBATCH_QOS="high", SBATCH_HINT="x").trial
    assert (trial.account, trial.qos) == ("mine", None)
    assert trial.sbatch == {"hint": "compute_bound"}


def test_what_the_project_sets_itself_is_not_taken():
    environment = {
        f"SBATCH_{name}": "7"
        for name in ("JOB_NAME", "ARRAY_INX", "SIGNAL", "OUTPUT", "GPUS", "GRES", "WAIT", "CLUSTERS", "NO_REQUEUE")
    }  # fmt: skip
    profile = load_strict(Profile, "kind: slurm", "big.yaml")
    assert with_login_defaults(profile, environment) == profile


def test_empty_variables_are_left_alone():
    assert completed("kind: slurm", SBATCH_ACCOUNT="", SBATCH_HINT="").trial.account is None


@pytest.mark.parametrize("kind", sorted(SCHEDULERS))
def test_only_schedulers_that_use_sbatch_take_its_variables(kind):
    profile = load_strict(Profile, f"kind: {kind}", "big.yaml")
    scheduler = SCHEDULERS[kind]
    taken = scheduler.completed(profile, {"SBATCH_ACCOUNT": "me"}).trial.account
    assert taken == ("me" if issubclass(scheduler, SlurmScheduler) else None)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("SBATCH_ACCOUNT", "a b", "'a b' is not a valid name"),
        ("SBATCH_TIMELIMIT", "soon", "'soon' is not a valid time limit"),
        ("SBATCH_HINT", "$(id)", "contains $"),
        ("SBATCH_MEM_PER_CPU", "lots", "not a valid amount of memory"),
    ],
)
def test_a_variable_that_sbatch_would_not_take_is_named(name, text, what):
    with pytest.raises(UserError, match=f"^{name} in the environment: ") as caught:
        completed("kind: slurm", **{name: text})
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("text", "variables", "mem", "per_gpu"),
    [
        ("kind: slurm", {"MEM_PER_NODE": "64gb"}, "64G", None),
        ("kind: slurm", {"MEM_PER_GPU": "64G"}, None, "64G"),
        ("{kind: slurm, trial: {cpus: 4}}", {"MEM_PER_CPU": "4000"}, "16000", "16000"),
        ("{kind: slurm, trial: {mem: 8G}}", {"MEM_PER_NODE": "64G"}, "8G", None),
        ("{kind: slurm, trial: {mem_per_gpu: 8G}}", {"MEM_PER_NODE": "64G"}, None, "8G"),
        ("{kind: slurm, trial: {mem: null}}", {"MEM_PER_CPU": "64G"}, None, None),
    ],
)  # fmt: skip
def test_memory_is_taken_where_the_profile_says_nothing_of_it(text, variables, mem, per_gpu):
    profile = completed(text, **{f"SBATCH_{name}": value for name, value in variables.items()})
    assert (profile.trial.mem, profile.trial.mem_per_gpu) == (mem, per_gpu)
    assert profile.controller.mem == "2G"


@pytest.mark.parametrize("name", ["HF_TOKEN", "openai_api_key", " DB_PASSWORD"])
def test_a_secret_in_the_environment_is_not_frozen_into_a_file(name):
    with pytest.raises(UserError, match="SBATCH_EXPORT in the environment") as caught:
        completed("kind: slurm", SBATCH_EXPORT=f"ALL,A=1,{name}=hf_x")
    assert "hf_x" not in str(caught.value)
    assert f"{name.strip()} a value, and its name looks like that of a secret" in str(caught.value)
    fine = completed("kind: slurm", SBATCH_EXPORT=f"ALL,A=1,{name.strip()}")
    assert fine.trial.sbatch == {"export": f"ALL,A=1,{name.strip()}"}


def test_a_time_limit_below_the_grace_is_refused():
    with pytest.raises(UserError, match="SBATCH_TIMELIMIT in the environment: .*grace_seconds"):
        completed("{kind: slurm, grace_seconds: 90}", SBATCH_TIMELIMIT="1")


def test_the_frozen_profile_says_all_of_it():
    profile = completed("kind: slurm", SBATCH_ACCOUNT="007")
    text = yaml.safe_dump(profile.model_dump(mode="json"))
    again = load_strict(Profile, text, "profile.yaml")
    assert again == profile
    assert with_login_defaults(again, {"SBATCH_ACCOUNT": "other", "SBATCH_QOS": "x"}) == profile
