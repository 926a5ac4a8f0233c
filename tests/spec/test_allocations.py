"""Allocations that a user writes (``search.first``)."""

from __future__ import annotations

import pytest

from agenttts import search
from agenttts.errors import UserError
from agenttts.spec import dump_spec
from agenttts.spec.allocations import parse_choice
from tests.support.written_spec import GOOD, parse


@pytest.mark.parametrize("text", ["qwen-7b x8", "qwen-7b×8", " qwen-7b × 8 ", "qwen-7b X8"])
def test_a_choice_is_a_model_and_a_number_of_samples(text):
    assert parse_choice(text) == {"model": "qwen-7b", "samples": 8}


@pytest.mark.parametrize(
    "text", ["qwen-7b", "qwen-7bx8", "x8", "qwen-7b x", "qwen-7b x1.5", "", None, 8, True, ["m", 1]]
)
def test_anything_else_is_refused_with_the_form(text):
    with pytest.raises(ValueError, match="valid: 'MODEL xSAMPLES'"):
        parse_choice(text)


def first(*entries: str) -> str:
    """A spec whose list begins in line 12, one entry a line."""
    lines = "".join(f"    - {{{entry}}}\n" for entry in entries)
    own = "search:\n  budget: 1000\n  first:\n" + lines
    return GOOD.replace("search: {budget: 1000, seed: 3}\n", own)


def test_texts_and_sections_in_any_order_of_the_stages():
    spec = parse(
        first(
            "answer: small x2, retrieval: small x8",
            "retrieval: {model: small, samples: 9}, answer: small×1",
        )
    )
    searcher = search.create_for(spec)
    assert [str(a) for a in searcher.first] == ["small×8 → small×2", "small×9 → small×1"]
    assert parse(dump_spec(spec)) == spec


GIVEN = "retrieval: small x8, answer: small x2"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            (GIVEN, "retrieval: small x8, anwser: small x2"),
            r"job.yaml:13: search.first\[1\].anwser: unknown stage 'anwser'; .*did you mean 'answer'",
        ),
        (
            (GIVEN, "retrieval: small x8"),
            r"job.yaml:13: search.first\[1\]: no choice for answer; .*'answer: small x1'",
        ),
        (
            ("retrieval: smal x8, answer: small x2",),
            r"job.yaml:12: search.first\[0\].retrieval: stage 'retrieval' has no model 'smal'; "
            "valid: small, large; did you mean 'small'",
        ),
        (
            ("retrieval: small x8, answer: small x3",),
            r"job.yaml:12: search.first\[0\].answer: stage .answer. does not allow 3 samples; valid: 1, 2, 8",
        ),
        (
            ("retrieval: small x101, answer: small x2",),
            r"search.first\[0\].retrieval: stage .* does not allow 101 samples; valid: 1 to 100",
        ),
        (
            ("retrieval: large x100, answer: small x2",),
            r"job.yaml:12: search.first\[0\]: large×100 → small×2 costs [0-9.]+ units, more than "
            "the budget of 1000",
        ),
        (
            (GIVEN, "answer: small x2, retrieval: small×8"),
            r"job.yaml:13: search.first\[1\]: small×8 → small×2 is already entry 0",
        ),
        (
            ("retrieval: small, answer: small x2",),
            r"job.yaml:12: search.first\[0\].retrieval: 'small' is not a model and a number",
        ),
        (
            ("retrieval: {model: small, samples: 0}, answer: small x2",),
            r"job.yaml:12: search.first\[0\].retrieval.samples: ",
        ),
    ],
)
def test_a_mistake_names_its_place_and_what_is_valid(entries, message):
    with pytest.raises(UserError, match=message):
        search.create_for(parse(first(*entries)))
