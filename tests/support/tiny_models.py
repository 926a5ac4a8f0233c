"""A pytest plugin with a tiny random model and a real server of it, each made once a session.

Activated by ``tests/conftest.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# It opens a block of thinking on demand, with a special marker.
_TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}{% if opened %}<think>\n{% endif %}"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The tiny random model; its context is 1024 tokens."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from agenttts.inference.packaged_models import make_tiny

    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def thinking_template() -> str:
    """A chat template for the tiny model."""
    return _TEMPLATE


@pytest.fixture(scope="session")
def tiny_base(tiny, tmp_path_factory) -> Path:
    """`tiny` as a base model: without a chat template."""
    path = tmp_path_factory.mktemp("models") / "tiny-base"
    shutil.copytree(tiny, path)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("chat_template", None)
    file.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="session")
def tiny_server(tiny_base, tmp_path_factory, loaded_models) -> Iterator[str]:
    """The address of a vLLM server of `tiny_base` with a context of 256 tokens, as "tiny/model".

    It has no chat template of its own, and takes one from a request: so one server, whose start
    takes half a minute of a core, is one of a chat model and of a base model.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from tests.support.endpoints import KEY, KEY_VARIABLE, vllm_server

    log = tmp_path_factory.mktemp("server") / "server.log"
    options = {"max_model_len": 256, "trust_request_chat_template": True}
    url = loaded_models.enter_context(vllm_server(tiny_base, "tiny/model", log, **options))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(KEY_VARIABLE, KEY)
        yield url
