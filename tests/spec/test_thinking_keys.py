"""The keys ``thinking`` and ``template_args``: what they take, and what is said of anything
else.
"""

from __future__ import annotations

import pytest

from agenttts.errors import UserError
from agenttts.spec import ThinkingMarkers, dump_spec, load_spec

SPEC = """\
name: x
task: {name: retrieval_qa}
stages:
  retrieval: {models: [m], prompt_tokens: 9, decode_tokens: 9}
  answer: {models: [m], prompt_tokens: 9, decode_tokens: 9}
models:
  m: {path: /m, params: 3.0e9}
search: {budget: 100}
"""


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return lambda *settings: load_spec(path, settings)


def test_the_defaults_say_nothing(load):
    model = load().models["m"]
    assert (model.thinking, model.template_args) == ("auto", {})


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("{start: '<a>', end: '</a>'}", ThinkingMarkers(start="<a>", end="</a>")),
    ],
)
def test_settings_survive_the_resolved_spec(load, tmp_path, value, read):
    given = load(f"models.m.thinking={value}", "models.m.template_args={enable_thinking: false, n: [1, x]}")  # fmt: skip
    model = given.models["m"]
    assert model.thinking == read
    assert model.template_args == {"enable_thinking": False, "n": [1, "x"]}
    (tmp_path / "resolved.yaml").write_text(dump_spec(given))
    assert load_spec(tmp_path / "resolved.yaml").models == given.models


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("models.m.thinking=off", r"models\.m\.thinking: 'off' is not a valid setting; valid: auto, none, or \{start"),
        ("models.m.thinking=sometimes", "'sometimes' is not a valid setting"),
        ("models.m.thinking=[a, b]", "is not a valid setting"),
        ("models.m.thinking={start: '<a>'}", r"models\.m\.thinking\.end: this key is required"),
        ("models.m.thinking={start: '<a>', end: '</a>', stop: x}", "unknown key; valid: end, start"),
        ("models.m.thinking={start: '<a>', end: '<a>'}", "start and end are both '<a>'"),
        ("models.m.thinking={start: '', end: '</a>'}", "'' is not a valid marker"),
        ('models.m.thinking={start: "a\\nb", end: c}', "is not a valid marker"),
        ("models.m.template_args={tokenize: true}", "'tokenize' is set by the program; leave it out"),
        ("models.m.template_args={share: .inf}", "template arguments must be JSON values"),
        ("agent={kind: serve, model: m, template_args: {messages: []}}", r"agent\.template_args: 'messages' is set"),
        ("agent={kind: endpoint, base_url: 'http://h/v1', model: m, thinking: yes}", r"agent\.thinking: 'yes' is not a valid"),
    ],
)  # fmt: skip
def test_anything_else_is_said_with_what_is_valid(load, setting, message):
    with pytest.raises(UserError, match=message):
        load(setting)


def test_arguments_without_a_template_are_refused(load):
    with pytest.raises(UserError, match=r"models\.m\.template_args: prompt_style few_shot_completion"):  # fmt: skip
        load("models.m.prompt_style=few_shot_completion", "models.m.template_args={a: 1}")
