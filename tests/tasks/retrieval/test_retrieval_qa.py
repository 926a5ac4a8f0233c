"""Parsing, voting, answering and fusion of retrieval QA and, with other words, of
knowledge-graph QA.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest

from agenttts import tasks
from agenttts.errors import UserError
from agenttts.inference.base import render
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.retrieval.data import RetrievalExample
from agenttts.tasks.retrieval.kgqa import KnowledgeGraphQA
from agenttts.tasks.retrieval.task import RetrievalQA

EXAMPLE = RetrievalExample(
    "e", "Who is it?", ("Ann Lee",), tuple(f"Fact {n}." for n in range(1, 21)), (3, 17)
).to_example()


@pytest.fixture(params=[RetrievalQA, KnowledgeGraphQA])
def task(request):
    return request.param()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[3] [17]", [3, 17]),
        ("[3, 17]", [3, 17]),
        ("I need [17], then [3] and [3] again.", [17, 3]),
        ("Needed: 3 and 17\nbecause 5 is not", [3, 17]),
        ("[21] [0] [-3] [3]", [3]),
        ("\n\n 3.5 or 17", [17]),
        ("none", []),
        ("", []),
        ("[" + "9" * 5000 + "]", []),
    ],
)
def test_numbers_are_read_from_whatever_was_written(task, text, expected):
    assert task.stage("retrieval").parse(text, EXAMPLE) == expected


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        # Lists of length 2 are the most common, 3 and 17 the most named (3 times and twice).
        ([[3, 17], [3, 5], [3, 17, 6]], [3, 17]),
        # Length 1 twice: only the most named one.
        ([[5], [3, 5, 17], [5]], [5]),
        # Ties go to what came first: length 2 before 1, 4 before 9.
        ([[9, 4], [4]], [4, 9]),
        # Most samples name nothing.
        ([[], [], [3, 17]], []),
        ([[17, 3]], [17, 3]),
    ],
)
def test_the_vote(task, candidates, expected):
    assert task.stage("retrieval").fuse(candidates, EXAMPLE) == expected


def test_the_answer_prompt_holds_only_the_selected_references(task):
    prompt = task.stage("answer").prompt(EXAMPLE, {"retrieval": [17, 3]})
    facts = [line for line in prompt.user.splitlines() if line.startswith("Fact")]
    assert facts == ["Fact 3.", "Fact 17."], (
        "in the order of the data, so that votes in any order share samples"
    )
    assert prompt.user.endswith("Question: Who is it?")
    assert "(none)" in task.stage("answer").prompt(EXAMPLE, {"retrieval": []}).user


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n  Ann Lee.\nShe is", "Ann Lee"),
        ("The answer is: **Ann Lee**", "Ann Lee"),
        ("A: 'Ann Lee'", "Ann Lee"),
        ("Answer:\nAnn Lee", "Ann Lee"),
        ("Answer:\n\n**Ann Lee**", "Ann Lee"),
        ("**Answer:**\n\n  Answer: Ann Lee.\nShe is", "Ann Lee"),
        ("The answer is\nAnn Lee", "Ann Lee"),
        ("```\nAnn Lee\n```", "Ann Lee"),
        ("# Answer\nAnn Lee", "Ann Lee"),
        ("### Final answer:\n\n> Ann Lee.", "Ann Lee"),
        ("## **Answer**\n\nAnn Lee", "Ann Lee"),
        ("# The answer is Ann Lee", "Ann Lee"),
        ("**Answer**\nAnn Lee", "Ann Lee"),
        ("# Answer", "Answer"),
        ("Answer key", "Answer key"),
        ("C#", "C#"),
        ("#1", "#1"),
        ("Answer:", "Answer:"),
        ("", ""),
    ],
)
def test_answers_are_stripped(task, text, expected):
    assert task.stage("answer").parse(text, EXAMPLE) == expected


def test_answers_are_fused_by_one_more_call_at_0_3(task):
    stage = task.stage("answer")
    fusion = stage.fusion(["Ann", "", "Lee", "Ann"], EXAMPLE, {"retrieval": [3]})
    assert fusion.temperature == 0.3
    assert fusion.prompt.user.splitlines()[-3:] == ["- Ann", "- Lee", "- Ann"]
    assert "Who is it?" in fusion.prompt.user
    assert stage.fusion(["Ann"], EXAMPLE, {"retrieval": [3]}) is None
    assert stage.fusion(["", ""], EXAMPLE, {"retrieval": [3]}) is None


def test_temperatures_and_metrics_are_the_papers(task):
    assert [stage.temperature for stage in task.stages] == [0.9, 0.7]
    assert task.main_metric == "answer.em"
    # One of three right, one of two found.
    metrics = task.stage("retrieval").metrics([3, 4, 5], EXAMPLE)
    assert metrics == {"precision": 1 / 3, "recall": 1 / 2, "f1": pytest.approx(0.4)}
    assert task.stage("answer").metrics("ann lee!", EXAMPLE)["em"] == 1


def test_knowledge_graph_prompts_speak_of_triples():
    text, stop = render(KnowledgeGraphQA().stage("retrieval").prompt(EXAMPLE, {}), "few_shot_completion")  # fmt: skip
    assert text.count("Triples:") == 3
    assert "References:" not in text
    assert text.endswith("Needed triples:")
    assert stop == ("\n",)


def test_options_of_retrieval_qa():
    task = tasks.create("retrieval_qa")
    plain = task.load(TaskConfig("", examples=3))
    trimmed = task.load(TaskConfig("", examples=3, options={"max_candidates": 4, "shuffle": True}))
    assert [e.id for e in plain] == [e.id for e in trimmed]
    assert [len(e.data["candidates"]) for e in trimmed] == [4, 4, 4]
    with pytest.raises(UserError, match="shuffle: 1 is not valid; valid: true or false"):
        task.load(TaskConfig("", options={"shuffle": 1}))
    with pytest.raises(UserError, match="search_examples: -1 is not valid"):
        task.load(TaskConfig("", options={"search_examples": -1}))


@pytest.mark.parametrize(
    ("output", "gold", "expected", "without_rule"),
    [
        ("yes", "yes", 1, 1),
        ("Yes.", "yes", 1, 1),
        ("yes, it is", "yes", 0, 0.5),
        ("no", "No Doubt", 0, 2 / 3),
        ("noanswer", "noanswer given", 0, 2 / 3),
        ("Ann", "Ann Lee", 2 / 3, 2 / 3),
    ],
)
def test_f1_of_yes_and_no_is_that_of_the_published_evaluation(output, gold, expected, without_rule):
    """As in hotpot_evaluate_v1.py and 2wikimultihop_evaluate.py; other data sets lack the rule."""
    example = replace(RetrievalExample.of(EXAMPLE), answers=(gold,)).to_example()
    assert RetrievalQA().stage("answer").metrics(output, example)["f1"] == pytest.approx(expected)
    other = KnowledgeGraphQA().stage("answer").metrics(output, example)
    assert other["f1"] == pytest.approx(without_rule)
    several = replace(RetrievalExample.of(EXAMPLE), answers=("yes", gold)).to_example()
    assert RetrievalQA().stage("answer").metrics("yes", several)["f1"] == 1


def test_the_vote_on_answers_takes_their_forms_together():
    vote = RetrievalQA().stage("answer").fuse
    assert vote(["Rome", "Rome", "Paris", "paris", "PARIS!"], EXAMPLE) == "Paris"
    assert vote(["C", "C", "C++", "C++", "C++"], EXAMPLE) == "C++"
    assert vote(["", "", "Rome"], EXAMPLE) == "Rome"
    decomposed = unicodedata.normalize("NFD", "Orléans")
    assert vote([decomposed, "Rome", "Rome", "Orléans", "orléans"], EXAMPLE) == decomposed
    assert vote(["", ""], EXAMPLE) == ""
