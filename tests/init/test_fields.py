"""Which fields of a data file are taken for what, and how their answers are treated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.init.answers import answer_form
from agenttts.init.fields import Data, Fields, read
from agenttts.init.task import stages_of, task_text
from agenttts.spec import load_strict
from agenttts.tasks.declarative.document import Document, compiled


def prompts(data: Data) -> list[str]:
    """The prompts of the drafted task's stages for the first record, without outputs."""
    form = answer_form(data)
    stages = stages_of(data, form, ())
    document = load_strict(Document, task_text("x", data, form, stages), "the task")
    blank = {stage.name: "" for stage in stages}
    return [
        compiled(s.prompt).render({**data.values[0], **blank}) for s in document.stages.values()
    ]


def data_file(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"question": "q", "answer": "a"}, Fields("question", "answer")),
        ({"id": "1", "Problem": "q", "solution": "a"}, Fields("Problem", "solution")),
        ({"instruction": "q", "output": "a", "input": "x"}, Fields("instruction", "output")),
        ({"question": "q", "answers": ["a"], "contexts": ["c"]}, Fields("question", "answers", "contexts")),
        ({"question": "q", "choices": ["a", "b"], "answerKey": "A"}, Fields("question", "answerKey", None, "choices")),
        ({"text": "a complaint", "label": "defect"}, Fields("text", "label")),
        # No known names: the longer text is the question, and what is left the answer.
        ({"id": "1", "frage": "eine lange Frage", "antwort": "a"}, Fields("frage", "antwort")),
    ],
)  # fmt: skip
def test_fields_by_name(tmp_path, record, fields):
    assert read(data_file(tmp_path, record), {}).fields == fields


def test_names_that_the_user_gives_come_first(tmp_path):
    path = data_file(tmp_path, {"question": "q", "title": "t", "answer": "a", "gold": "b"})
    found = read(path, {"question": "title", "answer": "gold"})
    assert found.fields == Fields("title", "gold")


@pytest.mark.parametrize(
    ("record", "given", "message"),
    [
        ({"question": "q", "a": "x", "b": "y"}, {}, "the field of the answer (the right answer) is not clear; name it with --answer FIELD"),
        ({"question": "q", "answer": "a"}, {"answer": "anwser"}, "--answer: no field 'anwser'; valid: question, answer; did you mean 'answer'?"),
        ({"question": "q", "answer": "a"}, {"question": "answer", "answer": "answer"}, "--question and --answer name the same field 'answer'; each needs a field of its own (the fields are: question, answer)"),
        ({"question": "q", "answer": "a"}, {"context": "question", "question": "question"}, "--context and --question name the same field 'question'"),
        ({"my question": "q", "answer": "a"}, {}, "has a name that prompt templates cannot use"),
        ({"question": "q", "answers": {"text": ["a"], "answer_start": [1]}}, {}, "holds an object (text, answer_start)"),
        ({"question": "", "answer": "a"}, {}, "no record has all of the fields question, answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_an_error_with_its_option(tmp_path, record, given, message):
    with pytest.raises(UserError) as caught:
        read(data_file(tmp_path, record), given)
    assert message in str(caught.value)


def test_records_without_an_answer_and_broken_lines_are_counted(tmp_path):
    path = data_file(tmp_path, {"question": "q", "answer": "a"}, {"question": "q", "answer": None})
    path.write_text(path.read_text() + '\n{"question": \n')
    found = read(path, {})
    assert (found.total, found.bad, len(found.values)) == (3, 2, 1)


def test_a_file_of_broken_lines_is_an_error_of_its_first(tmp_path):
    (tmp_path / "data.jsonl").write_text("{\n{\n")
    with pytest.raises(UserError, match=r"data\.jsonl:1"):
        read(tmp_path / "data.jsonl", {})


LONG = "a text of so many words that it is not short at all"


@pytest.mark.parametrize(
    ("answers", "form"),
    [
        ([1, 2.5, 3], ("number", "number", "vote", ())),
        (["1,000", "$3.5", "40%"], ("number", "number", "vote", ())),
        (["2+2 makes four #### 4", "it is #### 5", "#### -6"], ("number", "number", "vote", ())),
        ([True, False, True], ("choice", "exact_match", "vote", ("true", "false"))),
        (["yes", "no"] * 5, ("choice", "exact_match", "vote", ("no", "yes"))),
        (["Corvane", "Edda Polk", "coins"], ("first_line", "exact_match", "vote", ())),
        ([LONG, LONG + " two", LONG + " three"], ("text", "rouge_l", "model", ())),
        ([["a", "b"], ["c"], ["d"]], ("list", "set_f1", "union", ())),
        ([["a"], ["b"], ["c"]], ("first_line", "exact_match", "vote", ())),
    ],
)
def test_answers_decide_parser_metric_and_fusion(tmp_path, answers, form):
    records = [{"question": f"q{n}", "label": answer} for n, answer in enumerate(answers)]
    found = answer_form(read(data_file(tmp_path, *records), {}))
    assert (found.parse, found.metric, found.fuse, found.choices) == form


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("blue", ("choice", "options", False, False)),
        ("B", ("choice", ("A", "B"), True, False)),
        (1, ("number", (), False, True)),
        # No option: the options are context for a free answer.
        ("green", ("first_line", (), False, False)),
    ],
)
def test_answers_that_are_options_of_their_record(tmp_path, answer, form):
    record = {"question": "q", "options": ["red", "blue"], "answer": answer}
    found = answer_form(read(data_file(tmp_path, record), {}))
    assert (found.parse, found.choices, found.lettered, found.numbered) == form


@pytest.mark.parametrize("count", [2, 10, 11, 26, 27])
@pytest.mark.parametrize("answer", ["B", "AB", "", 1])
def test_any_number_of_options_is_shown(tmp_path, count, answer):
    """Whatever the answer is, the prompt is rendered, and letters are given to all or to none."""
    record = {"question": "q", "options": [f"text {n}" for n in range(count)], "answer": answer}
    data = read(data_file(tmp_path, record, {**record, "answer": answer or "x"}), {})
    form = answer_form(data)
    assert form.lettered == (answer == "B" and count <= 26)
    assert form.numbered == (answer == 1)
    prompt = prompts(data)[-1]
    assert all(f" text {n}\n" in f"{prompt}\n" for n in range(count))


LISTS = {"text": ["red", "blue"], "label": ["A", "B"]}
OBJECTS = [{"label": "1", "text": "red"}, {"label": "2", "text": "blue"}]


@pytest.mark.parametrize(
    ("options", "answer", "form", "shown"),
    [
        (LISTS, "B", ("choice", ("A", "B")), ["A. red", "B. blue"]),
        (LISTS, "blue", ("first_line", ()), ["A. red", "B. blue"]),
        (OBJECTS, "2", ("choice", ("1", "2")), ["1. red", "2. blue"]),
        (json.dumps(LISTS), "A", ("choice", ("A", "B")), ["A. red", "B. blue"]),
        (["red", "blue"], "x", ("first_line", ()), ["- red", "- blue"]),
    ],
)
def test_every_form_of_options_is_shown(tmp_path, options, answer, form, shown):
    record = {"question": "q", "choices": options, "answerKey": answer}
    data = read(data_file(tmp_path, record), {})
    found = answer_form(data)
    assert (found.parse, found.choices) == form
    assert prompts(data)[-1].splitlines() == ["Question: q", "Options:", *shown]


@pytest.mark.parametrize(
    "options",
    [
        [3],
        ["red, blue"],
        [[1, 2]],
        [{"text": ["red"]}],
        [{"text": ["red"], "label": []}],
        [[{"text": "red"}]],
        [["red", "blue"], LISTS],
    ],
)
def test_options_that_cannot_be_shown_are_left_out_with_a_note(tmp_path, options):
    path = data_file(tmp_path, *({"question": "q", "choices": o, "answer": "A"} for o in options))
    data = read(path, {})
    assert data.fields.options is None
    assert "the field 'choices' holds no options that a prompt can show" in data.notes[0]
    assert prompts(data)[-1] == "Question: q"
    with pytest.raises(UserError, match="--options: the field 'choices' .* valid: a list of texts"):
        read(path, {"options": "choices"})


@pytest.mark.parametrize(
    "name", ["not", "true", "None", "self", "loop", "range", "candidates", "in", "block", "e", "Ä1"]
)
def test_names_that_templates_know_as_something_else_are_refused(tmp_path, name):
    """All others do as the names of a stage and of a field."""
    data = read(data_file(tmp_path, {"question": "q", "answer": "a"}), {})
    other = data_file(tmp_path, {name: "what is asked", "answer": "a"})
    if name in ("block", "e", "Ä1"):
        stages_of(data, answer_form(data), [name, "say"])
        assert "Question: what is asked" in prompts(read(other, {"question": name}))[-1]
        return
    with pytest.raises(UserError, match=f"--stages: '{name}' is not a valid name"):
        stages_of(data, answer_form(data), [name, "say"])
    with pytest.raises(UserError, match=f"the field '{name}' .* has a name that prompt templates"):
        read(other, {"question": name})


def test_a_stage_is_not_called_like_the_mark_of_the_baseline(tmp_path):
    data = read(data_file(tmp_path, {"question": "q", "answer": "a"}), {})
    with pytest.raises(UserError, match="--stages: 'baseline' is not a valid name of a stage"):
        stages_of(data, answer_form(data), ["baseline", "say"])


def test_a_list_of_right_answers_is_told_from_a_list_of_wanted_items(tmp_path):
    """``answers`` of published QA data are names of one answer."""
    record = {"question": "q", "answers": ["New York", "NYC"]}
    found = answer_form(read(data_file(tmp_path, record), {}))
    assert found.metric == "exact_match"
    assert "any one is right" in found.why
