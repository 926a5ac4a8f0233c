"""The scripted engine thinks: what its samples look like, and what is wrong with an option."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import UserError
from agenttts.inference.base import EngineError, ModelConfig, Request, SamplingParams
from agenttts.inference.engine_options import check_options
from agenttts.inference.scripted import ScriptedEngine, script_thinking
from agenttts.inference.scripted_thinking import DRAFT, ScriptedThinking
from agenttts.replies import COMMON_THINKING, Thinking, remove_thinking
from agenttts.run.models import model_thinking
from agenttts.spec import ModelSection

CHAT = ({"role": "user", "content": "Which river?"},)


@pytest.fixture
def engine(tmp_path):
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "the Danube, of course"}))

    def make(**thinking: object) -> ScriptedEngine:
        config = ModelConfig("m", str(script), engine="scripted", options={"thinking": thinking})
        return ScriptedEngine(config)

    return make


def samples(engine, content=CHAT, temperature=0.7, tokens=1000, seeds=20, stop=()):
    request = Request(content, SamplingParams(temperature, tokens), tuple(range(seeds)), stop)
    return engine.generate([request])[0]


def test_a_block_before_the_reply(engine):
    completion = samples(engine())
    assert {s.text for s in completion.samples} == {f"<think>{DRAFT}</think>\n\nthe Danube, of course"}  # fmt: skip
    assert completion.prompt_end == ""
    sample = completion.samples[0]
    assert (sample.decode_tokens, sample.finish_reason) == (len(sample.text.split()) + 1, "stop")


def test_several_blocks_stand_within_the_reply(engine):
    [sample] = samples(engine(blocks=3, text="hm"), seeds=1).samples
    assert sample.text == "<think>hm</think>\n\nthe<think>hm</think> Danube, of<think>hm</think> course"  # fmt: skip


def test_the_prompt_may_open_the_first_block(engine):
    completion = samples(engine(opened=True, text="hm"))
    assert completion.samples[0].text == "hm</think>\n\nthe Danube, of course"
    assert completion.prompt_end == "<think>\n"
    plain = samples(engine(opened=True, text="hm"), content="Which river?")
    assert plain.samples[0].text.startswith("<think>hm"), "plain text opens nothing"
    assert plain.prompt_end == ""


def test_some_samples_never_end_their_thinking(engine):
    drawn = samples(engine(unclosed=0.4), seeds=400, tokens=300).samples
    unclosed = [s for s in drawn if "</think>" not in s.text]
    assert 0.3 < len(unclosed) / len(drawn) < 0.5
    assert {s.finish_reason for s in unclosed} == {"length"}
    assert {s.decode_tokens for s in unclosed} == {300}
    assert {s.finish_reason for s in drawn if s not in unclosed} == {"stop"}
    again = samples(engine(unclosed=0.4), seeds=400, tokens=300).samples
    assert again == drawn, "by the seed"
    for probability, cut in ((0.4, False), (0.6, True)):
        greedy = samples(engine(unclosed=probability), temperature=0, seeds=5).samples
        assert {"</think>" not in s.text for s in greedy} == {cut}


def test_a_short_limit_cuts_within_the_thinking(engine):
    [sample] = samples(engine(), seeds=1, tokens=10).samples
    assert sample.finish_reason == "length"
    assert remove_thinking(sample.text, COMMON_THINKING) == ""


@given(
    st.text(max_size=60).filter(lambda t: "<think>" not in t and "</think>" not in t),
    st.integers(1, 6),
    st.booleans(),
)
def test_without_its_thinking_a_reply_is_what_the_script_says(reply, blocks, opened):
    thinking = ScriptedThinking(blocks=blocks, opened=opened)
    said = thinking.around(reply, 1000, 0.7, 3)
    assert remove_thinking(said, Thinking(("<think>",), ("</think>",))) == reply.strip()


def test_its_markers_are_found_by_the_option(tmp_path):
    assert script_thinking({}) is None
    assert script_thinking({"thinking": {"start": "(", "end": ")"}}) == Thinking(("(",), (")",))
    plain = ModelSection(path="/s.json", params=1e9, engine="scripted")
    thinks = plain.model_copy(update={"options": {"thinking": {"start": "(", "end": ")"}}})
    assert model_thinking(plain) == COMMON_THINKING
    assert model_thinking(thinks) == Thinking(("(",), (")",))
    assert model_thinking(thinks.model_copy(update={"thinking": "none"})) is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("yes", "thinking: 'yes' is not valid; valid: a mapping with keys of start, end, text"),
        ({"begin": "<"}, "thinking.begin: unknown key; valid: .*end, opened, start"),
        ({"start": ""}, "thinking.start: '' is not valid; valid: a text of one line"),
        ({"end": " x"}, "thinking.end: ' x' is not valid; valid: a text of one line"),
        ({"text": 3}, "thinking.text: 3 is not valid; valid: a text"),
        ({"blocks": 0}, "thinking.blocks: 0 is not valid; valid: a whole number of 1 or more"),
        ({"blocks": True}, "thinking.blocks: True"),
        ({"unclosed": 1.5}, "thinking.unclosed: 1.5 is not valid; valid: a number from 0 to 1"),
        ({"opened": 1}, "thinking.opened: 1 is not valid; valid: true or false"),
        ({"start": "|", "end": "|"}, "start and end must be two different texts"),
    ],
)
def test_a_wrong_option_is_named(engine, option, message):
    with pytest.raises(UserError, match=message):
        check_options("scripted", {"thinking": option})
    assert script_thinking({"thinking": option}) is None
    if isinstance(option, dict):
        with pytest.raises(
            EngineError, match=f"model 'm': options.thinking.*{message.removeprefix('thinking')}"
        ):
            engine(**option)
