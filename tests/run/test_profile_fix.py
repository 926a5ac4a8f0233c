"""Messages that ask for another profile name the command that gives it to the run."""

from __future__ import annotations

import pytest

from agenttts.dispatch.slurm import queue_reasons
from agenttts.dispatch.slurm.queue_reasons import end_sentence
from agenttts.run.directory import RunDirectory
from agenttts.run.profile_fix import names_a_command, profile_fix, with_profile_fix

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


def test_a_reason_that_names_its_own_command_gets_no_other():
    reason = end_sentence("JobLaunchFailure", "1")
    assert "'agenttts-hpc launch SPEC --results DIR'" in reason
    assert names_a_command(reason)
    assert not names_a_command("its node went down")


def test_a_model_that_a_node_cannot_read_is_named_by_its_key(run):
    made = run("mine")
    spec = made.spec_file
    spec.write_text(spec.read_text().replace("path: org/m", "path: /models/m, options: {tokenizer: /models/t}"))  # fmt: skip
    again = f"'agenttts-hpc resume {made.path} --retry-failed'"
    for place, key in (("/models/m", "models.m.path"), ("/models/t", "models.m.options.tokenizer")):
        text = f"before the trial began on n1: {place} cannot be read on this node: No such file"
        said = with_profile_fix(f"{text} (the profile)", made, retry=True)
        assert said.startswith(text)
        assert said.endswith(f"{place} is the value of {key} in the spec: put the model there, where the nodes can read it, then {again}")  # fmt: skip
    other = with_profile_fix(
        "/models/x cannot be read on this node: No such file", made, retry=True
    )
    assert other.endswith(f"When the cause is fixed, {again} tries failed trials again")


def test_a_damaged_spec_does_not_hide_the_message(tmp_path):
    assert with_profile_fix("lower it in the profile", RunDirectory(tmp_path)) == (
        "lower it in the profile"
    )
