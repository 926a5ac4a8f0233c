"""Cluster profiles."""

from __future__ import annotations

import json

import pytest

from agenttts.dispatch.profile import (
    JobResources,
    Profile,
    load_profile,
    minutes,
    runs_in_container,
)
from agenttts.errors import UserError
from agenttts.spec.model import ContainerSection, JobSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 30), ("90:00", 90), ("04:00:00", 240), ("1-0", 1440), ("2-12:30", 3630), ("1-00:00:01", 1441), ("00:00:30", 1)],
)  # fmt: skip
def test_time_limits_as_sbatch_writes_them(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "4h", "1:2:3:4", "0", "00:00:00", "-5"])
def test_other_time_limits_are_refused(text):
    with pytest.raises(ValueError, match="is not a valid time limit"):
        minutes(text)


@pytest.mark.parametrize(
    ("of_profile", "of_spec", "expected"),
    [
        (None, {}, False),
        (None, {"image": "own.sif"}, True),
        (None, {"binds": ["/data"]}, True),
        ({}, {}, True),
        ({"image": "cluster.sif"}, {"image": "own.sif"}, True),
        ({"runtime": "none"}, {}, False),
        ({"runtime": "none"}, {"image": "own.sif", "binds": ["/data"]}, False),
    ],
)
def test_profile_and_spec_say_whether_trials_run_in_containers(of_profile, of_spec, expected):
    profile = Profile.model_validate({"kind": "local", "container": of_profile})
    spec = JobSpec.model_construct(container=ContainerSection.model_validate(of_spec))
    assert runs_in_container(spec, profile) is expected


def test_local_exists_without_any_file(tmp_path):
    assert load_profile("local", [tmp_path]).kind == "local"


def test_a_profile_is_found_by_name_nearest_folder_first(tmp_path):
    for folder, max_running in (("a", 3), ("b", 4)):
        (tmp_path / folder / "slurm").mkdir(parents=True)
        (tmp_path / folder / "slurm" / "big.yaml").write_text(
            f"kind: slurm\nmax_running: {max_running}\n"
        )
    assert load_profile("big", [tmp_path / "a", tmp_path / "b"]).max_running == 3
    assert load_profile(str(tmp_path / "b" / "slurm" / "big.yaml"), []).max_running == 4


def test_an_unknown_profile_lists_those_there_are(tmp_path):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "bigcluster.yaml").write_text("kind: slurm\n")
    with pytest.raises(
        UserError,
        match=r"unknown profile 'bigclustr'; valid: bigcluster, in_process, local; did you mean",
    ):
        load_profile("bigclustr", [tmp_path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: slurm\ntrial: {partitoin: gpu}", r"big.yaml:2: trial.partitoin: unknown key.*did you mean 'partition'"),
        ("kind: slurm\ntrial: {time: 4h}", r"big.yaml:2: trial.time: '4h' is not a valid time limit"),
        ("kind: pbs", r"big.yaml:1: kind: must be 'local', 'slurm' or 'in_process', not 'pbs'"),
        ("kind: slurm\nenv: {HF_TOKEN: abc}", r"env: 'HF_TOKEN' looks like the name of a secret.*export it in the shell.*as APPTAINERENV_HF_TOKEN"),
    ],
)  # fmt: skip
def test_mistakes_in_a_profile_are_named(tmp_path, text, message):
    path = tmp_path / "big.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_profile(str(path), [])


_REFUSED = "'{}' looks like the name of a secret, and profiles and runs are plain files; remove it here and export it in the shell"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("export HF_TOKEN=hf_x", "HF_TOKEN"),
        ("module load cuda; export A=1 HF_TOKEN='hf_x' && true", "HF_TOKEN"),
        ('DB_PASSWORD="a b" ./login', "DB_PASSWORD"),
        ("# export wandb_api_key=hf_x", "wandb_api_key"),
        ("export DB_PASSWORD='pa$word'", "DB_PASSWORD"),
        ("export HF_TOKEN=${HF_TOKEN:-hf_x}", "HF_TOKEN"),
        (": ${HF_TOKEN:=hf_x}", "HF_TOKEN"),
        ("bash -c 'export \"HF_TOKEN=hf_x\"'", "HF_TOKEN"),
        ("HF_TOKEN=$'hf_x'", "HF_TOKEN"),
        ("curl https://host/file?token=hf_x", "token"),
        ("--env=A=1,HF_TOKEN=hf_x", "HF_TOKEN"),
        ("--env=HF_TOKEN=hf_x,A=1", "HF_TOKEN"),
    ],
)
@pytest.mark.parametrize("key", ["setup", "container.options"])
def test_secrets_in_shell_lines_and_options_are_refused(tmp_path, key, line, name):
    text = _with_lines(tmp_path, key, ["true", line])
    with pytest.raises(UserError, match=f"{key}: {_REFUSED.format(name)}") as caught:
        load_profile(str(text), [])
    assert "hf_x" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("hf auth login --token hf_x", "token"),
        ("./login --user me --api-key=hf_x", "api-key"),
        ("./login --API_KEY 'hf_x'", "API_KEY"),
        ('bash -c "./login --docker-password hf_x"', "docker-password"),
        ('true;./login --token "hf_x" --verbose', "token"),
        ("--token=hf_x", "token"),
    ],
)
@pytest.mark.parametrize("key", ["setup", "container.options"])
def test_secrets_given_as_values_of_options_are_refused(tmp_path, key, line, name):
    text = _with_lines(tmp_path, key, ["true", line])
    with pytest.raises(UserError, match=f"{key}: '--{name}' has a value.* looks like") as caught:
        load_profile(str(text), [])
    assert "hf_x" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        'hf auth login --token "$(cat ~/.token)"',
        "./login --token $HF_TOKEN --api-key=`cat key`",
        "./login --token ~/.token --secret=/run/secret",
        "./login --token --verbose; curl --key client.pem",
        "docker login --password-stdin < file",
        "export HF_TOKEN=$(cat ~/.token)",
        'export HF_TOKEN="$(cat "$HOME/.token")"',
        "export HF_TOKEN=`cat ~/.token`",
        "export HF_TOKEN=$HF_TOKEN OTHER_TOKEN=${HF_TOKEN:-$OTHER} THIRD_KEY=${X:?unset}",
        "bash -c \"HF_TOKEN='$HF_TOKEN' python\"",
        "export HF_TOKEN= A=1; unset HF_TOKEN",
        "export HF_TOKEN_PATH=/home/me/.token",
        "module load secret-tools/1.0 token:v2",
        "sort -t: --key=2 hosts",
        '[[ $HF_TOKEN == "" ]] && exit 1',
        "--env",
        "--env=HF_TOKEN=$HF_TOKEN,A=1",
    ],
)
@pytest.mark.parametrize("key", ["setup", "container.options"])
def test_lines_that_hold_no_secret_are_taken(tmp_path, key, line):
    profile = load_profile(str(_with_lines(tmp_path, key, [line])), [])
    assert line in [*profile.setup, *(profile.container.options if profile.container else ())]


@pytest.mark.parametrize(
    "items",
    [
        ["--token", "hf_x"],
        ["--nv", "--docker-password", "hf_x", "--cleanenv"],
        ["--env", "A=1,HF_TOKEN=hf_x"],
    ],
)
def test_a_secret_in_the_item_after_its_option_is_refused(tmp_path, items):
    with pytest.raises(UserError, match=r"container\.options: .* looks like") as caught:
        load_profile(str(_with_lines(tmp_path, "container.options", items)), [])
    assert "hf_x" not in str(caught.value)
    for good in (["--token", "--nv"], ["--token", "$HF_TOKEN"], ["--nv", "--bind", "/a:/b"]):
        load_profile(str(_with_lines(tmp_path, "container.options", good)), [])


def _with_lines(folder, key, lines):
    """Write a profile with lines in one of its lists and return its path."""
    content = {"setup": lines} if key == "setup" else {"container": {"options": lines}}
    (folder / "p.yaml").write_text(json.dumps({"kind": "slurm", **content}))
    return folder / "p.yaml"


@pytest.mark.parametrize("key", ["max_running", "throttle", "gpus_per_node"])
def test_numbers_that_no_cluster_has_are_refused(tmp_path, key):
    """A plan has an object for each job: a billion of them took all memory of a login node."""
    (tmp_path / "big.yaml").write_text(f"kind: slurm\n{key}: 1000000000\n")
    with pytest.raises(UserError, match=rf"big\.yaml.*{key}.*1000000000"):
        load_profile(str(tmp_path / "big.yaml"), [])


def test_the_old_name_of_max_running_is_taken_with_a_warning(caplog, tmp_path):
    (tmp_path / "old.yaml").write_text("kind: slurm\nthrottle: 3\n")
    profile = load_profile(str(tmp_path / "old.yaml"), [])
    assert profile == Profile(kind="slurm", max_running=3)
    [record] = caplog.records
    assert "rename it: 'max_running: 3'" in record.getMessage()
    assert "throttle" not in profile.model_dump()
    (tmp_path / "old.yaml").write_text("kind: slurm\nthrottle: 3\nmax_running: 4\n")
    with pytest.raises(UserError, match="both are given; remove throttle"):
        load_profile(str(tmp_path / "old.yaml"), [])
    (tmp_path / "old.yaml").write_text("kind: slurm\nthrottle: 0\n")
    with pytest.raises(UserError, match="old.yaml:2: throttle: "):
        load_profile(str(tmp_path / "old.yaml"), [])


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("{1A: x}", "'1A' is not a valid name of a variable"),
        ("{'': x}", "'' is not a valid name of a variable"),
        ("{'A=B': x}", "'A=B' is not a valid name of a variable"),
        ("{'A B': x}", "'A B' is not a valid name of a variable"),
        ("{ä: x}", "is not a valid name of a variable"),
        ('{A: "x\\0y"}', "the value of A holds a zero byte"),
    ],
)
def test_variables_that_no_process_can_have_are_refused(tmp_path, env, said):
    (tmp_path / "p.yaml").write_text(f"kind: local\nenv: {env}\n")
    with pytest.raises(UserError, match=said):
        load_profile(str(tmp_path / "p.yaml"), [])


def test_numbers_of_a_profile_made_in_python_are_texts_of_sbatch():
    sbatch = JobResources(sbatch={"nice": 5, "exclusive": True, "licenses": 1.5}).sbatch
    assert sbatch == {"nice": "5", "exclusive": "true", "licenses": "1.5"}
