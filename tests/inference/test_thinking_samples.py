"""Samples of models that think: what the store keeps, what a draw gives, what belongs to a
sample's address.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts.inference.base import (
    Completion,
    ModelConfig,
    Prompt,
    Request,
    Sample,
    SamplingParams,
    sample_key,
)
from agenttts.inference.sampler import Sampler
from agenttts.inference.scripted import ScriptedEngine
from agenttts.inference.store import SampleStore
from agenttts.inference.tokenization import encode_request
from agenttts.replies import Thinking
from tests.support.draws import draw_one

THINK = Thinking(("<think>",), ("</think>",))
PROMPT = Prompt(system="", user="Which river?")
CHAT = ({"role": "user", "content": "Which river?"},)


class Replies:
    """An engine with these replies, sample by sample, whose prompts end with ``prompt_end``."""

    def __init__(self, replies: list[Sample], prompt_end: str = "") -> None:
        self._replies = replies
        self._prompt_end = prompt_end
        self.requests: list[Request] = []

    def generate(self, requests, on_finished):
        self.requests += requests
        return [
            Completion(tuple(self._replies[: len(r.seeds)]), 3, prompt_end=self._prompt_end)
            for r in requests
        ]

    def close(self) -> None:
        pass


def sampler(folder: Path, model: ModelConfig, engine: object) -> Sampler:
    return Sampler(SampleStore(folder, "w"), {model.name: model}, 0, lambda config: engine)


def stored(folder: Path) -> list[str]:
    import polars as pl

    return pl.read_parquet(folder / "*.parquet").sort("index")["text"].to_list()


def stop(text: str) -> Sample:
    return Sample(text, 5, "stop")


def cut(text: str) -> Sample:
    return Sample(text, 9, "length")


MODEL = ModelConfig("m", "/models/m", thinking=THINK)
PARAMS = SamplingParams(0.7, 9)


def test_a_draw_gives_answers_and_the_store_keeps_replies_whole(tmp_path):
    said = ["<think>the Rhine? [3]</think>the Danube", "the Danube", "<think>the Rhine, or"]
    engine = Replies([stop(said[0]), stop(said[1]), cut(said[2])])
    [first] = draw_one(sampler(tmp_path, MODEL, engine), "m", [PROMPT], PARAMS, 3)
    assert first.texts == ("the Danube", "the Danube", "")
    assert first.cut == 1, "cut within its thinking"
    assert stored(tmp_path) == said
    [again] = draw_one(sampler(tmp_path, MODEL, None), "m", [PROMPT], PARAMS, 3)
    assert (again.texts, again.cut) == (first.texts, 1), "from the store alone"
    plain = sampler(tmp_path, replace(MODEL, thinking=None), None)
    assert draw_one(plain, "m", [PROMPT], PARAMS, 3)[0].texts == tuple(said)


def test_a_block_that_the_prompt_opened_is_known_when_its_end_was_never_written(tmp_path):
    engine = Replies([stop("hm</think>\n\nthe Danube"), cut("hm, the Rhine")], "assistant\n<think>\n")  # fmt: skip
    [draw] = draw_one(sampler(tmp_path, MODEL, engine), "m", [PROMPT], PARAMS, 2)
    assert draw.texts == ("the Danube", "")
    assert stored(tmp_path) == ["<think>\nhm</think>\n\nthe Danube", "<think>\nhm, the Rhine"]


@pytest.mark.parametrize("tag", ["think", "thought", "reasoning"])
@pytest.mark.parametrize("other", [None, Thinking(("[T]",), ("[/T]",))])
def test_samples_drawn_under_another_setting_are_read_under_this_one(tmp_path, tag, other):
    said = [stop(f"hm</{tag}>the Danube"), cut("hm, the Rhine")]
    engine = Replies(said, f"assistant\n<{tag}>\n")
    draw_one(sampler(tmp_path, replace(MODEL, thinking=other), engine), "m", [PROMPT], PARAMS, 2)
    own = replace(MODEL, thinking=Thinking((f"<{tag}>",), (f"</{tag}>",)))
    [draw] = draw_one(sampler(tmp_path, own, None), "m", [PROMPT], PARAMS, 2)
    assert draw.texts == ("the Danube", "")


def test_at_temperature_0_every_repeat_of_a_cut_sample_counts(tmp_path):
    engine = Replies([cut("the Dan")])
    [draw] = draw_one(sampler(tmp_path, MODEL, engine), "m", [PROMPT], SamplingParams(0, 9), 4)
    assert (len(draw.texts), draw.cut) == (4, 4)


def key(model: ModelConfig, content: object = CHAT) -> str:
    return sample_key(model, content, PARAMS, 0)


def test_what_is_empty_leaves_the_address_as_it_was():
    """The address is that of version 0.1, which knew neither template arguments nor
    fingerprints.
    """
    model = ModelConfig("m", "/models/m", "main", options={"dtype": "bfloat16"})
    assert key(model) == "99b3658353180f1af7043fffa77c598c"


def test_template_arguments_belong_to_the_address_of_a_chat():
    off = replace(MODEL, template_args={"enable_thinking": False})
    assert len({key(MODEL), key(off), key(replace(MODEL, template_args={"enable_thinking": True}))}) == 3  # fmt: skip
    assert key(off, "plain text") == key(MODEL, "plain text"), "which no template is applied to"


def test_weights_belong_to_the_address_and_markers_do_not():
    assert key(MODEL) != key(replace(MODEL, weights="a")) != key(replace(MODEL, weights="b"))
    assert key(MODEL) == key(replace(MODEL, thinking=None)), "read otherwise, drawn alike"
    special = replace(MODEL, thinking=replace(THINK, special=True))
    assert key(special) != key(MODEL), "samples stored without special tokens have no markers"


def test_models_that_differ_in_template_arguments_share_an_engine_and_not_their_samples(tmp_path):
    on = ModelConfig("on", "/models/m", thinking=THINK)
    off = ModelConfig("off", "/models/m", template_args={"enable_thinking": False}, thinking=None)
    engine, loads = Replies([stop("yes")]), []

    def load(config):
        loads.append(config.name)
        return engine

    both = Sampler(SampleStore(tmp_path, "w"), {"on": on, "off": off}, 0, load)
    for name in ("on", "off"):
        draw_one(both, name, [PROMPT], PARAMS, 1)
    assert loads == ["on"]
    assert [r.template_args for r in engine.requests] == [{}, {"enable_thinking": False}]


def test_special_tokens_are_asked_for_where_markers_are_special(tmp_path):
    for special in (True, False):
        engine = Replies([stop("[THINK]hm[/THINK]yes")])
        thinking = Thinking(("[THINK]",), ("[/THINK]",), special=special)
        model = replace(MODEL, thinking=thinking)
        [draw] = draw_one(sampler(tmp_path / str(special), model, engine), "m", [PROMPT], PARAMS, 1)
        assert draw.texts == ("yes",)
        assert [r.keep_special for r in engine.requests] == [special]


class Tokenizer:
    """A token a letter; a template that opens a block of thinking unless it is told not to."""

    chat_template = "there is one"

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) for letter in text]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, enable_thinking=True):
        opening = "<think>\n" if enable_thinking else "<think>\n\n</think>\n\n"
        return "".join(m["content"] for m in messages) + "<assistant>" + opening


@pytest.mark.parametrize("enabled", [True, False])
def test_template_arguments_reach_the_template_and_its_end_comes_back(enabled):
    args = {} if enabled else {"enable_thinking": False}
    request = Request(CHAT, PARAMS, (1,), template_args=args)
    prompt = encode_request(Tokenizer(), MODEL, request, 39)
    text = "".join(map(chr, prompt.tokens))
    assert prompt.truncated
    assert len(prompt.tokens) == 39 - PARAMS.max_tokens
    assert text.endswith("<think>\n" if enabled else "</think>\n\n")
    assert prompt.end.endswith("<assistant><think>\n" if enabled else "<think>\n\n</think>\n\n")
    plain = encode_request(Tokenizer(), MODEL, replace(request, content="Which river?"), None)
    assert plain.end == ""


def test_a_scripted_model_that_thinks_answers_as_one_that_does_not(tmp_path):
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "the Danube, of course"}))
    for number, option in enumerate(({}, {"blocks": 3}, {"opened": True}, {"start": "[A]", "end": "[B]"})):  # fmt: skip
        thinking = Thinking((option.get("start", "<think>"),), (option.get("end", "</think>"),))
        model = ModelConfig("m", str(script), engine="scripted", options={"thinking": option}, thinking=thinking)  # fmt: skip
        drawing = Sampler(SampleStore(tmp_path / str(number), "w"), {"m": model}, 0, ScriptedEngine)
        [draw] = draw_one(drawing, "m", [PROMPT], SamplingParams(0.7, 1000), 3)
        assert draw.texts == ("the Danube, of course",) * 3
        assert draw.cut == 0
        assert all("[1] and [2]" in text for text in stored(tmp_path / str(number)))
