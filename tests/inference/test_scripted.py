"""The scripted engine: which reply a prompt gets, and what a wrong script or option is told."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from agenttts.inference.base import EngineError, ModelConfig, Request, SamplingParams
from agenttts.inference.scripted import ScriptedEngine

SCRIPT = {
    "rules": [
        {"contains": ["river", "Answer:"], "replies": [{"text": "the Danube", "weight": 3}, {"text": "the Rhine"}]},
        {"contains": ["river"], "replies": [{"text": "one two three four"}]},
    ],
    "default": "I do not know",
}  # fmt: skip


def engine(tmp_path, script=SCRIPT, **options):
    path = tmp_path / "script.json"
    path.write_text(script if isinstance(script, str) else json.dumps(script))
    return ScriptedEngine(ModelConfig("m", str(path), engine="scripted", options=options))


def replies(engine, prompt, k=1, temperature=1.0, tokens=50, **more):
    request = Request(prompt, SamplingParams(temperature, tokens), tuple(range(k)), **more)
    return engine.generate([request])[0]


def test_the_first_rule_whose_strings_all_occur_replies(tmp_path):
    scripted = engine(tmp_path)
    assert replies(scripted, "a river").samples[0].text == "one two three four"
    assert replies(scripted, "a road. Answer:").samples[0].text == "I do not know"
    chat = ({"role": "system", "content": "river"}, {"role": "user", "content": "Answer:"})
    assert replies(scripted, chat).samples[0].text.startswith("the ")


@pytest.mark.parametrize("name", ["script.json", "script.yaml"])
def test_a_script_may_begin_with_a_byte_order_mark(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(SCRIPT), encoding="utf-8-sig")
    scripted = ScriptedEngine(ModelConfig("m", str(tmp_path / name), engine="scripted"))
    assert replies(scripted, "a road").samples[0].text == "I do not know"


def test_replies_come_by_weight(tmp_path):
    texts = Counter(s.text for s in replies(engine(tmp_path), "river Answer:", k=4000).samples)
    assert 0.70 < texts["the Danube"] / 4000 < 0.80


def test_without_temperature_the_heaviest_reply_comes(tmp_path):
    assert {s.text for s in replies(engine(tmp_path), "river Answer:", 20, 0.0).samples} == {"the Danube"}  # fmt: skip


def test_tokens_are_words_and_an_end(tmp_path):
    scripted = engine(tmp_path)
    whole = replies(scripted, "a river runs by")
    assert (whole.prompt_tokens, whole.samples[0].decode_tokens) == (4, 5)
    assert whole.samples[0].finish_reason == "stop"
    cut = replies(scripted, "a river", tokens=4).samples[0]
    assert (cut.text, cut.decode_tokens, cut.finish_reason) == ("one two three four", 4, "length")
    cut = replies(scripted, "a river", tokens=2).samples[0]
    assert (cut.text, cut.decode_tokens) == ("one two", 2)
    stopped = replies(scripted, "a river", stop=(" three", "four")).samples[0]
    assert (stopped.text, stopped.finish_reason) == ("one two", "stop")


def test_rules_see_what_is_left_of_a_truncated_prompt(tmp_path):
    scripted = engine(tmp_path, max_model_len=14)
    prompt = " ".join(["word"] * 20) + " river " + " ".join(["word"] * 20)
    cut = replies(scripted, prompt, tokens=4)
    assert cut.truncated
    assert cut.samples[0].text == "I do not know"


def test_yaml_scripts(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text("default: 'yes'\n")
    scripted = ScriptedEngine(ModelConfig("m", str(path), engine="scripted"))
    assert replies(scripted, "?").samples[0].text == "yes"


def test_slow_samples(tmp_path):
    started = time.monotonic()
    replies(engine(tmp_path, seconds_per_sample=0.02), "x", k=5)
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("kind", ["OOM", "FAILED"])
def test_failing_on_demand(tmp_path, kind):
    with pytest.raises(EngineError, match="as its option fail") as caught:
        engine(tmp_path, fail=kind)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("{", "neither JSON nor YAML"),
        ("[]", "must be a mapping"),
        ({}, "'default' is missing"),
        ({"default": 3}, "'default': 3 is not a text"),
        ({"default": "", "ruls": []}, "unknown key 'ruls'.*did you mean 'rules'"),
        ({"default": "", "rules": {}}, "'rules' must be a list"),
        ({"default": "", "rules": [{"contains": [], "replies": []}]}, "rule 1: 'replies' must be"),
        ({"default": "", "rules": [{"contains": "x", "replies": [{"text": ""}]}]}, "rule 1: 'contains' must be"),
        ({"default": "", "rules": [{"contains": [], "replies": [{"text": "", "weight": 0}]}]}, "reply 1: weight 0"),
        ({"default": "", "rules": [{"contains": [], "replies": [{"txt": ""}]}]}, "did you mean 'text'"),
    ],
)  # fmt: skip
def test_a_wrong_script_is_told_file_rule_and_key(tmp_path, script, message):
    with pytest.raises(EngineError, match=rf"script\.json.*{message}"):
        engine(tmp_path, script)


@pytest.mark.parametrize(
    "option",
    [{"seconds_per_sample": -1}, {"seconds_per_sample": "1"}, {"fail": "BAD"}, {"max_model_len": 0}, {"nosuch": 1}],
)  # fmt: skip
def test_a_wrong_option_is_named(tmp_path, option):
    with pytest.raises(EngineError, match=next(iter(option))):
        engine(tmp_path, **option)


def test_a_missing_script_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"none\.json: cannot be read"):
        ScriptedEngine(ModelConfig("m", str(tmp_path / "none.json"), engine="scripted"))
