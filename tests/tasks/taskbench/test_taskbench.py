"""Task automation: what each stage is shown, and how plans are merged."""

from __future__ import annotations

import pytest

from agenttts import tasks
from agenttts.tasks.base import TaskConfig


@pytest.fixture
def task():
    return tasks.create("taskbench")


@pytest.fixture
def example(task):
    return next(e for e in task.load(TaskConfig("builtin:errands")) if e.id == "errands-1")


OUTPUTS = {"decomposition": ["Step 1: Wake them"], "tool_selection": ["set_alarm"]}


def test_stages_and_temperatures(task):
    assert [stage.name for stage in task.stages] == [
        "decomposition",
        "tool_selection",
        "parameter_prediction",
    ]
    assert {stage.temperature for stage in task.stages} == {0.5}


def test_later_stages_see_the_earlier_parts_of_the_plan_only(task, example):
    steps, chosen, arguments = (stage.prompt(example, OUTPUTS).user for stage in task.stages)
    assert "Plan so far" not in steps
    assert chosen.endswith('Plan so far: {"task_steps": ["Step 1: Wake them"]}')
    assert arguments.endswith(
        'Plan so far: {"task_steps": ["Step 1: Wake them"], "task_nodes": [{"task": "set_alarm"}]}'
    )
    for text in (steps, chosen, arguments):
        assert example.data["instruction"] in text
        for call, values in example.data["calls"]:
            assert f'"{call}", "arguments"' not in text, values


def test_arguments_are_asked_for_with_the_chosen_tools_alone(task, example):
    stage = task.stage("parameter_prediction")
    listed = [line for line in stage.prompt(example, OUTPUTS).user.splitlines() if line[0] in "- "]
    assert listed == ["- set_alarm(time): Set an alarm", "  time: The time"]
    none = stage.prompt(example, OUTPUTS | {"tool_selection": []}).user
    assert none.count("\n- ") == len(example.data["tools"])


def test_resource_tools_are_shown_with_their_types(task):
    example = task.load(TaskConfig("builtin:studio"))[0]
    user = task.stage("decomposition").prompt(example, {}).user
    assert "- Speech Writer(audio -> text): Writes down what is said in a recording" in user
    system = task.stage("parameter_prediction").prompt(example, OUTPUTS).system
    assert "<node-j>" in system


def test_plans_are_merged_by_one_more_call_at_0_5(task, example):
    stage = task.stage("tool_selection")
    candidates = [["set_alarm"], [], ["play_song"], ["set_alarm"]]
    fusion = stage.fusion(candidates, example, OUTPUTS)
    assert fusion.temperature == 0.5
    assert fusion.prompt.user.splitlines()[-2:] == [
        '- 2 of 3: {"task_nodes": [{"task": "set_alarm"}]}',
        '- 1 of 3: {"task_nodes": [{"task": "play_song"}]}',
    ]
    assert example.data["instruction"] in fusion.prompt.user
    assert stage.fusion([["set_alarm"]], example, OUTPUTS) is None
    assert stage.fusion([[], []], example, OUTPUTS) is None


def test_without_a_model_the_most_frequent_plan_wins(task, example):
    stage = task.stage("tool_selection")
    assert stage.fuse([[], ["a"], [], ["b"], ["b"], []], example) == ["b"]
    assert stage.fuse([["a"], ["b"]], example) == ["a"]
    assert stage.fuse([[], []], example) == []
