"""The endpoint engine against a scripted HTTP server: what is sent, and what servers do wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from agenttts.errors import Unavailable, located
from agenttts.inference import endpoint
from agenttts.inference.base import EngineError, Finished, ModelConfig, Request, SamplingParams
from agenttts.inference.endpoint import EndpointEngine
from agenttts.inference.endpoint_check import check_listed
from agenttts.inference.engine_process import create_engine
from agenttts.replies import COMMON_THINKING, Thinking, remove_thinking
from tests.support.llm import KEY, Server, said

VARIABLE = "ENDPOINT_TEST_KEY"
CHAT = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Which river?"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(VARIABLE, KEY)
    running = Server()
    running.models = models("m", "other")
    running.answers = [said("hi")]
    yield running
    running.close()


def models(*ids: str, **more: object) -> tuple[int, str, dict[str, str]]:
    return 200, json.dumps({"data": [{"id": name, **more} for name in ids]}), {}


def plain(text: str, reason: str = "stop", **usage: int) -> tuple[int, str, dict[str, str]]:
    choices = [{"text": text, "finish_reason": reason}]
    return 200, json.dumps({"choices": choices, "usage": usage}), {}


def config(server: Server, path: str = "m", **options: object) -> ModelConfig:
    thinking = options.pop("thinking", COMMON_THINKING)
    options = {"base_url": server.url, "api_key_env": VARIABLE, "use_proxy": False} | options
    return ModelConfig("river", path, engine="endpoint", options=options, thinking=thinking)


def engine(server: Server, **options: object) -> EndpointEngine:
    return EndpointEngine(config(server, **options))


def request(content: object = CHAT, seeds: int = 1, tokens: int = 50, **more: object) -> Request:
    params = SamplingParams(more.pop("temperature", 0.7), tokens)
    return Request(content, params, tuple(range(7, 7 + seeds)), **more)


def bodies(server: Server) -> list[dict[str, object]]:
    return [body for _, _, body in server.requests]


def test_a_chat_and_its_reply(server):
    asked = request(template_args={"enable_thinking": False})
    [completion] = engine(server, extra={"top_k": 3}).generate([asked])
    [sample] = completion.samples
    assert (sample.text, sample.decode_tokens, sample.finish_reason) == ("hi", 7, "stop")
    assert (completion.prompt_tokens, completion.truncated) == (11, False)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "m",
        "messages": [dict(message) for message in CHAT],
        "temperature": 0.7,
        "top_p": 1.0,
        "max_tokens": 50,
        "seed": 7,
        "chat_template_kwargs": {"enable_thinking": False},
        "top_k": 3,
    }


def test_a_completion_and_its_stop_strings(server):
    server.answers = [plain("hi", "length", prompt_tokens=5, completion_tokens=50)]
    [completion] = engine(server).generate([request("Q: A:", stop=("\n\n",), temperature=0.0)])
    assert completion.samples[0].finish_reason == "length"
    assert completion.prompt_tokens == 5
    [(path, _, body)] = server.requests
    assert path == "/v1/completions"
    assert (body["prompt"], body["stop"]) == ("Q: A:", ["\n\n"])
    assert "top_p" not in body, "nothing is drawn at temperature 0"


def test_every_sample_has_a_request_and_a_seed_of_its_own(server):
    server.answers = [lambda body: said(f"seed {body['seed']}")]
    first, second = engine(server).generate([request(seeds=3), request("Q", seeds=0)])
    assert [sample.text for sample in first.samples] == ["seed 7", "seed 8", "seed 9"]
    assert second.samples == ()
    assert second.prompt_tokens > 0
    assert all("n" not in body for body in bodies(server))


def test_answers_that_came_before_a_failure_are_passed_on(server):
    server.answers = [said("one"), said("two"), (404, "no such model", {})]
    every: list[Finished] = []
    with pytest.raises(EngineError, match="no such model"):
        engine(server, max_concurrent=1).generate([request(seeds=4)], every.append)
    assert [finished.places for finished in every] == [(0,), (1,)]
    assert [finished.completion.samples[0].text for finished in every] == ["one", "two"]
    assert every[0].completion.prompt_tokens == 11


def choices(*texts: str) -> tuple[int, str, dict[str, str]]:
    found = [{"message": {"content": text}, "finish_reason": "stop"} for text in texts]
    usage = {"prompt_tokens": 11, "completion_tokens": 30}
    return 200, json.dumps({"choices": found, "usage": usage}), {}


def test_several_samples_in_one_request(server):
    server.answers = [choices("a", "b" * 8), choices("c")]
    [completion] = engine(server, samples_per_request=2, max_concurrent=1).generate(
        [request(seeds=3)]
    )
    asked = [(body["seed"], body.get("n")) for body in bodies(server)]
    assert asked == [(7, 2), (9, None)]
    texts = sorted(sample.text for sample in completion.samples)
    assert texts == ["a", "bbbbbbbb", "c"]
    together = [s.decode_tokens for s in completion.samples if s.text != "c"]
    assert sum(together) == 30, "the server's sum, divided by length"
    assert max(together) > 2 * min(together)


def test_a_server_that_gives_fewer_samples_is_asked_for_the_rest(server):
    server.answers = [lambda body: said(f"seed {body['seed']}")]
    [completion] = engine(server, samples_per_request=3).generate([request(seeds=3)])
    assert [sample.text for sample in completion.samples] == ["seed 7", "seed 8", "seed 9"]


def test_no_more_requests_at_a_time_than_allowed(server):
    """Each is answered when three are there, and after a moment for more of them."""
    three = threading.Barrier(3)

    def together(body):
        three.wait(60)
        time.sleep(0.05)
        return said("x")

    server.answers = [together]
    engine(server, max_concurrent=3).generate([request(seeds=12)])
    assert server.most_at_once == 3


def test_no_more_requests_in_a_minute_than_allowed(server):
    drawing = engine(server, requests_per_minute=600)
    began = time.monotonic()
    drawing.generate([request(seeds=6)])
    assert 0.5 <= time.monotonic() - began < 30, "not as many as in an hour"


@pytest.mark.parametrize(
    "wrong",
    [
        (500, "oops", {}),
        (503, "busy", {}),
        (520, "<h1>unknown error</h1>", {}),
        (524, "a timeout occurred", {}),
        (530, "error 1033", {}),
        (429, "slow down", {"Retry-After": "0.2"}),
        (200, "not JSON", {}),
        (200, '{"choices": []}', {}),
        (200, '{"choices": [{"message": 5}]}', {}),
        (200, '{"choices": [{"mess', {"Content-Length": "500"}),
        (200, "[" * 100_000, {}),
        (200, json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "abort"}]}), {}),
    ],
)  # fmt: skip
def test_what_may_pass_is_asked_again(server, wrong):
    server.answers = [wrong, said("well")]
    [completion] = engine(server).generate([request()])
    assert completion.samples[0].text == "well"
    assert len(server.requests) == 2


def test_what_a_server_cannot_do_is_asked_once(server):
    server.answers = [(501, "not implemented", {})]
    with pytest.raises(EngineError, match="not implemented") as caught:
        engine(server).generate([request()])
    assert caught.value.kind == "INFRA_FAILED"
    assert len(server.requests) == 1


def test_a_late_answer_is_asked_for_again(server):
    server.answers = [(200, ["{", 3.0, "}"], {}), said("well")]
    [completion] = engine(server, timeout_seconds=1).generate([request()])
    assert completion.samples[0].text == "well"


def test_a_server_that_stays_silent_is_no_fault_of_the_allocation(server, capfd):
    server.answers = [(500, f"no {KEY}", {})]
    with pytest.raises(EngineError, match="HTTP 500.*no request was answered for") as caught:
        engine(server, retry_seconds=2).generate([request(seeds=4)])
    assert caught.value.kind == "INFRA_FAILED"
    assert "river" in str(caught.value)
    output = capfd.readouterr().out
    assert "trying again in" in output
    assert KEY not in f"{output}{caught.value}"


def test_a_server_that_takes_requests_and_answers_none(server):
    server.answers = [(200, [60.0, "{}"], {})]
    began = time.monotonic()
    with pytest.raises(
        EngineError, match=r"no answer in 0\.5 s; no request was answered"
    ) as caught:
        engine(server, timeout_seconds=0.5, retry_seconds=1).generate([request(seeds=3)])
    assert caught.value.kind == "INFRA_FAILED"
    assert time.monotonic() - began < 50


def test_a_server_that_is_not_there(server):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
        # Nobody else gets the port meanwhile.
        with pytest.raises(EngineError, match=re.escape(url)) as caught:
            engine(server, base_url=url, retry_seconds=0)
    assert caught.value.kind == "INFRA_FAILED"


def test_a_wait_that_is_longer_than_the_patience(server):
    server.answers = [(429, "tomorrow", {"Retry-After": "86400"})]
    with pytest.raises(EngineError, match="asks to wait 86400 s") as caught:
        engine(server).generate([request()])
    assert caught.value.kind == "INFRA_FAILED"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_its_variable_and_not_itself(server, status):
    server.answers = [(status, f"bad key {KEY}", {})]
    with pytest.raises(EngineError, match=f"refuses the key.*{VARIABLE}") as caught:
        engine(server).generate([request()])
    assert caught.value.kind == "INFRA_FAILED"
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1, "it is not tried again"


def test_a_server_that_asks_for_a_key(server):
    server.models = (401, "who are you", {})
    with pytest.raises(EngineError, match=r"options\.api_key_env") as caught:
        engine(server, api_key_env=None)
    assert caught.value.kind == "INFRA_FAILED"


@pytest.mark.parametrize("value", [None, "", "two words", "käse"])
def test_a_variable_without_a_key(server, value, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(EngineError, match=VARIABLE) as caught:
        engine(server)
    assert caught.value.kind == "INFRA_FAILED"
    assert not value or value not in str(caught.value)


def test_money_that_has_run_out_is_not_waited_for(server):
    server.answers = [(429, '{"error": {"code": "insufficient_quota"}}', {})]
    with pytest.raises(EngineError, match="insufficient_quota") as caught:
        engine(server).generate([request()])
    assert caught.value.kind == "INFRA_FAILED"


@pytest.mark.parametrize(
    "text",
    [
        # OpenAI, Gemini
        "Rate limit reached for m on requests per min (RPM): Limit 3, Used 3. You can increase "
        "your rate limit by adding a payment method at https://platform.openai.com/account/billing.",
        "You exceeded your current quota, please check your plan and billing details. "
        '* Quota exceeded for metric: requests, limit: 15. Please retry in 0.1s. "RESOURCE_EXHAUSTED"',
    ],
)
def test_too_many_requests_are_waited_for_whatever_their_text_says_of_money(server, text):
    server.answers = [(429, text, {"Retry-After": "0"}), said("hi")]
    [completion] = engine(server).generate([request()])
    assert completion.samples[0].text == "hi"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SSL_CERT_FILE", "/nonexistent/ca.pem"), ("NO_PROXY", "fd00::/8")],
)
def test_a_node_whose_environment_allows_no_request(server, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineError, match=f"{variable}.*unset") as caught:
        engine(server, use_proxy=True)
    assert caught.value.kind == "INFRA_FAILED"


def test_an_answer_that_is_too_large(server, monkeypatch):
    monkeypatch.setattr(endpoint, "_LARGEST_ANSWER", 20_000)
    drawing = engine(server)
    server.answers = [said("x" * 20_001)]
    with pytest.raises(EngineError, match="over 20000 bytes") as caught:
        drawing.generate([request()])
    assert caught.value.kind == "INFRA_FAILED"


def test_redirects_are_not_followed(server):
    elsewhere = Server()
    elsewhere.answers = [said("stolen")]
    try:
        server.answers = [(307, "", {"Location": f"{elsewhere.url}/chat/completions"})]
        with pytest.raises(EngineError, match="it redirects to") as caught:
            engine(server).generate([request()])
        assert caught.value.kind == "INFRA_FAILED"
        assert elsewhere.requests == []
    finally:
        elsewhere.close()


def test_a_model_that_the_server_does_not_have(server):
    with pytest.raises(EngineError, match=r"has no model 'othr'; valid: m, other; .*'other'"):
        EndpointEngine(config(server, path="othr"))
    server.models = (404, "", {})
    server.answers = [(404, "The model `m` does not exist.", {})]
    with pytest.raises(EngineError, match="does not exist.*check base_url") as caught:
        engine(server).generate([request()])
    assert caught.value.kind == "FAILED"


@pytest.mark.parametrize("host", ["me.openai.azure.com", "me.services.ai.azure.com"])
def test_a_deployment_of_azure_is_not_in_the_list_of_models(server, monkeypatch, host):
    """Its host is reached through a proxy here, which is the test's server."""
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    for name in ("HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.models = models("gpt-4o-mini-2024-07-18", "o4-mini-2025-04-16")
    there = {"base_url": f"http://{host}/openai/v1/", "use_proxy": True}
    [completion] = EndpointEngine(config(server, "my-gpt", **there)).generate([request()])
    assert completion.samples[0].text == "hi"
    [(path, headers, body)] = server.requests
    assert path == f"http://{host}/openai/v1/chat/completions"
    assert (headers["Authorization"], body["model"]) == (f"Bearer {KEY}", "my-gpt")
    assert check_listed(config(server, "my-gpt", **there)).endswith("lists no models")
    listed = server.models
    server.models = lambda path: listed if path.endswith("/v1/models") else (404, "", {})
    server.answers = [(404, "{}", {})]
    with pytest.raises(Unavailable, match=r"nothing answers at .*, but at .*/openai/v1"):
        check_listed(config(server, "my-gpt", **there | {"base_url": f"http://{host}/openai"}))
    server.models = listed
    there["base_url"] = "http://own.westus.cloudapp.azure.com/v1"  # a machine of Azure
    with pytest.raises(EngineError, match="has no model 'my-gpt'"):
        EndpointEngine(config(server, "my-gpt", **there))


@pytest.mark.parametrize(
    ("listed", "path", "there"),
    [
        (["openai/*", "m"], "openai/gpt-4o", True),  # LiteLLM
        (["*"], "anything/else", True),
        (["openai/*"], "anthropic/claude", False),
        (["a.b/*"], "aXb/c", False),
        (["org/name"], "org/name:provider", True),  # Hugging Face, OpenRouter
        (["llama3:8b"], "llama3:70b", False),
        (["llama3:8b"], "llama3", False),
        (["org/name"], ":provider", False),
        (["name[*", "m"], "name[7b]", True),
    ],
)
def test_patterns_and_suffixes_of_a_gateway_s_models(server, listed, path, there):
    server.models = models(*listed)
    if there:
        [completion] = EndpointEngine(config(server, path)).generate([request()])
        assert completion.samples[0].text == "hi"
        assert bodies(server)[-1]["model"] == path
        assert "context that it does not say" in check_listed(config(server, path))
        return
    with pytest.raises(EngineError, match="has no model"):
        EndpointEngine(config(server, path))
    with pytest.raises(Unavailable, match="has no model"):
        check_listed(config(server, path))


@pytest.mark.parametrize(
    ("below", "empty_request", "lacks"),
    [
        (models("m"), 404, True),  # vLLM, whose paths begin with /v1
        (models("m"), 422, False),  # a server that answers here, and lists no models
        (models(), 404, False),
        ((200, "<html>", {}), 404, False),
        ((404, "", {}), 404, False),
        ((503, "", {}), 404, False),
    ],
)
def test_an_address_without_its_v1(server, below, empty_request, lacks):
    server.models = lambda path: below if path == "/v1/models" else (404, "Not Found", {})
    server.answers = [(empty_request, "{}", {})]
    root = server.url.removesuffix("/v1")
    if lacks:
        with pytest.raises(Unavailable) as error, located("models", "river"):
            check_listed(config(server, base_url=root))
        assert str(error.value).startswith("models.river.options.base_url: nothing answers at")
        assert error.value.fix == f"set it to {server.url}"
    else:
        assert check_listed(config(server, base_url=root)).endswith("lists no models")
    assert [(path, body) for path, _, body in server.requests] in ([("/chat/completions", {})], [])


def test_a_request_that_the_server_refuses_is_the_allocation_s(server):
    server.answers = [(400, "temperature must be 1 for this model", {})]
    with pytest.raises(EngineError, match="temperature must be 1") as caught:
        engine(server).generate([request()])
    assert caught.value.kind == "FAILED"
    server.answers = [said("hi")]
    engine(server, extra={"temperature": None, "seed_text": "x"}).generate([request()])
    assert "temperature" not in bodies(server)[-1]

    server.answers = [(400, "Unsupported value: 'temperature' does not support 0.7", {})]
    with pytest.raises(EngineError, match=r"set options\.extra to \{temperature: null\}"):
        engine(server).generate([request()])


@pytest.mark.parametrize(
    "answer",
    [(404, "Not Found", {}), (400, "This is a chat model. Did you mean v1/chat/completions?", {})],
)
def test_a_server_that_takes_no_plain_text(server, answer):
    server.answers = [answer]
    plainly = dataclasses.replace(config(server), prompt_style="few_shot_completion")
    with pytest.raises(EngineError, match=r"not accept plain text.*set prompt_style to chat"):
        EndpointEngine(plainly).generate([request("Q: A:")])
    with pytest.raises(EngineError) as error:
        engine(server).generate([request()])
    assert "plain text" not in str(error.value)


def test_a_chat_without_a_template(server):
    server.answers = [(400, "default chat template is no longer allowed", {})]
    with pytest.raises(EngineError, match=r"has no chat template.*few_shot_completion"):
        engine(server).generate([request((CHAT[1],))])


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens is too large: 8000. This model supports at most 4096 completion tokens.",
        "max_tokens (384000) exceeds model's maximum output tokens (65536)",
    ],
)
def test_a_reply_longer_than_the_server_allows_is_no_prompt_too_long(server, text):
    server.answers = [(400, text, {})]
    with pytest.raises(EngineError, match=re.escape(text)) as caught:
        engine(server).generate([request()])
    assert caught.value.kind == "FAILED"
    assert len(server.requests) == 1


def limited(context: int, message: str):
    """An answer of a server that counts words, and refuses more than its context."""

    def answer(body):
        text = body.get("prompt") or " ".join(m["content"] for m in body["messages"])
        tokens, limit = len(text.split()), body["max_tokens"]
        if tokens + limit > context:
            return 400, message.format(context=context, tokens=tokens, limit=limit), {}
        if "prompt" in body:
            return plain(text, prompt_tokens=tokens, completion_tokens=3)
        return said(text, usage={"prompt_tokens": tokens, "completion_tokens": 3})

    return answer


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is {context} tokens. However, you requested {limit} "
        "output tokens and your prompt contains at least {tokens} input tokens.",
        "This model's maximum context length is {context} tokens. However, you requested 99 tokens "
        "({tokens} in the messages, {limit} in the completion). Please reduce the length.",
        "The input ({tokens} tokens) is longer than the model's context length ({context} tokens).",
        "This model's maximum prompt length is {context} but the request contains {tokens} tokens.",
        "The input token count ({tokens}) exceeds the maximum number of tokens allowed ({context}).",
        "Invalid request: Your request exceeded model token limit: {context} (requested: {tokens})",
        "InternalError.Algo.InvalidParameter: Range of input length should be [1, {context}]",
        "The sum of prompt length ({tokens}) and max_tokens should not exceed max_seq_len ({context})",
        "the prompt is too long",
    ],
)
@pytest.mark.parametrize("chat", [True, False])
def test_a_prompt_too_long_loses_its_middle(server, message, chat):
    server.answers = [limited(200, message)]
    words = " ".join(f"word{number}" for number in range(1000))
    long = (CHAT[0], {"role": "user", "content": words}) if chat else f"begin {words}"
    cut, whole = engine(server).generate([request(long, seeds=4), request()])
    assert (cut.truncated, whole.truncated) == (True, False)
    assert 150 - 9 <= cut.prompt_tokens <= 150
    texts = {sample.text for sample in cut.samples}
    assert len(texts) == 1, "all samples are of one prompt"
    [text] = texts
    assert text.startswith("Be short." if chat else "begin")
    assert text.endswith("word999")
    assert len(server.requests) < 40


def test_a_body_that_a_proxy_does_not_pass_on_is_shortened(server):
    def proxy(body):
        size = len(json.dumps(body))
        return (413, "<h1>413 Request Entity Too Large</h1>", {}) if size > 3000 else plain("hi")

    server.answers = [proxy]
    [completion] = engine(server).generate([request("word " * 1000)])
    assert (completion.truncated, completion.samples[0].text) == (True, "hi")
    server.answers = [(413, "Request too large on tokens per minute (TPM): Limit 6000", {})]
    with pytest.raises(EngineError, match="Limit 6000"):
        engine(server).generate([request("word " * 1000)])


@pytest.mark.parametrize(
    ("text", "reason", "left"),
    [
        ("oak\n\nQ: Which", "length", ("oak", "stop")),  # a server without stop strings
        ("oak\n\n", "stop", ("oak", "stop")),  # one that returns them
        ("oak END\n\n", "stop", ("oak ", "stop")),
        ("oak\n", "length", ("oak\n", "length")),
        (None, "stop", ("", "stop")),
    ],
)
def test_a_completion_ends_before_its_stop_strings(server, text, reason, left):
    server.answers = [plain(text, reason)]
    [completion] = engine(server).generate([request("Q: A:", stop=("\n\n", "END"))])
    [sample] = completion.samples
    assert (sample.text, sample.finish_reason) == left


def test_parts_of_a_reply_without_a_text(server):
    parts = [{"type": "text", "text": None}, {"type": "text", "text": "oak"}, {"type": "image"}]
    server.answers = [(200, json.dumps({"choices": [{"message": {"content": parts}}]}), {})]
    [completion] = engine(server).generate([request()])
    assert completion.samples[0].text == "oak"


def test_a_shortened_prompt_is_the_same_every_time(server):
    server.answers = [limited(200, "too long")]
    long = " ".join(f"word{number}" for number in range(1000))
    one, other = (engine(server).generate([request(long, seeds=2)]) for _ in range(2))
    assert one == other


def test_max_tokens_that_fill_the_context(server):
    server.models = models("m", max_model_len=100)
    drawing = engine(server)
    with pytest.raises(EngineError, match="lower decode_tokens"):
        drawing.generate([request(tokens=100)])
    server.models = models("m")
    server.answers = [limited(100, "too long")]
    with pytest.raises(EngineError, match="lower decode_tokens"):
        engine(server).generate([request("a prompt of words", tokens=100)])
    assert drawing.generate([request(tokens=50)]), "the engine lives on"


def refusing(name: str, text: str):
    return lambda body: (400, text, {}) if name in body else said("hi")


def test_a_server_without_seeds_is_asked_without_and_it_is_said(server, capfd):
    server.answers = [refusing("seed", "Unsupported parameter: 'seed'")]
    engine(server, max_concurrent=1).generate([request(seeds=3)])
    output = capfd.readouterr().out
    assert output.count("refuses seed") == 1
    assert "through the sample store only" in output
    assert ["seed" in body for body in bodies(server)] == [True, False, False, False]


def test_a_server_that_wants_other_parameters(server):
    def answer(body):
        if "max_tokens" in body:
            return 400, "max_tokens is not supported; use max_completion_tokens", {}
        if "top_p" in body:
            return 400, "Unsupported value: 'top_p'", {}
        if body["messages"][0]["role"] == "system":
            return 400, "System role not supported", {}
        return said(body["messages"][0]["content"])

    server.answers = [answer]
    [completion] = engine(server).generate([request()])
    assert completion.samples[0].text == "Be short.\n\nWhich river?"
    assert bodies(server)[-1]["max_completion_tokens"] == 50


def test_a_server_that_takes_one_sample_at_a_time(server):
    server.answers = [refusing("n", "n must be 1")]
    [completion] = engine(server, samples_per_request=4).generate([request(seeds=4)])
    assert len(completion.samples) == 4


def test_a_reply_whose_thinking_takes_all_its_tokens_is_an_empty_sample(server):
    text = (
        "Could not finish the message because max_tokens or model output limit was reached. "
        "Please try again with higher max_tokens."
    )
    refused = (400, json.dumps({"error": {"message": text, "type": "invalid_request_error"}}), {})
    server.answers = [refused, said("hi"), refused]
    [completion] = engine(server, max_concurrent=1).generate([request(seeds=3, tokens=50)])
    found = [(s.text, s.decode_tokens, s.finish_reason) for s in completion.samples]
    assert found == [("", 50, "length"), ("hi", 7, "stop"), ("", 50, "length")]
    assert completion.prompt_tokens == 11, "as the other replies say"


@pytest.mark.parametrize(
    "refused",
    [
        (400, '{"error": {"code": "content_filter", "message": "no"}}', {}),
        (403, "Your chosen model requires moderation and your input was flagged", {}),
        (403, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO", {}),
    ],
)
def test_what_the_server_s_filter_withholds_is_an_empty_sample(server, refused):
    message = {"message": {"content": None}, "finish_reason": "content_filter"}
    server.answers = [refused, (200, json.dumps({"choices": [message]}), {})]
    [completion] = engine(server, max_concurrent=1).generate([request(seeds=2)])
    assert [(s.text, s.finish_reason) for s in completion.samples] == [("", "content_filter")] * 2


def test_tokens_that_the_server_does_not_count_are_estimated(server):
    choice = {"message": {"content": "a reply of twenty-six char"}, "finish_reason": "length"}
    ended = {**choice, "finish_reason": "stop"}
    server.answers = [(200, json.dumps({"choices": [c]}), {}) for c in (choice, ended)]
    [completion] = engine(server, max_concurrent=1).generate([request(seeds=2)])
    assert [sample.decode_tokens for sample in completion.samples] == [50, 8]
    assert completion.prompt_tokens == 6


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_that_the_server_keeps_apart_is_stored_and_removed_once(server, name):
    def reply(content, thought, reason):
        message = {"content": content, name: thought}
        return 200, json.dumps({"choices": [{"message": message, "finish_reason": reason}]}), {}

    thought = "Rivers... I say </b> no."
    server.answers = [reply("the Rhine", thought, "stop"), reply(None, thought, "length")]
    [completion] = engine(server, max_concurrent=1).generate([request(seeds=2)])
    whole, cut = (sample.text for sample in completion.samples)
    assert thought in whole
    assert thought in cut
    assert remove_thinking(whole, COMMON_THINKING) == "the Rhine"
    assert remove_thinking(cut, COMMON_THINKING) == ""
    for markers in (COMMON_THINKING, Thinking(("[THINK]",), ("[/THINK]",)), None):
        server.answers = [reply("the Rhine", thought, "stop"), reply(None, thought, "length")]
        [own] = engine(server, thinking=markers, max_concurrent=1).generate([request(seeds=2)])
        texts = [sample.text for sample in own.samples]
        assert texts == [whole, cut], "they have one address, whatever the markers"
        assert [remove_thinking(text, markers) for text in texts] == ["the Rhine", ""]


def test_a_reply_is_valid_text(server):
    server.answers = [said("a \ud800 b " + KEY)]
    [completion] = engine(server).generate([request()])
    assert completion.samples[0].text == "a ? b [key]"


def test_a_key_that_is_a_word_changes_no_sample(server, monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")
    server.answers = [said("The answer is none of these: (C)")]
    [completion] = engine(server).generate([request()])
    assert completion.samples[0].text == "The answer is none of these: (C)"


@pytest.mark.processes
def test_in_its_own_process_a_server_s_lack_of_memory_is_not_the_allocation_s(server):
    server.answers = [(400, "hi", {}), (500, "CUDA out of memory. Tried to allocate 2 GiB", {})]
    running = create_engine(config(server, retry_seconds=0))
    try:
        with pytest.raises(EngineError) as caught:
            running.generate([request()])
        assert caught.value.kind == "FAILED"
        with pytest.raises(EngineError, match="out of memory") as caught:
            running.generate([request()])
        assert caught.value.kind == "INFRA_FAILED"
    finally:
        running.close()


@pytest.mark.processes
def test_a_busy_engine_is_closed_at_once(server):
    server.answers = [(200, ["{", 30.0], {})]
    running = create_engine(config(server))
    failed: list[BaseException] = []

    def draw() -> None:
        try:
            running.generate([request(seeds=4)])
        except EngineError as error:
            failed.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    began = time.monotonic()
    running.close()
    thread.join(25)
    assert time.monotonic() - began < 25
    assert failed


def test_a_closed_engine(server):
    drawing = engine(server)
    drawing.close()
    drawing.close()
    with pytest.raises(EngineError, match="closed"):
        drawing.generate([request()])


def test_a_server_that_shortens_the_reply_to_a_long_prompt_gets_a_shorter_prompt(server):
    """As vLLM does for chats."""

    def answer(body):
        words = " ".join(m["content"] for m in body["messages"])
        used = {"prompt_tokens": len(words.split()), "completion_tokens": 1}
        return said(words, usage=used)

    server.models = models("m", max_model_len=100)
    server.answers = [answer]
    long = (CHAT[0], {"role": "user", "content": "word " * 80 + "end"})
    [completion] = engine(server).generate([request(long)])
    assert completion.truncated
    assert 50 - 9 <= completion.prompt_tokens <= 50
