"""Models for the engines' tests: a tiny random one made once, and scripts for the scripted
engine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

WORDS = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath"]
# It opens a block of thinking on demand, with a special marker.
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}{% if opened %}<think>\n{% endif %}"
SCRIPT = {
    "rules": [
        {
            "contains": ["tree"],
            "replies": [{"text": f"{w} and then\n\nsome more of {w}"} for w in WORDS],
        },
        {"contains": ["long"], "replies": [{"text": " ".join(WORDS * 10)}]},
    ],
    "default": "I do not know",
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The tiny random model; its context is 1024 tokens."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from agenttts.inference.packaged_models import make_tiny

    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def thinking_template() -> str:
    """The chat template of `tiny_thinking`."""
    return TEMPLATE


@pytest.fixture(scope="session")
def tiny_thinking(tiny, tmp_path_factory) -> Path:
    """The same model with the chat template `TEMPLATE`."""
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-thinking"
    shutil.copytree(tiny, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_base(tiny, tmp_path_factory) -> Path:
    """The same model as a base model: without a chat template."""
    path = tmp_path_factory.mktemp("models") / "tiny-base"
    shutil.copytree(tiny, path)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("chat_template", None)
    file.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="session")
def tiny_server(tiny_base, tmp_path_factory) -> Iterator[str]:
    """The address of a vLLM server of `tiny_base` with a context of 256 tokens, as "tiny/model".

    It has no chat template of its own, and takes one from a request: so one server, whose start
    takes half a minute of a core, is one of a chat model and of a base model.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from tests.support.endpoints import KEY, KEY_VARIABLE, vllm_server

    log = tmp_path_factory.mktemp("server") / "server.log"
    options = {"max_model_len": 256, "trust_request_chat_template": True}
    with (
        pytest.MonkeyPatch.context() as patched,
        vllm_server(tiny_base, "tiny/model", log, **options) as url,
    ):
        patched.setenv(KEY_VARIABLE, KEY)
        yield url


@pytest.fixture(scope="session")
def script(tmp_path_factory) -> Path:
    """A script of eight equally likely replies to prompts about a tree."""
    path = tmp_path_factory.mktemp("scripts") / "script.json"
    path.write_text(json.dumps(SCRIPT))
    return path
