"""A search whose language model thinks: replies are read without the thinking, written down
whole, repeated alike.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.replies import COMMON_THINKING, Thinking
from agenttts.run.agent import agent_thinking, merges_system, opening_of, served_fields
from agenttts.search.llm.base import Chat
from agenttts.search.llm.caller import Caller
from agenttts.search.llm.reading import read_allocations
from agenttts.search.llm.scripted import ScriptedLLM
from agenttts.search.llm.transcript import Transcript
from agenttts.space import Model, SearchSpace, Stage
from agenttts.spec import parse_spec

SPACE = SearchSpace((Stage("answer", (Model("small", 3e9), Model("large", 70e9)), 256, 64, tuple(range(1, 50))),), 1000)  # fmt: skip
RIGHT = {"answer": {"model": "small", "samples": 7}}
DRAFT = {"answer": {"model": "large", "samples": 2}}
CHAT = Chat("propose", ({"role": "user", "content": "Propose."},))
THOUGHT = f"Maybe ```json\n{json.dumps({'allocations': [DRAFT]})}\n```? No.\n- try large\n"
SAID = json.dumps({"allocations": [RIGHT]})


def caller(reply: str, transcript: Transcript | None = None, **more: object) -> Caller:
    llm = ScriptedLLM({"replies": [reply]}, sleep=lambda seconds: None)
    return Caller(llm, transcript or Transcript(), **more)


@pytest.mark.parametrize(
    "reply",
    [
        f"<think>{THOUGHT}</think>{SAID}",
        f"{THOUGHT}</think>\n\n{SAID}",
        f"<thinking>{THOUGHT}</thinking>{SAID}<thinking>{THOUGHT}</thinking>",
        f"[THINK]{THOUGHT}[/THINK]{SAID}",
        # Thinking longer than what is read of a reply.
        f"<think>{THOUGHT * 2000}</think>{SAID}",
    ],
)
def test_what_is_proposed_in_thinking_is_not_proposed(reply):
    answer = caller(reply).ask(CHAT).text
    [found] = read_allocations(answer, SPACE)
    assert (found.choices["answer"].model, found.choices["answer"].samples) == ("small", 7)


def test_thinking_that_was_cut_is_no_proposal():
    answer = caller(f"<think>{THOUGHT}").ask(CHAT)
    assert answer.text == ""
    assert read_allocations(answer.text, SPACE) == []


def test_the_transcript_has_replies_whole_and_gives_them_without_thinking(tmp_path):
    file: Path = tmp_path / "agent.jsonl"
    reply = f"<think>{THOUGHT}</think>{SAID}"
    first = caller(reply, Transcript(file)).ask(CHAT)
    [event] = [json.loads(line) for line in file.read_text().splitlines()]
    assert event["reply"] == reply
    again = caller("never asked", Transcript(file)).ask(CHAT)
    assert again.text == first.text == SAID


def test_markers_are_the_models_own():
    own = Thinking(("<hmm>",), ("</hmm>",))
    assert caller(f"<hmm>{THOUGHT}</hmm>{SAID}", thinking=own).ask(CHAT).text == SAID
    reply = f"<think>{THOUGHT}</think>{SAID}"
    assert caller(reply, thinking=None).ask(CHAT).text == reply


def spec(agent: str, model: str = "{path: /m, params: 3.0e9}"):
    return parse_spec(
        f"""
name: x
task: {{name: retrieval_qa}}
stages:
  retrieval: {{models: [m], prompt_tokens: 9, decode_tokens: 9}}
  answer: {{models: [m], prompt_tokens: 9, decode_tokens: 9}}
models: {{m: {model}}}
search: {{budget: 100}}
agent: {agent}
""",
        "spec.yaml",
        Path("/"),
    )


ENDPOINT = "{kind: endpoint, base_url: 'http://h/v1', model: m"


def fields_of(spec):
    return served_fields(spec, agent_thinking(spec))


def test_the_markers_of_an_endpoint_are_the_common_ones_or_those_of_the_spec():
    assert agent_thinking(spec("none")) is None
    assert agent_thinking(spec(ENDPOINT + "}")) == COMMON_THINKING
    assert agent_thinking(spec(ENDPOINT + ", thinking: none}")) is None
    named = spec(ENDPOINT + ", thinking: {start: '<a>', end: '</a>'}}")
    assert agent_thinking(named) == Thinking(("<a>",), ("</a>",))
    assert fields_of(named) == {}


def test_a_served_model_has_those_of_its_files_and_its_template_arguments(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"1": {"content": "[THINK]", "special": True}}})
    )
    found = Thinking(("[THINK]",), ("[/THINK]",), special=True)
    directory = spec(f"{{kind: serve, model: {tmp_path}}}")
    assert agent_thinking(directory) == found
    assert fields_of(directory) == {"skip_special_tokens": False}, "or its markers are lost"
    model = f"{{path: {tmp_path}, params: 3.0e9, template_args: {{enable_thinking: false, x: 1}}}}"
    named = spec("{kind: serve, model: m, template_args: {x: 2}}", model)
    assert agent_thinking(named) == found
    assert fields_of(named)["chat_template_kwargs"] == {"enable_thinking": False, "x": 2}
    silent = spec("{kind: serve, model: m, thinking: none}")
    assert agent_thinking(silent) is None
    assert fields_of(silent) == {}


@pytest.mark.parametrize(
    ("more", "opening"),
    [
        ("", "<think>\n"),
        (", template_args: {enable_thinking: false}", ""),
        (", options: {reasoning_parser: qwen3}", ""),
        (", thinking: none", ""),
    ],
)
def test_a_reply_that_is_cut_in_a_block_that_the_prompt_opened_is_no_proposal(
    tmp_path, more, opening
):
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
        "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    )
    served = spec(f"{{kind: serve, model: {tmp_path}{more}}}")
    thinking = agent_thinking(served)
    assert opening_of(served, thinking) == opening
    answers = [
        caller(reply, thinking=thinking, opening=opening).ask(CHAT).text
        for reply in (THOUGHT, f"{THOUGHT}</think>{SAID}", SAID)
    ]
    if opening:
        assert answers == ["", SAID, ""]
    else:
        assert answers[2] == SAID


def test_a_template_that_refuses_messages_opens_nothing(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no') }}<think>")
    assert opening_of(spec(f"{{kind: serve, model: {tmp_path}}}"), COMMON_THINKING) == ""
    assert opening_of(spec("none"), None) == ""
    assert opening_of(spec(ENDPOINT + "}"), COMMON_THINKING) == ""


@pytest.mark.parametrize(
    ("template", "merged"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", True),
        # vLLM's server writes parts itself, and says what it refuses.
        ("{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}", False),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}", False),
        ("Answer:", False),
    ],
)  # fmt: skip
def test_a_served_model_whose_template_leaves_out_the_system_message(tmp_path, template, merged):
    assert not merges_system(spec(f"{{kind: serve, model: {tmp_path}}}")), "it has no template"
    (tmp_path / "chat_template.jinja").write_text(template)
    assert merges_system(spec(f"{{kind: serve, model: {tmp_path}}}")) == merged
    assert not merges_system(spec("none"))
