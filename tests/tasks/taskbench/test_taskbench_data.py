"""TaskBench's files in both kinds, as published, as the hub stores them, and malformed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts import tasks
from agenttts.errors import Unavailable, UserError, counted
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.loading.report import LoadReport
from agenttts.tasks.taskbench.arguments import argument_overlap
from agenttts.tasks.taskbench.data import ToolCall, load_requests, read_tools
from agenttts.tasks.taskbench.replies import parse_calls

NAMED_TOOLS = {
    "nodes": [
        {
            "id": "book_car",
            "desc": "Book a car",
            "parameters": [
                {"name": "date", "type": "date", "desc": "When"},
                {"name": "location", "type": "string", "desc": "Where"},
            ],
        },
        {"id": "ping", "desc": "Ping", "parameters": []},
    ]
}
RESOURCE_TOOLS = {
    "nodes": [
        {"id": "Image Search", "desc": "Searches", "input-type": ["text"], "output-type": ["Image"]},
        {"id": "Image-to-Text", "desc": "Reads", "input-type": ["image"], "output-type": []},
    ]
}  # fmt: skip
NAMED = {
    "id": "7",
    "type": "single",
    "n_tools": 1,
    "instruction": "A car for Monday in Tarn, please.",
    "task_steps": ["Step 1: Book a car"],
    "task_nodes": [
        {
            "task": "book_car",
            "arguments": [{"name": "date", "value": 5}, {"name": "location", "value": " Tarn "}],
        }
    ],
    "task_links": [],
}
RESOURCE = NAMED | {
    "task_nodes": [
        {"task": "Image Search", "arguments": ["a dog"]},
        {"task": "Image-to-Text", "arguments": [{"name": "image", "value": "<node-0>"}]},
    ]
}


def write(tmp_path, records, tools, name="data.json"):
    (tmp_path / "tool_desc.json").write_text(json.dumps(tools))
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


def test_daily_life_apis_take_named_arguments(tmp_path):
    [found] = load_requests(write(tmp_path, [NAMED], NAMED_TOOLS))
    assert (found.id, found.resources) == ("7", False)
    assert found.calls == (ToolCall("book_car", (("date", "5"), ("location", "Tarn"))),)
    assert found.tools[0].parameters == {"date": "When", "location": "Where"}
    assert found.steps == ("Step 1: Book a car",)


def test_a_parameter_without_a_description_has_an_empty_one(tmp_path):
    parameters = [{"name": "a", "desc": None}, {"name": "b"}, {"name": "c", "desc": ""}]
    path = tmp_path / "tool_desc.json"
    path.write_text(json.dumps({"nodes": [{"id": "x", "desc": "y", "parameters": parameters}]}))
    [tool] = read_tools(path)
    assert tool.parameters == {"a": "", "b": "", "c": ""}


def test_resource_tools_take_values_and_what_other_tools_put_out(tmp_path):
    [found] = load_requests(write(tmp_path, [RESOURCE], RESOURCE_TOOLS, "data.jsonl"))
    assert found.resources
    assert found.calls == (
        ToolCall("Image Search", (("", "a dog"),)),
        ToolCall("Image-to-Text", (("", "<node-0>"),)),
    )
    assert (found.tools[0].inputs, found.tools[0].outputs) == (("text",), ("image",))


def test_other_names_of_the_same_fields_and_json_as_text(tmp_path):
    hub = {
        "id": "7",
        "user_request": NAMED["instruction"],
        "tool_steps": json.dumps(NAMED["task_steps"]),
        "tool_nodes": json.dumps(NAMED["task_nodes"]),
    }
    path = write(tmp_path, [NAMED], NAMED_TOOLS)
    expected = load_requests(path)
    assert load_requests(write(tmp_path, [hub], NAMED_TOOLS)) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('[{"name": "date", "value": 5}]', (("date", "5"),)),
        ('{"date": 5}', (("date", "5"),)),
        ({"date": 5, "location": "Tarn"}, (("date", "5"), ("location", "Tarn"))),
        ([{"date": 5}], (("date", "5"),)),
        (["Tarn"], (("", "Tarn"),)),
        (None, ()),
        ([], ()),
    ],
)
def test_gold_arguments_in_every_form_there_is(tmp_path, arguments, expected):
    node = {"task": "book_car", "arguments": arguments}
    for nodes in ([node], [json.dumps(node)]):
        path = write(tmp_path, [NAMED | {"task_nodes": nodes}], NAMED_TOOLS)
        [found] = load_requests(path)
        assert found.calls == (ToolCall("book_car", expected),)
        plan = parse_calls(json.dumps({"task_nodes": [node]}), False)
        assert argument_overlap(plan, found).f1 == 1, "the gold plan itself, as a model writes it"


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.png", "<node-0>"],
        [{"type": "image", "value": "a.png"}, {"image": "<node-0>"}],
        '["a.png", "<node-0>"]',
    ],
)
def test_gold_resources_in_every_form_there_is(tmp_path, arguments):
    node = {"task": "Image-to-Text", "arguments": arguments}
    [found] = load_requests(write(tmp_path, [RESOURCE | {"task_nodes": [node]}], RESOURCE_TOOLS))
    assert [value for _, value in found.calls[0].arguments] == ["a.png", "<node-0>"]
    plan = parse_calls(json.dumps([node]), True)
    assert argument_overlap(plan, found).f1 == 1


def test_tools_and_json_as_text_may_hold_half_a_character(tmp_path):
    half = {
        "task_steps": '["\\ud83d"]',
        "task_nodes": ['{"task": "ping", "arguments": ["\\udc00"]}'],
    }
    tools = {"nodes": [{"id": "ping", "desc": "\ud83d", "parameters": []}]}
    [found] = load_requests(write(tmp_path, [NAMED | half], tools))
    assert found.tools[0].description == "?"
    assert (found.steps, found.calls) == (("?",), (ToolCall("ping", (("", "?"),)),))


def test_a_plan_may_have_no_steps(tmp_path):
    for steps in ([], "[]", [None, " "]):
        path = write(tmp_path, [NAMED | {"task_steps": steps}], NAMED_TOOLS)
        [example] = tasks.create("taskbench").load(TaskConfig(path))
        assert example.data["steps"] == []
        stage = tasks.create("taskbench").stage("decomposition")
        assert stage.metrics(["Step 1: x"], example) == stage.metrics([], example) == {"rouge_l": 0}


def test_the_tools_are_found_beside_the_data_or_where_the_option_says(tmp_path):
    path = write(tmp_path, [NAMED], NAMED_TOOLS)
    moved = tmp_path / "elsewhere.json"
    (tmp_path / "tool_desc.json").rename(moved)
    task = tasks.create("taskbench")
    with pytest.raises(Unavailable, match=r"no file .*tool_desc.json.*the option tools"):
        task.load(TaskConfig(path))
    with pytest.raises(Unavailable, match="data file .*none.jsonl does not exist"):
        task.load(TaskConfig(str(tmp_path / "none.jsonl")))
    [found] = task.load(TaskConfig(path, options={"tools": str(moved)}))
    assert [tool["id"] for tool in found.data["tools"]] == ["book_car", "ping"]
    with pytest.raises(UserError, match="no option 'tool'.*did you mean 'tools'"):
        task.load(TaskConfig(path, options={"tool": str(moved)}))
    with pytest.raises(UserError, match=r"^options.tools: missing; hub data set"):
        task.load(TaskConfig("hf:someone/plans"))


@pytest.mark.parametrize("other", [NAMED_TOOLS["nodes"][1:], RESOURCE_TOOLS["nodes"]])
def test_the_tools_of_other_data_are_refused(tmp_path, other):
    path = write(tmp_path, [NAMED, NAMED | {"id": "8"}], {"nodes": other})
    with pytest.raises(UserError) as caught:
        load_requests(path)
    assert caught.value.at == ("options", "tools")
    assert f"{tmp_path / 'tool_desc.json'}: has none of the tools in the gold plans" in str(caught.value)  # fmt: skip
    assert f"such as 'book_car', but {counted(len(other), 'other')}, such as '{other[0]['id']}'" in str(caught.value)  # fmt: skip


def test_gold_tools_that_the_file_does_not_have_are_noted(tmp_path):
    ping = {"task": "ping", "arguments": []}
    strange = NAMED | {"id": "8", "task_nodes": [ping, ping | {"task": "zzz"}]}
    spaced = NAMED | {"id": "9", "task_nodes": [ping | {"task": "book  car"}]}
    report = LoadReport()
    assert len(load_requests(write(tmp_path, [NAMED, strange, spaced], NAMED_TOOLS), report=report)) == 3  # fmt: skip
    [source] = report.sources.values()
    [note] = source.notes
    assert note.startswith("1 of 3 gold plans have tools that ")
    assert note.endswith("tool_desc.json does not have, such as 'zzz'")
    report = LoadReport()
    load_requests(write(tmp_path, [NAMED, spaced], NAMED_TOOLS), report=report)
    assert [source.notes for source in report.sources.values()] == [()]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"task_steps": "do it"}, "field 'task_steps' must be a list, or one as JSON text"),
        ({"task_steps": [3]}, "field 'task_steps' must be a list of texts"),
        ({"task_steps": None}, "field 'task_steps' must be a list of texts"),
        ({"task_nodes": []}, "field 'task_nodes' must be a list of one or more {task, arguments}"),
        ({"task_nodes": [{"tool": "x"}]}, "field 'task_nodes' must hold only objects with a 'task'"),
        ({"task_nodes": [{"task": "x", "arguments": 3}]}, "must have a list, an object or null as 'arguments' of 'x'"),
        ({"task_nodes": [{"task": "x", "arguments": [{}]}]}, "must have only {name, value} objects and values as 'arguments' of 'x'"),
        ({"task_nodes": [{"task": "x", "arguments": [{"name": " ", "value": 1}]}]}, "a text that is not empty for each 'name'"),
        ({"task_nodes": [{"task": "x", "arguments": '[{"name": '}]}, "must have whole JSON as 'arguments' of 'x'"),
        ({"task_nodes": ["{"]}, "field 'task_nodes' must hold only objects with a 'task'"),
        ({"instruction": ""}, "field 'instruction' must be a text"),
    ],
)  # fmt: skip
def test_a_malformed_record_names_its_line(tmp_path, change, expected):
    path = write(tmp_path, [NAMED, NAMED | {"id": "8"} | change], NAMED_TOOLS)
    with pytest.raises(UserError) as caught:
        load_requests(path)
    assert "data.json:2: " in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([], "must be an object with a list 'nodes'"),
        ({"nodes": [NAMED_TOOLS["nodes"][0], {"desc": "no id"}]}, "node 2: field 'id' is missing"),
        ({"nodes": [{"id": "x", "desc": "y"}]}, "node 1: 'x' has neither 'parameters'"),
        ({"nodes": [{"id": "x", "desc": "y", "parameters": ["z"]}]}, "field 'parameters' must be a list of objects"),
        ({"nodes": NAMED_TOOLS["nodes"] + RESOURCE_TOOLS["nodes"]}, "valid: one of them in all nodes"),
        ({"nodes": NAMED_TOOLS["nodes"] * 2}, "two nodes have the same id"),
    ],
)  # fmt: skip
def test_malformed_tools(tmp_path, tools, expected):
    (tmp_path / "tool_desc.json").write_text(json.dumps(tools))
    with pytest.raises(UserError) as caught:
        read_tools(tmp_path / "tool_desc.json")
    assert "tool_desc.json" in str(caught.value)
    assert expected in str(caught.value)


def test_examples_survive_the_file_they_are_frozen_in(tmp_path):
    for records, tools in (([NAMED], NAMED_TOOLS), ([RESOURCE], RESOURCE_TOOLS)):
        [found] = load_requests(write(tmp_path, records, tools))
        example = found.to_example()
        assert type(found).of(type(example)(example.id, json.loads(json.dumps(example.data)))) == found  # fmt: skip


def test_excerpt_of_daily_life_apis(excerpt):
    path = excerpt("taskbench_dailylifeapis.excerpt.jsonl")
    tools = excerpt("taskbench_dailylifeapis_tool_desc.excerpt.json")
    records = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    found = {example.id: example for example in load_requests(path, tools=tools)}
    assert len(found) == len(records) == 4
    assert len(next(iter(found.values())).tools) == 12
    for record in records:
        example = found[record["id"]]
        assert not example.resources
        assert list(example.steps) == record["task_steps"]
        assert [call.to_json() for call in example.calls] == [
            {"task": n["task"], "arguments": n["arguments"]} for n in record["task_nodes"]
        ]


def test_excerpt_of_multimedia_tools(excerpt):
    tools = read_tools(Path(excerpt("taskbench_multimedia_tool_desc.excerpt.json")))
    assert len(tools) == 12
    assert tools[0].inputs == ("url",)
    assert all(tool.inputs and tool.outputs and not tool.parameters for tool in tools)
