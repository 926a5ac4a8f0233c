"""Plans out of what models write."""

from __future__ import annotations

import json

import pytest

from agenttts.tasks.taskbench.replies import parse_calls, parse_steps, parse_tools


@pytest.mark.parametrize(
    "text",
    [
        '{"task_steps": ["Do a", "Do b"]}',
        'Sure! Here [1] is the plan:\n```json\n{\n "task_steps": [\n  "Do a",\n  "Do b"\n ]\n}\n```\nDone {x}.',
        '["Do a", "Do b"]',
        '{"result": {"task_steps": [{"step": "Do a"}, {"description": "Do b"}]}}',
        "{'task_steps': ['Do a', 'Do b']}",
        '{"task_steps": ["Do a", "Do b"',
        '{"task_steps": ["Do a", "Do b",],} // all',
    ],
)
def test_steps(text):
    assert parse_steps(text) == ["Do a", "Do b"]


def test_steps_without_json_are_the_numbered_lines():
    text = "The plan\nStep 1: Do a\n  2. Do b\n- Do c\nThat is all."
    assert parse_steps(text) == ["Step 1: Do a", "2. Do b", "- Do c"]
    assert parse_steps("I cannot do that.") == []


@pytest.mark.parametrize(
    "line",
    ["**Step 1:** Do a", "### Step 1: Do a", "**Step 1**: Do a", "**1.** Do a", "__1__. Do a", "> 1. Do a", "- **Step 1:** Do a"],
)  # fmt: skip
def test_numbers_of_steps_may_have_mark_up(line):
    assert parse_steps(f"### The plan\n**Note** this.\n{line}\n") == [line]


@pytest.mark.parametrize(
    "text",
    [
        '{"task_nodes": [{"task": "a"}, {"task": "b", "arguments": []}]}',
        '[{"name": "a"}, "b"]',
        'First {"x": 1}, then {"tools": ["a", "b"]}',
        '{"task_nodes": [{"task": "a"}, {"task": "b"',
    ],
)
def test_tools(text):
    assert parse_tools(text, []) == ["a", "b"]


def test_tools_without_json_are_the_known_ones_named():
    known = ["book_car", "Image Search", "ping"]
    assert parse_tools("Use Image Search and then book_car.", known) == ["Image Search", "book_car"]
    assert parse_tools("Use a car, while shopping.", known) == []


NAMED = [{"task": "book", "arguments": [{"name": "day", "value": "5"}, {"name": "x", "value": "y z"}]}]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        [{"name": "day", "value": 5}, {"name": "x", "value": "y z "}],
        {"day": 5, "x": ["y", "z"]},
        [{"day": "5"}, {"x": "y z"}],
    ],
)
def test_named_arguments(arguments):
    for key in ("arguments", "parameters"):
        call = {"task": "book", key: arguments}
        assert parse_calls(json.dumps({"task_nodes": [call]}), False) == NAMED
        assert parse_calls(json.dumps([call]), False) == NAMED
        assert parse_calls(f"It is {json.dumps(call)}.", False) == NAMED


@pytest.mark.parametrize(
    "arguments",
    [["a.png", "<node-0>"], [{"name": "image", "value": "a.png"}, {"value": "<node-0>"}], {"i": "a.png", "j": "<node-0>"}],
)  # fmt: skip
def test_resources(arguments):
    text = json.dumps({"task_nodes": [{"task": "t", "arguments": arguments}]})
    assert parse_calls(text, True) == [{"task": "t", "arguments": ["a.png", "<node-0>"]}]


@pytest.mark.parametrize("key", ["task_nodes", "tool_nodes", "tools"])
def test_calls_may_be_inside_a_result(key):
    calls = [{"task": "a", "arguments": [{"name": "n", "value": "v"}]}]
    for plan in (
        {"result": {key: calls}},
        {"thought": "x", "result": {"task_steps": [], key: calls}},
    ):
        text = json.dumps(plan)
        assert parse_calls(text, False) == calls
        assert parse_tools(text, []) == ["a"]


def test_a_call_or_plan_with_a_result_of_another_kind_is_read_without_it():
    call = {"task": "a", "arguments": [{"name": "n", "value": "v"}]}
    assert parse_calls(json.dumps(call | {"result": {"ok": True}}), False) == [call]
    assert parse_calls(json.dumps({"task_nodes": [call], "result": {}}), False) == [call]


def test_a_plan_cut_off_at_the_token_limit_keeps_its_whole_calls():
    text = '{"task_nodes": [{"task": "a", "arguments": [{"name": "n", "value": "v"}]}, {"task": "b", "argu'
    first, *_ = parse_calls(text, False)
    assert first == {"task": "a", "arguments": [{"name": "n", "value": "v"}]}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[[[[" * 5000, '{"a":' * 3000, "9" * 6000, '["\\ud800"]', "[NaN, Infinity]", "{}" * 3000, "'" * 3000, "[{'" * 1000],
)  # fmt: skip
def test_noise_is_read_in_time_and_gives_what_a_table_can_hold(text):
    for found in (parse_steps(text), parse_tools(text, ["a"]), parse_calls(text, True)):
        json.dumps(found, ensure_ascii=False).encode("utf-8")


def _call(name, **arguments):
    return {"task": name, "arguments": [{"name": k, "value": v} for k, v in arguments.items()]}


WEATHER, MAIL = _call("weather", city="X"), _call("mail", to="Y")
W, M = json.dumps(WEATHER), json.dumps(MAIL)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f'{{"task_nodes": [{W},],}}', [WEATHER]),
        (f'{{"task_nodes": [{W}, // [first]\n {M}]}}', [WEATHER, MAIL]),
        (f'{{"task_nodes": [{W}, {M}', [WEATHER, MAIL]),
        (f'{{"task_nodes": [{W}, {M}, ', [WEATHER, MAIL]),
        (f'{{"task_nodes": [{W}]', [WEATHER]),
        (f'[{W}, {M}', [WEATHER, MAIL]),
        (f'```json\n{{"task_steps": ["Do [x"], "task_nodes": [{W}, {M}],}}\n```', [WEATHER, MAIL]),
        # A value in the prose, and marks of prose that are no JSON.
        (f'For {{"name": "city"}} I use: {{"task_nodes": [{W}]}}', [WEATHER]),
        (f'For {{"name": "city"}} I use: {{"task_nodes": [{W},]}}', [WEATHER]),
        (f'On a 5" screen :[ (see [1]): {{"task_nodes": [{W}]}}', [WEATHER]),
        # One call a line, or after a number.
        (f"{W}\n{M}", [WEATHER, MAIL]),
        (f"{W},\n{M},\n{W}", [WEATHER, MAIL, WEATHER]),
        (f"1. {W}\n2. {M}\n", [WEATHER, MAIL]),
        (f"{W}\n{M[:-3]}", [WEATHER, MAIL]),
    ],
)  # fmt: skip
def test_a_damaged_plan_is_repaired_before_a_part_of_it_is_taken_for_the_plan(text, calls):
    assert parse_calls(text, False) == calls
    assert parse_tools(text, ["weather", "mail"]) == [call["task"] for call in calls]


def _blocks(*calls):
    return "".join(f"Step {i}:\n```json\n{call}\n```\n" for i, call in enumerate(calls, 1))


QWEN = [json.dumps({"name": c["task"], "arguments": {a["name"]: a["value"] for a in c["arguments"]}}) for c in (WEATHER, MAIL)]  # fmt: skip
OPENAI = json.dumps([{"id": "call_1", "type": "function", "function": {"name": c["task"], "arguments": json.dumps(c["arguments"])}} for c in (WEATHER, MAIL)])  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        _blocks(W, M),
        f"I plan [2] calls. {_blocks(W, M)}Together they do {{it}}.",
        _blocks(W, M[:-3]).removesuffix("\n```\n"),  # cut off
        "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in QWEN),
        f'For {{"name": "city"}} I take {QWEN[0]}, and then {QWEN[1]}.',
        f'{{"tool_call": {W}}} and {{"tool_call": {M}}}',
        f'{{"tool_calls": [{W}, {M}]}}',
        f'{{"tool_calls": {OPENAI}}}',
        f'{{"plan": [{W}, {M}]}}',
        f'{{"thought": "two", "calls": [{QWEN[0]}, {QWEN[1]}]}}',
        f'{{"plan": {{"task_nodes": [{W}, {M}]}}}}',
        f'{{"request": {{"id": 1}}, "output": {{"result": {{"tools": [{W}, {M}]}}}}}}',
    ],
)
def test_calls_in_blocks_of_their_own_or_under_other_keys_are_one_plan(text):
    assert parse_calls(text, False) == [WEATHER, MAIL]
    assert parse_tools(text, ["weather", "mail"]) == ["weather", "mail"]


@pytest.mark.parametrize("key", ["plan", "output", "response"])
def test_steps_may_be_under_an_outer_key(key):
    assert parse_steps(json.dumps({key: {"task_steps": ["Do a", "Do b"]}})) == ["Do a", "Do b"]


def test_the_last_plan_counts():
    draft = f'{{"task_steps": ["Do x"], "task_nodes": [{M}]}}'
    plan = f'{{"task_steps": ["Do a"], "task_nodes": [{W}]}}'
    text = f"```json\n{draft}\n```\nOn reflection, {M} is wrong:\n```json\n{plan}\n```\nIt has {M}."
    assert parse_steps(text) == ["Do a"]
    assert parse_calls(text, False) == [WEATHER]
    assert parse_tools(text, []) == ["weather"]


def test_arguments_with_a_plans_keys_are_no_plan():
    call = {"task": "assign", "arguments": {"tasks": [{"name": "a", "input": "b"}], "nodes": ["c"]}}
    [found] = parse_calls(json.dumps(call), False)
    assert found["task"] == "assign"
    assert [argument["name"] for argument in found["arguments"]] == ["tasks", "nodes"]


@pytest.mark.parametrize("noise", ["{ ", "[", '{"a" ', '{"task": [', "{ // \n", "{ ] } "])
def test_a_plan_before_brackets_that_repeat_without_end_is_read(noise):
    text = f'{{"task_nodes": [{W}, {M}, {noise * 5000}'
    assert parse_calls(text, False)[:2] == [WEATHER, MAIL]


def test_a_long_damaged_plan_with_an_unmatched_bracket_in_each_call_is_read():
    call = {"task": "mail", "arguments": [{"name": "text", "value": "in [0, 1)"}]}
    text = json.dumps({"task_nodes": [call] * 25}).replace("}]}]}", "}]},]}")
    assert parse_calls(text, False) == [call] * 25


def test_only_so_much_of_a_reply_is_repaired():
    """The time of the repair grows by the square of the quotes in a list."""
    repeated = 'x"y ' * 4000
    steps = parse_steps(f'{{"task_steps": ["Do a", "{repeated}')
    assert steps[0] == "Do a"
    assert sum(step.count("x") for step in steps) < 2000


def test_a_plan_cut_off_inside_an_argument_is_no_plan_of_its_arguments():
    text = (
        '{"task_nodes": [{"task": "book", "arguments": [{"name": "from", "value": "Rome"}, '
        '{"name": "to", "value": "Par'
    )
    [call] = parse_calls(text, False)
    assert (call["task"], call["arguments"][0]) == ("book", {"name": "from", "value": "Rome"})
    assert parse_tools(text, []) == ["book"]
    assert parse_tools('{"task_nodes": [{"task": "E", "arguments": ["a.jpg", "<node-0>"]}, {"task": "B", "arguments": ["b', []) == ["E", "B"]  # fmt: skip
