"""Messages that ask for another profile name the command that gives it to the run."""

from __future__ import annotations

import pytest

from agenttts.dispatch.slurm import queue_reasons
from agenttts.run.directory import RunDirectory
from agenttts.run.profile_fix import profile_fix, with_profile_fix

SPEC = """\
name: any
task: {name: retrieval_qa}
stages: {answer: {models: [m], prompt_tokens: 1, decode_tokens: 1, samples: [1, 2]}}
models: {m: {path: org/m, params: 1e9}}
search: {budget: 1}
"""


@pytest.fixture
def run(tmp_path):
    def make(cluster: str) -> RunDirectory:
        (tmp_path / "any").mkdir()
        (tmp_path / "any" / "spec.yaml").write_text(f"{SPEC}cluster: {cluster}\n")
        return RunDirectory(tmp_path / "any")

    return make


@pytest.mark.parametrize(
    ("cluster", "file"), [("mine", "slurm/mine.yaml"), ("/etc/site.yml", "/etc/site.yml")]
)
def test_the_file_and_the_command_are_named(run, cluster, file):
    made = run(cluster)
    command = f"'agenttts-hpc resume {made.path} --cluster {cluster}'"
    assert profile_fix(made) == f"edit {file}, then {command}"
    assert profile_fix(made, retry=True).endswith(" --retry-failed'")


def test_every_reason_of_the_queue_that_asks_for_another_profile_gets_it(run):
    made = run("mine")
    asking = [reason for reason in queue_reasons._TABLE.values() if "profile" in reason.fix]
    assert len(asking) > 10
    for reason in asking:
        assert with_profile_fix(reason.fix, made).endswith(profile_fix(made))


@pytest.mark.parametrize(
    "text", ["the node lost power", "choose another profile (--cluster local)", ""]
)
def test_other_messages_stay_as_they_are(run, text):
    assert with_profile_fix(text, run("mine")) == text


def test_a_damaged_spec_does_not_hide_the_message(tmp_path):
    assert with_profile_fix("lower it in the profile", RunDirectory(tmp_path)) == (
        "lower it in the profile"
    )
