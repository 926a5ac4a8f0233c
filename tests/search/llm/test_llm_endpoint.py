"""The client against a real HTTP server: what servers send, and what must never leave."""

import json
import os
import time
from email.utils import formatdate

import pytest

from agenttts.endpoint import Address
from agenttts.search.llm.base import Chat, LLMError
from agenttts.search.llm.connect import connect
from agenttts.search.llm.endpoint import EndpointLLM
from agenttts.search.llm.transcript import Transcript
from agenttts.spec.agent import EndpointAgent
from tests.support.llm import KEY, TASK_DESCRIPTION, said

CHAT = Chat("propose", ({"role": "user", "content": "hello"},), {"type": "object"}, seed=5)


def client(server, **options):
    options = {"max_tokens": 100, "temperature": 0.5, "timeout": 5.0, **options}
    return EndpointLLM("m", lambda: Address(server.url, KEY), **options)


def test_a_request_and_its_reply(server):
    server.answers = [said("hi")]
    reply = client(server, extra={"top_k": 3}).complete(CHAT)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("hi", 11, 7)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "m"
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["temperature"], body["seed"], body["max_tokens"], body["top_k"]) == (
        0.5,
        5,
        100,
        3,
    )
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert KEY not in json.dumps(body)


def test_no_key_no_header(server):
    server.answers = [said("hi")]
    EndpointLLM("m", lambda: Address(server.url), max_tokens=9).complete(CHAT)
    assert "Authorization" not in server.requests[0][1]


def test_text_in_parts_and_no_text_at_all(server):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    server.answers = [said(parts), said(None)]
    llm = client(server)
    assert llm.complete(CHAT).text == "ab"
    assert llm.complete(CHAT).text == ""


def test_a_server_that_knows_no_schemas_is_asked_without(server):
    def answer(body):
        if "response_format" in body:
            return 400, '{"error": {"message": "json_schema is not supported"}}', {}
        return said("plain")

    server.answers = [answer]
    llm = client(server)
    reply = llm.complete(CHAT)
    assert reply.text == "plain"
    assert reply.notes == ("the server refuses response_format: left out",)
    llm.complete(CHAT)
    assert len(server.requests) == 3, "it is remembered"


def test_a_server_that_wants_other_parameters(server):
    def answer(body):
        if "max_tokens" in body:
            return 400, "max_tokens is not supported; use max_completion_tokens", {}
        if "temperature" in body:
            return 400, "Unsupported value: 'temperature'", {}
        return said(str(body["max_completion_tokens"]))

    server.answers = [answer]
    assert client(server).complete(CHAT).text == "100"


@pytest.mark.parametrize(
    "complaint",
    ["System role not supported", "Conversation roles must alternate user/assistant/user/..."],
)
def test_a_server_whose_template_refuses_a_system_message(server, complaint):
    def answer(body):
        if body["messages"][0]["role"] == "system":
            return 400, complaint, {}
        return said(body["messages"][0]["content"])

    server.answers = [answer]
    chat = Chat("propose", ({"role": "system", "content": "be short"}, *CHAT.messages), seed=5)
    llm = client(server)
    reply = llm.complete(chat)
    assert reply.text == "be short\n\nhello"
    assert reply.notes == ("the server refuses a system message: its text is in the user's",)
    llm.complete(chat)
    assert len(server.requests) == 3, "it is remembered"
    told = client(server, merges_system=True)
    assert (told.complete(chat).text, len(server.requests)) == (reply.text, 4)
    assert told.complete(CHAT).text == "hello"
    server.answers = [(400, complaint, {})]
    with pytest.raises(LLMError, match=complaint.split()[0]):
        client(server).complete(CHAT)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_errors_are_worth_another_attempt(server, status):
    server.answers = [(status, "busy", {})]
    with pytest.raises(LLMError, match=f"HTTP {status}.*busy") as caught:
        client(server).complete(CHAT)
    assert caught.value.again
    assert caught.value.retry_after is None


def test_retry_after_in_seconds_and_as_a_date(server):
    later = formatdate(time.time() + 300, usegmt=True)
    server.answers = [(429, "", {"Retry-After": "7"}), (503, "", {"Retry-After": later})]
    llm = client(server)
    with pytest.raises(LLMError) as caught:
        llm.complete(CHAT)
    assert caught.value.retry_after == 7
    with pytest.raises(LLMError) as caught:
        llm.complete(CHAT)
    assert 200 < caught.value.retry_after <= 300


def test_retry_after_in_milliseconds_counts_before_rounded_seconds(server):
    server.answers = [(429, "", {"Retry-After": "0", "retry-after-ms": "412"})]
    with pytest.raises(LLMError) as caught:
        client(server).complete(CHAT)
    assert caught.value.retry_after == 0.412


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_are_final(server, status):
    server.answers = [(status, "no", {})]
    with pytest.raises(LLMError) as caught:
        client(server).complete(CHAT)
    assert (caught.value.fault, caught.value.again) == ("refused", False)


def test_a_prompt_too_long_for_the_model_is_told_apart(server):
    text = (
        "This model's maximum context length is 2048 tokens. However, you requested 3000 (schema)"
    )
    server.answers = [(400, text, {})]
    with pytest.raises(LLMError) as caught:
        client(server).complete(CHAT)
    assert (caught.value.fault, caught.value.again) == ("context", False)


@pytest.mark.parametrize("reason", ["abort", "error"])
@pytest.mark.parametrize("text", ["", '{"guidelines": ["half of'])
def test_an_answer_that_the_server_broke_off_is_asked_for_again(server, reason, text):
    """vLLM, shut down while it works, answers with status 200 and what it has so far."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    server.answers = [(200, json.dumps({"choices": [choice]}), {})]
    with pytest.raises(LLMError, match=f"broke the answer off \\({reason}\\)") as caught:
        client(server).complete(CHAT)
    assert (caught.value.fault, caught.value.again) == ("connection", True)


@pytest.mark.parametrize("body", ["", "oops", "[]", '{"choices": []}', '{"choices": [{"message": 3}]}', "[" * 5000])  # fmt: skip
def test_an_answer_that_is_no_completion(server, body):
    server.answers = [(200, body, {})]
    with pytest.raises(LLMError, match="is not a chat completion") as caught:
        client(server).complete(CHAT)
    assert caught.value.fault == "reply"


def test_a_silent_server_times_out(server):
    server.answers = [(200, [30.0, "late"], {})]
    started = time.monotonic()
    with pytest.raises(LLMError) as caught:
        client(server, timeout=0.5).complete(CHAT)
    assert caught.value.fault == "timeout"
    assert time.monotonic() - started < 20, "long before the answer"


def test_a_dripping_server_times_out(server):
    server.answers = [(200, [" ", 0.2] * 200, {})]
    started = time.monotonic()
    with pytest.raises(LLMError) as caught:
        client(server, timeout=1.0).complete(CHAT)
    assert caught.value.fault == "timeout"
    assert time.monotonic() - started < 20, "no longer than its timeout, however often a byte comes"


def test_an_endless_answer_is_cut(server):
    server.answers = [(200, [b" " * 1_000_000] * 9, {})]
    with pytest.raises(LLMError, match="over") as caught:
        client(server).complete(CHAT)
    assert caught.value.fault == "reply"


def test_nobody_there(server):
    server.close()
    with pytest.raises(LLMError) as caught:
        client(server).complete(CHAT)
    assert (caught.value.fault, caught.value.again) == ("connection", True)


def test_the_key_goes_to_no_other_host(server):
    server.answers = [(307, "", {"Location": "http://127.0.0.1:9/v1/chat/completions"})]
    with pytest.raises(LLMError, match="HTTP 307"):
        client(server).complete(CHAT)
    assert len(server.requests) == 1


def test_a_server_that_repeats_the_key_does_not_bring_it_into_errors_or_replies(server):
    server.answers = [(401, f"invalid key {KEY}", {}), said(f"your key is {KEY}"), (200, KEY, {})]
    llm = client(server)
    with pytest.raises(LLMError) as refused:
        llm.complete(CHAT)
    assert llm.complete(CHAT).text == "your key is [key]"
    with pytest.raises(LLMError) as odd:
        llm.complete(CHAT)
    assert KEY not in f"{refused.value!r} {refused.value} {odd.value}"
    assert KEY not in repr(Address(server.url, KEY))


@pytest.mark.parametrize(
    "key", ["1", "none", "x", "test", "EMPTY", "ollama", "not-needed", "Nothing-here", "12345678"]
)
def test_a_key_that_is_no_secret_changes_no_text(server, key):
    llm = EndpointLLM("m", lambda: Address(server.url, key), max_tokens=9)
    server.answers = [said(f"it is {key}1 of 11"), (401, f"invalid {key}", {})]
    assert llm.complete(CHAT).text == f"it is {key}1 of 11"
    assert server.requests[0][1]["Authorization"] == f"Bearer {key}"
    with pytest.raises(LLMError, match=f"invalid {key}"):
        llm.complete(CHAT)


@pytest.mark.parametrize("key", ["pass4711", "token-abc123", "HunterTwo", "a" * 16, "4711-" * 4])
def test_a_key_that_may_be_a_secret_is_removed(key):
    assert Address("http://h/v1", key).without_key(f"it is {key}.") == "it is [key]."


@pytest.mark.parametrize(("status", "length"), [(401, 500), (500, 500), (200, 200)])
@pytest.mark.parametrize("within", [1, len(KEY) // 2, len(KEY) - 1])
def test_no_part_of_a_key_is_left_where_a_long_text_is_cut(server, status, length, within):
    before = "x" * (length - within - 1)
    server.answers = [(status, f"{before} {KEY}{'y' * length}", {})]
    with pytest.raises(LLMError) as caught:
        client(server).complete(CHAT)
    assert str(caught.value).endswith(f"{before} [key]{'y' * length}"[:length])


def test_closing_twice(server):
    server.answers = [said("x")]
    llm = client(server)
    llm.complete(CHAT)
    llm.close()
    llm.close()


def test_a_key_that_trials_need_too_stays_in_the_environment(server, monkeypatch):
    server.answers = [said("hi")]
    section = EndpointAgent(
        kind="endpoint", base_url=server.url, model="m", api_key_env="SHARED_KEY"
    )
    for shared, left in ((("SHARED_KEY",), KEY), ((), None)):
        monkeypatch.setenv("SHARED_KEY", KEY)
        session = connect(section, TASK_DESCRIPTION, Transcript(), shared_keys=shared)
        assert os.environ.get("SHARED_KEY") == left
        assert session.caller.ask(CHAT).text == "hi"
        assert server.requests[-1][1]["Authorization"] == f"Bearer {KEY}"


def test_a_second_controller_of_one_process_has_the_key_too(server, monkeypatch):
    server.answers = [said("hi")]
    section = EndpointAgent(kind="endpoint", base_url=server.url, model="m", api_key_env="ONE_KEY")
    for exported in (KEY, None, "another-" + KEY, None):
        if exported:
            monkeypatch.setenv("ONE_KEY", exported)
            expected = exported
        session = connect(section, TASK_DESCRIPTION, Transcript())
        assert session.caller.ask(CHAT).text == "hi"
        assert server.requests[-1][1]["Authorization"] == f"Bearer {expected}"
        assert "ONE_KEY" not in os.environ


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("https_proxy", "socks5h://me:pass4711@127.0.0.1:1"),
        ("HTTP_PROXY", "ftp://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://proxy:port"),
        ("NO_PROXY", "fd00::/8"),
        ("NO_PROXY", "[::1]"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem"),
    ],
)
def test_an_environment_with_which_no_request_can_be_sent(server, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    server.answers = [said("hi")]
    with pytest.raises(LLMError, match=f"{variable}.*unset") as caught:
        client(server).complete(CHAT)
    assert (caught.value.fault, caught.value.again) == ("refused", False)
    assert "pass4711" not in str(caught.value)
