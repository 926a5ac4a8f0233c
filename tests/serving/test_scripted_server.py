"""The server of a scripted model, asked as the search asks any server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from agenttts.endpoint import Address
from agenttts.inference.base import ModelConfig
from agenttts.inference.scripted import ScriptedEngine
from agenttts.search.llm.base import Chat, LLMError
from agenttts.search.llm.endpoint import EndpointLLM
from agenttts.serving.probe import answers
from agenttts.serving.scripted_server import scripted_server
from agenttts.trial.questions import Question

CHAT = Chat("propose", ({"role": "user", "content": "Which one?"},), {"type": "object"}, seed=3)


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[ModelConfig, str]]:
    script = tmp_path / "model.json"
    rule = {"contains": ["Which one?"], "replies": [{"text": f"number {n}"} for n in range(9)]}
    script.write_text(json.dumps({"rules": [rule], "default": "what?"}))
    model = ModelConfig("m", str(script), engine="scripted", gpus=0, options={"max_model_len": 99})
    server = scripted_server(model, "127.0.0.1", 0, "the key")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield model, f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def client(url: str, key: str = "the key", max_tokens: int = 20) -> EndpointLLM:
    return EndpointLLM("m", lambda: Address(url, key), max_tokens=max_tokens, temperature=0.7)


def test_it_says_what_a_worker_with_the_same_model_says(served):
    model, url = served
    question = Question(model, CHAT.messages, max_tokens=20, temperature=0.7, seed=3)
    [completion] = ScriptedEngine(model).generate([question.request])
    reply = client(url).complete(CHAT)
    assert reply.text == completion.samples[0].text
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish_reason) == (2, 3, "stop")


def test_it_is_ready_for_its_own_key_only(served):
    _, url = served
    assert answers(url, "the key")
    assert not answers(url, "another key")
    with pytest.raises(LLMError) as caught:
        client(url, "another key").complete(CHAT)
    assert caught.value.fault == "refused"


def test_a_prompt_that_is_too_long_is_refused_as_such(served):
    _, url = served
    with pytest.raises(LLMError) as caught:
        client(url, max_tokens=98).complete(CHAT)
    assert caught.value.fault == "context"
