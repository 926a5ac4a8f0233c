"""Prompts to tokens: what is cut when a prompt is too long, and how chats become text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.inference.base import EngineError, ModelConfig, Request, SamplingParams
from agenttts.inference.tokenization import encode, encode_request, fit

CONFIG = ModelConfig("m", "/models/m", prompt_style="chat")


@given(st.lists(st.integers(), max_size=80), st.integers(2, 60), st.integers(1, 59))
def test_a_fitted_prompt_fits_and_keeps_head_and_tail(tokens, context, max_tokens):
    if max_tokens >= context:
        with pytest.raises(EngineError, match=f"decode_tokens is {max_tokens}"):
            fit(tokens + [0] * context, context, max_tokens)
        return
    kept, cut = fit(tokens, context, max_tokens)
    assert len(kept) + max_tokens <= context
    if not cut:
        assert kept == tokens
        return
    assert len(kept) + max_tokens == context, "no more is lost than must be"
    head = (len(kept) + 1) // 2
    tail = len(kept) - head
    assert kept[:head] == tokens[:head]
    assert kept[head:] == tokens[len(tokens) - tail :]


def test_without_a_known_context_nothing_is_cut():
    assert fit(range(10**4), None, 10**6) == (list(range(10**4)), False)


class LetterTokenizer:
    """A token a letter, a begin token 0; ``refuses`` are roles its template does not take."""

    def __init__(self, refuses=(), template="{{ messages }}"):
        self.refuses = refuses
        self.chat_template = template

    def encode(self, text, add_special_tokens=True):
        return [0] * add_special_tokens + [ord(letter) for letter in text]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        for message in messages:
            if message["role"] in self.refuses:
                raise ValueError(f"no role {message['role']}")
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def letters(tokens):
    return "".join("^" if token == 0 else chr(token) for token in tokens)


CHAT = ({"role": "system", "content": "do"}, {"role": "user", "content": "it"})


def test_the_begin_token_comes_from_the_tokenizer_or_from_the_template_never_from_both():
    assert letters(encode(LetterTokenizer(), CONFIG, "hi")) == "^hi"
    assert letters(encode(LetterTokenizer(), CONFIG, CHAT)) == "<system>do<user>it<assistant>"


def test_a_template_without_a_system_role_gets_it_in_the_first_user_turn():
    tokens = encode(LetterTokenizer(refuses=("system",)), CONFIG, CHAT)
    assert letters(tokens) == "<user>do\n\nit<assistant>"


@pytest.mark.parametrize("chat", [CHAT, CHAT[1:]])
def test_a_template_that_refuses_all_is_an_error_with_its_own_words(chat):
    with pytest.raises(EngineError, match="refused the prompt: no role"):
        encode(LetterTokenizer(refuses=("system", "user")), CONFIG, chat)


def test_a_base_model_is_told_what_to_set():
    with pytest.raises(EngineError, match="prompt_style: few_shot_completion"):
        encode(LetterTokenizer(template=None), CONFIG, CHAT)


class MessageTokenizer:
    """As vLLM's of Mistral's own files: no chat template, and control tokens (negative) that no
    text can write.
    """

    CONTROL = ("<s>", "[SYS]", "[/SYS]", "[INST]", "[/INST]")

    def __init__(self, refuses=()):
        self.refuses = refuses

    def encode(self, text, add_special_tokens=True):
        return [-1] * add_special_tokens + [ord(letter) for letter in text]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, effort=""):
        tokens = [-1]
        for message in messages:
            if message["role"] in self.refuses:
                raise ValueError(f"no role {message['role']}")
            opening, closing = (-2, -3) if message["role"] == "system" else (-4, -5)
            tokens += [opening, *self.encode(message["content"] + effort, False), closing]
        return tokens if tokenize else self.decode(tokens)

    def decode(self, tokens, skip_special_tokens=True):
        kept = [t for t in tokens if t >= 0 or not skip_special_tokens]
        return "".join(chr(t) if t >= 0 else self.CONTROL[-t - 1] for t in kept)


def _request(**values):
    return Request(CHAT, SamplingParams(0.7, 5), (1,), **values)


def test_a_tokenizer_that_encodes_messages_itself_is_given_messages():
    tokenizer = MessageTokenizer()
    prompt = encode_request(tokenizer, CONFIG, _request(), None)
    assert prompt.tokens == [-1, -2, *map(ord, "do"), -3, -4, *map(ord, "it"), -5]
    assert prompt.end == "<s>[SYS]do[/SYS][INST]it[/INST]"
    assert encode(tokenizer, CONFIG, CHAT) == prompt.tokens
    assert encode(tokenizer, CONFIG, "hi") == [-1, *map(ord, "hi")]


def test_its_template_arguments_system_role_and_length_count_as_with_a_template():
    given = _request(template_args={"effort": "!"})
    prompt = encode_request(MessageTokenizer(), CONFIG, given, None)
    assert prompt.end == "<s>[SYS]do![/SYS][INST]it![/INST]"
    merged = encode_request(MessageTokenizer(refuses=("system",)), CONFIG, _request(), None)
    assert merged.end == "<s>[INST]do\n\nit[/INST]"
    cut = encode_request(MessageTokenizer(), CONFIG, _request(), 5 + 4)
    assert (len(cut.tokens), cut.tokens[0], cut.tokens[-1], cut.truncated) == (4, -1, -5, True)
    with pytest.raises(EngineError, match="refused the prompt: no role"):
        encode(MessageTokenizer(refuses=("system", "user")), CONFIG, CHAT)


@pytest.mark.parametrize("named", [False, True])
def test_a_template_that_writes_today_gives_one_prompt_on_all_days(named):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}"
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, "?"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = {"default": template} if named else template
    model = ModelConfig("m", "/models/m")
    request = Request(({"role": "user", "content": "Oak?"},), SamplingParams(0.7, 5), (1,))
    assert encode_request(tokenizer, model, request, None).end == "26 Jul 2024: Oak?"
