"""Models for the engines' tests: the tiny one with a chat template, and scripts for the scripted
engine.
"""

from __future__ import annotations

import json
import shutil
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
def tiny_thinking(tiny, thinking_template, tmp_path_factory) -> Path:
    """`tiny` with the chat template `thinking_template`."""
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-thinking"
    shutil.copytree(tiny, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = thinking_template
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def script(tmp_path_factory) -> Path:
    """A script of eight equally likely replies to prompts about a tree."""
    path = tmp_path_factory.mktemp("scripts") / "script.json"
    path.write_text(json.dumps(SCRIPT))
    return path
