"""Argument F1 against values counted by hand."""

from __future__ import annotations

import dataclasses

import pytest

from agenttts.tasks.metrics import Overlap
from agenttts.tasks.taskbench.arguments import argument_overlap, name_overlap
from agenttts.tasks.taskbench.data import TaskBenchExample, Tool, ToolCall
from agenttts.tasks.taskbench.task import TaskBench

NAMED = TaskBenchExample(
    "e",
    "Book it.",
    (Tool("book_car", "Books", {"date": "", "place": ""}), Tool("ping", "Pings", {})),
    False,
    ("Step 1: Book", "Step 2: Ping"),
    (ToolCall("book_car", (("date", "Monday"), ("place", "Tarn"))), ToolCall("ping", ())),
)
RESOURCES = TaskBenchExample(
    "r",
    "Read it.",
    (
        Tool("Image_Finder", "Finds", {}, ("text",), ("image",)),
        Tool("Reader", "Reads", {}, ("image",), ("text",)),
    ),
    True,
    ("Step 1: Find", "Step 2: Read"),
    (ToolCall("Image_Finder", (("", "a dog"),)), ToolCall("Reader", (("", "<node-0>"),))),
)


def call(tool, **arguments):
    return {"task": tool, "arguments": [{"name": n, "value": v} for n, v in arguments.items()]}


def test_named_arguments():
    # Gold: date Monday, place Tarn. Predicted: date right, place wrong, and one of another tool. 1
    # of 3, 1 of 2.
    calls = [call("book car", date="Monday", place="Corvane"), call("ping", date="Monday")]
    assert argument_overlap(calls, NAMED) == Overlap(1 / 3, 1 / 2, pytest.approx(0.4))
    # Names alone: book_car's date and place of 3, both of 2.
    assert name_overlap(calls, NAMED) == Overlap(2 / 3, 1.0, pytest.approx(0.8))
    # The right value under another tool is wrong.
    assert argument_overlap([call("ping", date="Monday", place="Tarn")], NAMED).f1 == 0
    assert argument_overlap([], NAMED).f1 == 0


def test_resources_are_compared_by_the_tool_that_gives_them():
    right = [
        {"task": "Image Finder", "arguments": ["a dog"]},
        {"task": "Reader", "arguments": ["<node-0>"]},
    ]
    swapped = [
        {"task": "Reader", "arguments": ["<node-1>"]},
        {"task": "Image Finder", "arguments": ["a dog"]},
    ]
    assert argument_overlap(right, RESOURCES).f1 == argument_overlap(swapped, RESOURCES).f1 == 1
    # A file of the right type: its name (image) fits, its value does not. 1 of 2 values, 2 of 2
    # names.
    literal = [right[0], {"task": "Reader", "arguments": ["dog.PNG"]}]
    assert argument_overlap(literal, RESOURCES).f1 == pytest.approx(0.5)
    assert name_overlap(literal, RESOURCES).f1 == 1
    # A reference to nothing matches nothing.
    broken = [right[0], {"task": "Reader", "arguments": ["<node-7>"]}]
    assert argument_overlap(broken, RESOURCES).f1 == pytest.approx(0.5)
    assert name_overlap(broken, RESOURCES).f1 == pytest.approx(0.5)


def test_a_reference_of_a_call_to_itself_is_skipped():
    """As in TaskBench's evaluate.py; it counted as an argument too many."""
    first = {"task": "Image Finder", "arguments": ["a dog"]}
    alone = [first, {"task": "Reader", "arguments": ["<node-1>"]}]
    assert argument_overlap(alone, RESOURCES) == Overlap(1.0, 0.5, pytest.approx(2 / 3))
    assert name_overlap(alone, RESOURCES) == Overlap(1.0, 0.5, pytest.approx(2 / 3))
    beside = [first, {"task": "Reader", "arguments": ["<node-0>", "<node-1>"]}]
    assert argument_overlap(beside, RESOURCES).f1 == name_overlap(beside, RESOURCES).f1 == 1
    odd = dataclasses.replace(
        RESOURCES,
        calls=(RESOURCES.calls[0], ToolCall("Reader", (("", "<node-0>"), ("", "<node-1>")))),
    )
    right = [first, {"task": "Reader", "arguments": ["<node-0>"]}]
    assert argument_overlap(right, odd).f1 == 1


def test_plans_without_arguments_are_compared_by_their_tools():
    gold = TaskBenchExample("e", "Ping.", NAMED.tools, False, ("Ping",), (ToolCall("ping", ()),))
    assert argument_overlap([call("ping")], gold).f1 == 1
    assert argument_overlap([call("book_car")], gold).f1 == 0
    assert argument_overlap([], gold).f1 == 0
    assert argument_overlap([call("ping", date="Monday")], gold).f1 == 0, "an argument too many"


def test_the_stages_metrics():
    task, example = TaskBench(), NAMED.to_example()
    assert task.main_metric == "parameter_prediction.f1"
    # "step 1 book step 2 ping" (6 words), predicted "step 1 book" (3): 3 of 3 and 3 of 6.
    steps = task.stage("decomposition").metrics(["Step 1: Book"], example)
    assert steps == {"rouge_l": pytest.approx(2 / 3)}
    tools = task.stage("tool_selection").metrics(["book car", "ping", "x"], example)
    assert tools == {"precision": 2 / 3, "recall": 1.0, "f1": pytest.approx(0.8)}
    arguments = task.stage("parameter_prediction").metrics(
        [call("book_car", date="Monday")], example
    )
    assert arguments == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "name_f1": pytest.approx(2 / 3)}  # fmt: skip
