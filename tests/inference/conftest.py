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
def tiny_thinking(tiny, tmp_path_factory) -> Path:
    """The same model with a chat template that opens a block of thinking on demand, with a special
    marker.
    """
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-thinking"
    shutil.copytree(tiny, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if opened %}<think>\n{% endif %}"
    )
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


def _served(model: Path, folder: Path) -> Iterator[str]:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from tests.support.endpoints import KEY, KEY_VARIABLE, vllm_server

    with (
        pytest.MonkeyPatch.context() as patched,
        vllm_server(model, "tiny/model", folder / "server.log", max_model_len=256) as url,
    ):
        patched.setenv(KEY_VARIABLE, KEY)
        yield url


@pytest.fixture(scope="session")
def tiny_server(tiny, tmp_path_factory) -> Iterator[str]:
    """The address of a vLLM server of `tiny` with a context of 256 tokens, as "tiny/model"."""
    yield from _served(tiny, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session")
def tiny_base_server(tiny_base, tmp_path_factory) -> Iterator[str]:
    """The address of the same server of `tiny_base`."""
    yield from _served(tiny_base, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session")
def script(tmp_path_factory) -> Path:
    """A script of eight equally likely replies to prompts about a tree."""
    path = tmp_path_factory.mktemp("scripts") / "script.json"
    path.write_text(json.dumps(SCRIPT))
    return path
