"""Fixtures shared by all tests: the command line, scripted models, small specs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


CACHE = Path(os.environ.get("AGENTTTS_TEST_CACHE", ROOT / ".cache"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real small LLM that ships in a Python package, converted once."""
    from agenttts.inference.packaged_models import prepare

    return prepare("smollm2-135m-instruct", CACHE / "models" / "smollm2-135m-instruct")


@pytest.fixture
def cli(tmp_path):
    """Run ``agenttts-hpc`` as a user would, in an empty directory; results go to ``tmp_path/results``."""

    def run(*arguments: object, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "agenttts.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def scripted_model(path: Path, questions: list[dict[str, object]], right: float) -> Path:
    """A script for the scripted engine that answers both stages of the built-in questions, ``right`` of the time."""
    rules = []
    for question in questions:
        gold = [question["ctxs_candidate"].index(text) + 1 for text in question["ctxs_gt"]]
        answer = question["answers"][0]
        rules.append({"contains": [question["question"], "[8]"], "replies": [
            {"text": " ".join(f"[{i}]" for i in gold), "weight": right},
            {"text": "[1] [2]", "weight": 1 - right},
        ]})  # fmt: skip
        rules.append({"contains": [question["question"]], "replies": [
            {"text": answer, "weight": right},
            {"text": "nobody knows", "weight": 1 - right},
        ]})  # fmt: skip
    path.write_text(json.dumps({"rules": rules, "default": "nothing"}))
    return path


@pytest.fixture
def scripted_spec(tmp_path):
    """A two-stage spec over the built-in data with two scripted models, one better than the other."""

    def make(name: str = "small", **changes: object) -> Path:
        data = ROOT / "agenttts" / "tasks" / "data" / "twohop.jsonl"
        questions = [json.loads(line) for line in data.read_text().splitlines()]
        for model, right in (("weak", 0.35), ("strong", 0.8)):
            scripted_model(tmp_path / f"{model}.json", questions, right)
        stage = {
            "models": ["weak", "strong"],
            "prompt_tokens": 256,
            "decode_tokens": 32,
            "samples": [1, 40],
        }
        spec = {
            "name": name,
            "task": {"name": "retrieval_qa", "examples": 8},
            "stages": {"retrieval": dict(stage), "answer": dict(stage)},
            "models": {
                "weak": {"path": str(tmp_path / "weak.json"), "params": 3e9, "engine": "scripted"},
                "strong": {
                    "path": str(tmp_path / "strong.json"),
                    "params": 14e9,
                    "engine": "scripted",
                },
            },
            "search": {"budget": 80, "iterations": 2, "batch_size": 3, "seed": 1},
        }
        for key, value in changes.items():
            place = spec
            *parents, last = key.split("__")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        return path

    return make
