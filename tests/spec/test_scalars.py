"""Text fields get scalars as they are written in the file; numbers are numbers only where every
reader agrees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from agenttts.dispatch.profile import Profile
from agenttts.errors import UserError
from agenttts.spec import dump_spec, load_strict, parse_spec
from agenttts.spec.yaml_document import dump_document, load_plain, read_document

SPEC = """\
name: {name}
task: {{name: retrieval_qa, split: {split}}}
stages:
  {stage}: {{models: [{model}], prompt_tokens: 20, decode_tokens: 10}}
models:
  {model}: {{path: {path}, params: 7e9, engine: scripted, options: {options}}}
search: {{budget: 1000}}
"""
# Unquoted scalars of which YAML 1.1 makes something else than their text.
WRITTEN = ["12:00:00", "1-12:30:00", "30", "12345", "0700", "0o7", "0x1F", "0b11", "1e3", "1.50", "1_000", "+1", "yes", "No", "on", "OFF", "true", "2024-01-01", "2024-01-01 10:00:00", ".5", "190:20:30", ".inf"]  # fmt: skip


def spec_of(*overrides: str, **parts: str):
    parts = {"name": "r", "split": "s", "stage": "a", "model": "m", "path": "p", "options": "{}"} | parts  # fmt: skip
    return parse_spec(SPEC.format(**parts), "job.yaml", Path("/base"), overrides)


def profile_of(text: str, *overrides: str) -> Profile:
    return load_strict(Profile, text, "big.yaml", overrides)


@pytest.mark.parametrize("written", WRITTEN)
def test_text_fields_take_the_scalar_as_written(written):
    assert profile_of(f"kind: slurm\nenv: {{X: {written}}}\nsetup: [{written}]").env == {
        "X": written
    }
    assert profile_of(f"kind: slurm\nsetup: [{written}]").setup == [written]
    spec = spec_of(split=written)
    assert spec.task.split == written
    assert parse_spec(dump_spec(spec), "spec.yaml", Path("/base")) == spec


@pytest.mark.parametrize("written", WRITTEN)
def test_set_takes_the_value_as_written(written):
    assert spec_of(f"task.split={written}").task.split == written
    assert profile_of("kind: slurm", f"env.X={written}").env == {"X": written}


@pytest.mark.parametrize("written", ["007", "yes", "12", "0x1F"])
def test_names_of_models_are_taken_as_written(written):
    spec = spec_of(model=written)
    assert list(spec.models) == [written]
    assert spec.stages["a"].models == [written]


def test_time_limits_and_accounts_need_no_quotes():
    trial = profile_of("kind: slurm\ntrial: {time: 12:00:00, account: 0123, partition: 1e3}").trial
    assert (trial.time, trial.account, trial.partition) == ("12:00:00", "0123", "1e3")
    assert profile_of("kind: slurm\ntrial: {time: 30}").trial.time == "30"
    assert profile_of("kind: slurm", "trial.time=1:30:00").trial.time == "1:30:00"


@pytest.mark.parametrize("written", ["~", "null", ""])
def test_null_stays_null(written):
    assert profile_of(f"kind: slurm\ntrial: {{account: {written}}}").trial.account is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_running: 1:30", "big.yaml:2: max_running: must be a valid integer, not '1:30'"),
        ("max_running: 010", "big.yaml:2: max_running: must be a valid integer, not '010'"),
        ("poll_seconds: 2024-01-01", "big.yaml:2: poll_seconds: must be a valid number, not '2024-01-01'"),
        ("container: {nv: maybe}", "big.yaml:2: container.nv: must be a valid boolean, not 'maybe'"),
        ("env: !!set {a, b}", "big.yaml:2: not valid YAML here: the tag '!!set' is not supported"),
        ("max_running: !!int many", "big.yaml:2: not valid YAML here: 'many' is not a valid int"),
        ("env: {[a, b]: c}", "big.yaml:2: not valid YAML here: a key is one word"),
        ("env: &x {A: *x}", "big.yaml:2: not valid YAML here: this alias is a part of what it stands for"),
        ("env: {A: b, A: c}", "big.yaml:2: env.A is given twice"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(text, message):
    with pytest.raises(UserError) as caught:
        profile_of(f"kind: slurm\n{text}")
    assert message in str(caught.value)


def test_plain_numbers_are_numbers():
    assert profile_of("{kind: slurm, max_running: 1_000, poll_seconds: 1.5e+1}").poll_seconds == 15
    assert profile_of("{kind: slurm, max_running: 0x10}").max_running == 16


def test_anchors_and_merges_still_work():
    profile = profile_of("kind: slurm\ncontroller: &c {account: 077}\ntrial: {<<: *c, cpus: 3}")
    assert (profile.trial.account, profile.trial.cpus) == ("077", 3)


@pytest.mark.parametrize(
    ("merged", "cpus", "account"),
    [
        ("{<<: *c, cpus: 3}", 3, "a"),
        ("{cpus: 3, <<: *c}", 3, "a"),
        ("{<<: {cpus: 4, account: b}, cpus: 3}", 3, "b"),
        ("{<<: [*c, {cpus: 4, account: b, mem: 1G}]}", 2, "a"),
        ("{<<: [{cpus: 4}, *c]}", 4, "a"),
        ("{<<: {<<: *c, cpus: 5}}", 5, "a"),
    ],
)
def test_a_key_of_its_own_goes_before_a_merged_one(merged, cpus, account):
    profile = profile_of(f"kind: slurm\ncontroller: &c {{cpus: 2, account: a}}\ntrial: {merged}")
    assert (profile.trial.cpus, profile.trial.account) == (cpus, account)
    assert (profile.controller.cpus, profile.controller.account) == (2, "a")


def test_a_merged_mapping_may_be_used_twice():
    text = "kind: slurm\ncontroller: &c {<<: {cpus: 9}, cpus: 2, account: a}\ntrial: *c"
    profile = profile_of(text)
    assert profile.trial.cpus == profile.controller.cpus == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("controller: {cpus: 1, cpus: 2}", "controller.cpus is given twice"),
        ("controller: {<<: {cpus: 1}, cpus: 1, cpus: 2}", "controller.cpus is given twice"),
        ("controller: {<<: 3}", "not valid YAML"),
        ("controller: {<<: [3]}", "not valid YAML"),
        ("controller: {<<: {[1]: 2}}", "a key is one word or text"),
    ],
)
def test_keys_that_cannot_be(text, said):
    with pytest.raises(UserError, match=said):
        profile_of(f"kind: slurm\n{text}")


def test_free_options_hold_no_dates():
    options = spec_of(options="{since: 2024-01-01, count: 3, at: 1:30, share: 0.5}").models["m"].options  # fmt: skip
    assert options == {"since": "2024-01-01", "count": 3, "at": "1:30", "share": 0.5}


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1))
def test_what_a_run_freezes_it_reads_back(text):
    document = yaml.safe_dump({"kind": "slurm", "env": {"X": text}, "setup": [text]})
    profile = profile_of(document)
    assert (profile.env, profile.setup) == ({"X": text}, [text])


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])))
@example("😀 \N{NEXT LINE}\t\ufeff\u2028")
def test_a_written_document_is_read_back_unchanged(text):
    document = {"name": text, text: [text, {"lines": f"{text}\n{text}\n"}]}
    assert load_plain(dump_document(document)) == document


class Free(BaseModel):
    """A document with a field of any type."""

    options: Any


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
    | st.from_regex(r"[-+]?[0-9]{1,3}[._xob]?[0-9]{0,2}([eE][-+]?[0-9]{1,4})?", fullmatch=True)
    | st.sampled_from(WRITTEN)
)
@example("7e9")
@example("12e4567")
def test_a_text_in_a_written_document_stays_a_text(text):
    document = {"options": {text: [text, 7e9, 1e300, -0.5, 7, None, True]}}
    written = dump_document(document)
    assert read_document(Free, written, "x")[0] == document
    assert load_plain(written) == document


def test_set_reaches_into_lists():
    assert spec_of("stages.a.samples=[2, 9]", "stages.a.samples[0]=3").stages["a"].samples == [3, 9]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("x[0]=1", "--set x[0]=1: 'x' in job.yaml holds no element 0"),
        ("stages.a.models[4]=m", "--set stages.a.models[4]=m: 'stages.a.models' in job.yaml holds no element 4"),
        ("name.first=1", "--set name.first=1: 'name' in job.yaml holds no keys of its own"),
        ("[0]=1", "--set [0]=1: valid is KEY.PATH=VALUE"),
        ("a..b=1", "--set a..b=1: valid is KEY.PATH=VALUE"),
        ("task.split=[", "--set task.split=[: the value is not valid YAML"),
    ],
)  # fmt: skip
def test_a_set_that_leads_nowhere_is_refused(override, message):
    with pytest.raises(UserError) as caught:
        spec_of(override)
    assert message in str(caught.value)
