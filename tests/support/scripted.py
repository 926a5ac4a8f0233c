"""A small spec over the built-in questions with two scripted models."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from agenttts.dispatch.profile import BUILT_IN
from agenttts.files.atomic import atomic_write_text

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "agenttts" / "tasks" / "data" / "twohop.jsonl"


def scripted_model(path: Path, questions: list[dict[str, Any]], right: float) -> Path:
    """Write a script for the scripted engine that answers both stages of the built-in questions.

    Args:
        path: The file to write.
        questions: The built-in questions.
        right: The probability of a right reply.
    """
    rules: list[dict[str, Any]] = []
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


def at_fixed_path(script: Path) -> Path:
    """A copy of a script at a path that only its content decides, the same in every run of the
    tests.

    The samples of a prompt are drawn under its model's path, among others. Under a test's own
    directory, which is another in every run, a test would see other samples each time.
    """
    content = script.read_text(encoding="utf-8")
    folder = Path("/tmp/agenttts-test-scripts")
    path = folder / f"{script.stem}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user's folder, and open to all
            folder.chmod(0o1777)
        atomic_write_text(path, content)
    assert path.read_text(encoding="utf-8") == content, f"{path} is not what its name says"
    return path


def small_spec(folder: Path, name: str = "small", **changes: object) -> Path:
    """Write ``folder/NAME.yaml``, a two-stage spec with a weak and a strong scripted model, and
    their scripts.

    It runs in the launching process unless ``cluster`` is changed.

    Args:
        folder: The directory to write into.
        name: The name of the file and of the run.
        changes: Values by their place in the spec: ``search__budget=70`` sets ``search.budget``.
    """
    questions = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    paths = {
        model: str(at_fixed_path(scripted_model(folder / f"{model}.json", questions, right)))
        for model, right in (("weak", 0.35), ("strong", 0.8))
    }
    stage = {
        "models": ["weak", "strong"],
        "prompt_tokens": 256,
        "decode_tokens": 32,
        "samples": [1, 40],
    }
    spec: dict[str, Any] = {
        "name": name,
        "task": {"name": "retrieval_qa", "examples": 8},
        "stages": {"retrieval": dict(stage), "answer": dict(stage)},
        "models": {
            "weak": {"path": paths["weak"], "params": 3e9, "engine": "scripted"},
            "strong": {"path": paths["strong"], "params": 14e9, "engine": "scripted"},
        },
        "search": {"budget": 80, "iterations": 2, "batch_size": 3, "seed": 1},
        "cluster": "in_process",
    }
    for key, value in changes.items():
        place = spec
        *parents, last = key.split("__")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def one_trial_a_job(folder: Path, kind: str = "in_process", **changes: object) -> str:
    """Write a profile like the built-in one, but with a job for each trial; return its path.

    Args:
        folder: The directory to write into.
        kind: The name of the built-in profile.
        changes: Further values of the profile.
    """
    path = folder / f"{kind}-one-trial-a-job.yaml"
    profile = yaml.safe_load(BUILT_IN[kind])
    path.write_text(yaml.safe_dump({**profile, "trials_per_job": 1, **changes}))
    return str(path)
