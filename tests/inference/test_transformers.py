"""The transformers engine on a model whose context is in the language part of its config."""

from __future__ import annotations

import json
import shutil

import pytest

from agenttts.inference.base import ModelConfig, Request, SamplingParams
from agenttts.inference.transformers import TransformersEngine


@pytest.mark.llm
def test_a_prompt_is_cut_to_the_context_of_a_multimodal_model(tiny, tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    shutil.copytree(tiny, tmp_path / "gemma")
    layers = {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    tokens = json.loads((tiny / "config.json").read_text())["vocab_size"]
    text = {**layers, "hidden_size": 32, "head_dim": 32, "num_key_value_heads": 1}
    seen = {**layers, "hidden_size": 16, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(
        text_config={**text, "vocab_size": tokens, "max_position_embeddings": 48},
        vision_config=seen,
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "gemma")
    engine = TransformersEngine(ModelConfig("m", str(tmp_path / "gemma"), engine="transformers"))
    [completion] = engine.generate([Request("long tree " * 100, SamplingParams(1.0, 8), (7,))])
    engine.close()
    assert (completion.prompt_tokens, completion.truncated) == (40, True)
