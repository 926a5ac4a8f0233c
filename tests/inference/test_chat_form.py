"""Chat templates that leave out a message: what is noticed, and how all messages are written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agenttts.inference.base import ModelConfig, SamplingParams, sample_key
from agenttts.inference.chat_form import MessageLeftOut, changed_form, find_form, renderer, roles_of
from agenttts.inference.tokenization import encode

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}\n{% endfor %}<|assistant|>"
)
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
# Phi-3-medium-4k-instruct
NO_SYSTEM = (
    "{% for m in messages %}{% if (m['role'] == 'user') %}{{ '<|user|>' + m['content'] }}"
    "{% elif (m['role'] == 'assistant') %}{{ m['content'] }}{% endif %}{% endfor %}"
)
# LLaVA-OneVision
PARTS = (
    "{% for m in messages %}{{ m['role'] + ': ' }}{% for part in m['content'] | "
    "selectattr('type', 'equalto', 'text') %}{% generation %}{{ part['text'] }}{% endgeneration %}"
    "{% endfor %}{% endfor %}"
)
PARTS_NO_SYSTEM = PARTS.replace("{{ m['role'] + ': ' }}", "").replace(
    "m['content'] |", "(m['content'] if m['role'] != 'system' else []) |"
)
NO_ASSISTANT = CHATML.replace("in messages", "in messages if m['role'] != 'assistant'")
NOTHING = "{{ bos_token }}Answer:"
CHAT = ({"role": "system", "content": " do "}, {"role": "user", "content": "it"})


def directory(folder, template, file="chat_template.jinja"):
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    text = template if file.endswith(".jinja") else json.dumps({"chat_template": template})
    (folder / file).write_text(text)
    return folder


class Tokenizer:
    """A token a letter; writes a chat as the template of a directory says."""

    def __init__(self, folder):
        self.chat_template = "a template"
        self._render = renderer(folder, {})

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) for letter in text]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return self._render(messages)


@pytest.mark.parametrize(
    ("template", "form", "changed", "written"),
    [
        (CHATML, "plain", "", "<|system|>do\n<|user|>it\n<|assistant|>"),
        (REFUSES_SYSTEM + CHATML, "merged", "", "<|user|>do \n\nit\n<|assistant|>"),
        (NO_SYSTEM, "merged", "merged", "<|user|> do \n\nit"),
        (PARTS, "parts", "parts", "system:  do user: it"),
        (PARTS_NO_SYSTEM, "merged parts", "merged parts", " do \n\nit"),
    ],
)
def test_all_messages_are_written_in_the_first_form_that_the_template_takes(
    tmp_path, template, form, changed, written
):
    folder = directory(tmp_path, template)
    render = renderer(folder, {})
    assert find_form(render, roles_of("chat")) == form
    assert changed_form(render, roles_of("chat")) == changed
    config = ModelConfig("m", str(folder), chat_form=changed)
    tokens = encode(Tokenizer(folder), config, CHAT)
    assert "".join(map(chr, tokens)) == written


def test_prompts_of_a_run_of_an_earlier_version_stay_as_they_were(tmp_path, caplog):
    """Its samples have the address of these prompts."""
    folder = directory(tmp_path, NO_SYSTEM)
    for _ in range(2):
        tokens = encode(Tokenizer(folder), ModelConfig("m", str(folder)), CHAT)
        assert "".join(map(chr, tokens)) == "<|user|>it"
    [warning] = [r.getMessage() for r in caplog.records if "leaves out a message" in r.getMessage()]
    assert "launch a new run" in warning


@pytest.mark.parametrize("form", ["", "merged"])
def test_a_chat_without_the_message_that_is_left_out_is_written_as_before(tmp_path, form):
    folder = directory(tmp_path, NO_SYSTEM)
    config = ModelConfig("m", str(folder), chat_form=form)
    tokens = encode(Tokenizer(folder), config, CHAT[1:])
    assert "".join(map(chr, tokens)) == "<|user|>it"


@pytest.mark.parametrize("template", [NOTHING, "{{ messages | length }}"])
def test_a_template_that_writes_no_question_is_named(tmp_path, caplog, template):
    folder = directory(tmp_path, template)
    with pytest.raises(MessageLeftOut, match="the system message"):
        changed_form(renderer(folder, {}), roles_of("chat"))
    encode(Tokenizer(folder), ModelConfig("m", str(folder)), CHAT)
    assert "'m'" in caplog.text
    assert "leaves out the system message" in caplog.text


def test_worked_examples_count_where_the_style_has_them(tmp_path):
    render = renderer(directory(tmp_path, NO_ASSISTANT), {})
    assert find_form(render, roles_of("chat")) == "plain"
    with pytest.raises(MessageLeftOut, match="the assistant message"):
        find_form(render, roles_of("few_shot_chat"))


def test_a_template_that_no_launch_can_read_says_nothing(tmp_path):
    assert renderer(tmp_path, {}) is None
    assert renderer(directory(tmp_path, "{% if"), {}) is None
    assert find_form(renderer(directory(tmp_path, "{{ unknown() }}"), {}), ("user",)) is None


def test_a_template_of_a_processor_is_used_where_the_tokenizer_has_none(tmp_path):
    folder = directory(tmp_path, CHATML, "chat_template.json")

    class OfProcessor(Tokenizer):
        def apply_chat_template(self, messages, tokenize, add_generation_prompt, chat_template):
            assert chat_template == CHATML
            return self._render(messages)

    tokenizer = OfProcessor(folder)
    tokenizer.chat_template = None
    tokens = encode(tokenizer, ModelConfig("m", str(folder)), CHAT)
    assert "".join(map(chr, tokens)).startswith("<|system|>do")


def test_only_a_changed_form_is_in_the_address_of_a_chat():
    model, params = ModelConfig("m", "/m"), SamplingParams(0.7, 5)
    merged = replace(model, chat_form="merged")
    assert sample_key(model, CHAT, params, 0) == "755f9f8dc9e1e2739692484d107f03cb"
    assert sample_key(merged, CHAT, params, 0) != sample_key(model, CHAT, params, 0)
    assert sample_key(merged, "text", params, 0) == sample_key(model, "text", params, 0)
