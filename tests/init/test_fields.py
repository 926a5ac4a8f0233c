"""Which fields of a data file are taken for what, and how their answers are treated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.init.answers import answer_form
from agenttts.init.fields import Data, Fields, read
from agenttts.init.models import stand_ins
from agenttts.init.task import stages_of, task_text
from agenttts.spec import load_strict
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.declarative import parts
from agenttts.tasks.declarative.document import Document
from agenttts.tasks.declarative.task import DeclarativeTask
from agenttts.tasks.loading.report import LoadReport
from agenttts.tasks.options import SplitOptions


def prompts(data: Data) -> list[str]:
    """The prompts of the drafted task's stages for its first example, without outputs."""
    form = answer_form(data)
    stages = stages_of(data, form, ())
    document = load_strict(Document, task_text("x", data, form, stages), "the task")
    task = DeclarativeTask(document, "the task")
    report = LoadReport(data.total)
    example = task.load(TaskConfig(str(data.path), options=SplitOptions(), report=report))[0]
    blank = {stage.name: "" for stage in stages}
    return [stage.prompt(example, blank).user for stage in task.stages]


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
        ({"question": "q", "answers": {"spans": ["a"]}}, {}, "holds an object (spans)"),
        ({"question": "q", "answer": '{"value": "a", "aliases": []}'}, {}, "holds an object (value, aliases)"),
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


def test_questions_without_an_answer_in_squad_are_counted(tmp_path):
    answers = [{"text": ["a", "b"], "answer_start": [1, 5]}, {"text": [], "answer_start": []}]
    found = read(data_file(tmp_path, *({"question": "q", "answers": a} for a in answers)), {})
    assert (found.total, found.bad, found.answers) == (2, 1, (answers[0],))


def test_a_file_of_broken_lines_is_an_error_of_its_first(tmp_path):
    (tmp_path / "data.jsonl").write_text("{\n{\n")
    with pytest.raises(UserError, match=r"data\.jsonl:1"):
        read(tmp_path / "data.jsonl", {})


LONG = "a text of so many words that it is not short at all"


def named(name: str) -> dict[str, Any]:
    """An answer as in TriviaQA."""
    return {"value": name, "aliases": [f"{name} {n}" for n in range(20)], "type": "WikipediaEntity"}


def extracted(*texts: str) -> dict[str, Any]:
    """An answer as in SQuAD."""
    return {"text": list(texts), "answer_start": list(range(len(texts)))}


@pytest.mark.parametrize(
    ("answers", "form"),
    [
        ([1, 2.5, 3], ("number", "number", "vote", ())),
        (["1,000", "$3.5", "40%"], ("number", "number", "vote", ())),
        (["-1,234,567.5", "1234", "12"], ("number", "number", "vote", ())),
        # A metric reads one number of a text, and would not see the others.
        (["3,5,7", "1,2,7", "12,13"], ("first_line", "exact_match", "vote", ())),
        (["3,5", "0,25", "1,75"], ("first_line", "exact_match", "vote", ())),
        (["1,0000", "1234,567", ",5"], ("first_line", "exact_match", "vote", ())),
        (["2+2 makes four #### 4", "it is #### 5", "#### -6"], ("number", "number", "vote", ())),
        ([True, False, True], ("choice", "exact_match", "vote", ("true", "false"))),
        (["yes", "no"] * 5, ("choice", "exact_match", "vote", ("no", "yes"))),
        (["Corvane", "Edda Polk", "coins"], ("first_line", "exact_match", "vote", ())),
        ([LONG, LONG + " two", LONG + " three"], ("text", "rouge_l", "model", ())),
        (["东京和大阪是日本最大的两个城市，人口都很多。" * 2, "北京是中国的首都，也是一个很大的城市。", "上海比北京更大，而且离海更近一些。"], ("text", "rouge_l", "model", ())),
        (["东京和大阪", "北京 Tower", "กรุงเทพ"], ("first_line", "exact_match", "vote", ())),
        ([["a", "b"], ["c"], ["d"]], ("list", "set_f1", "union", ())),
        ([["Bonn, Germany", "b"], ["c"]], ("lines", "set_f1", "union", ())),
        ([["a"], ["b"], ["c"]], ("first_line", "exact_match", "vote", ())),
        ([named("Ann"), named("Bob"), named("Cy")], ("first_line", "exact_match", "vote", ())),
        ([named("yes"), named("no")] * 5, ("choice", "exact_match", "vote", ("no", "yes"))),
        ([named(LONG), named(LONG)], ("text", "rouge_l", "model", ())),
        ([[named("Ann"), named("Bob")], [named("Cy")]], ("first_line", "exact_match", "vote", ())),
        ([extracted("Ann"), extracted("Bob"), extracted("Cy")], ("first_line", "exact_match", "vote", ())),
        ([[{"text": "Ann", "answer_start": 3}], [{"text": "Bob", "answer_start": 1}]], ("first_line", "exact_match", "vote", ())),
        ([[{"call": "f"}], [{"call": "g"}]], ("list", "set_f1", "union", ())),
    ],
)  # fmt: skip
def test_answers_decide_parser_metric_and_fusion(tmp_path, answers, form):
    records = [{"question": f"q{n}", "label": answer} for n, answer in enumerate(answers)]
    found = answer_form(read(data_file(tmp_path, *records), {}))
    assert (found.parse, found.metric, found.fuse, found.choices) == form
    assert found.decode_tokens <= 256


@pytest.mark.parametrize("letter", ["东", "の", "서", "ก"])
def test_answers_in_scripts_of_a_token_a_character_get_as_many_tokens(tmp_path, letter):
    """They got a quarter, so that every reply was cut."""
    for length in (14, 200):
        records = [{"question": f"q{n}", "label": letter * length} for n in range(3)]
        form = answer_form(read(data_file(tmp_path, *records), {}))
        assert length < form.decode_tokens <= 2 * length + 48
    records = [{"question": f"q{n}", "label": "a" * 40} for n in range(3)]
    assert answer_form(read(data_file(tmp_path, *records), {})).decode_tokens == 32


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("blue", ("choice", "options", False, None)),
        (" blue", ("choice", "options", False, None)),
        ("B", ("choice", ("A", "B"), True, None)),
        ("b ", ("choice", ("A", "B"), True, None)),
        (1, ("number", (), False, 0)),
        ("1", ("number", (), False, 0)),
        (1.0, ("number", (), False, 0)),
        ("2", ("number", (), False, 1)),
        # No option: the options are context for a free answer.
        ("green", ("first_line", (), False, None)),
    ],
)
def test_answers_that_are_options_of_their_record(tmp_path, answer, form):
    record = {"question": "q", "options": ["red", "blue"], "answer": answer}
    found = answer_form(read(data_file(tmp_path, record), {}))
    assert (found.parse, found.choices, found.lettered, found.numbered_from) == form
    assert "the prompt does not say" not in found.why


TEXTS = ["red", "blue", "green", "grey"]
LABELLED = {"text": TEXTS, "label": ["A", "B", "C", "D"]}


@pytest.mark.parametrize(
    ("options", "answers", "wrong", "shown", "why"),
    [
        (TEXTS, TEXTS, "pink", "- red", "is one of the record's options"),
        (TEXTS, "ABCD", "E", "A. red", "is the letter of one of the record's options"),
        (TEXTS, "0123", "7", "0. red", "is the number of one of the record's options, from 0"),
        (TEXTS, [1, 2, 3, 4], 0, "1. red", "is the number of one of the record's options, from 1"),
        (LABELLED, "abcd", "E", "A. red", "is the label of one of the record's options"),
    ],
)
def test_a_few_answers_may_be_no_options(tmp_path, options, answers, wrong, shown, why):
    """They are wrong themselves, and do not change what the others are."""
    rows = [{"question": "q", "options": options, "answer": a} for a in [*answers] * 10]
    path = data_file(tmp_path, *rows, {**rows[0], "answer": wrong})
    form = answer_form(data := read(path, {}))
    assert form.why == f"every answer but 1 of 41 {why}"
    assert wrong not in form.choices
    assert shown in prompts(data)[-1].splitlines()
    path = data_file(tmp_path, *rows, *[{**rows[0], "answer": "?"}] * 4)
    assert why not in answer_form(read(path, {})).why


LETTER_ROWS = [
    {"options": TEXTS[:2], "answer": "B"},
    {"options": TEXTS[:3], "answer": "C"},
    {"options": TEXTS, "answer": "D"},
]
LABEL_ROWS = [
    {"options": {"text": TEXTS[:2], "label": labels}, "answer": labels[0]}
    for labels in (["A", "B"], ["B", "C"], ["1", "2"])
]


@pytest.mark.parametrize("counts", [(2000, 2000, 2000), (2500, 2500, 1), (7, 2000, 2000)])
@pytest.mark.parametrize(
    ("rows", "choices"),
    [
        ([{"answer": a} for a in ("neg", "neu", "pos")], ("neg", "neu", "pos")),
        (LETTER_ROWS, ("A", "B", "C", "D")),
        (LABEL_ROWS, ("1", "2", "A", "B", "C")),
        ([{"answer": a} for a in (1, 2, "three")], None),
    ],
)
def test_a_file_may_be_sorted(tmp_path, rows, choices, counts):
    """Whatever the order and however rare, every answer can be given."""
    records = [{"question": "q", **r} for r, n in zip(rows, counts, strict=True) for _ in range(n)]
    data = read(data_file(tmp_path, *records), {})
    form = answer_form(data)
    if choices is not None:
        assert form.choices == choices
    else:  # one answer in 5,001 that is no number is bad
        assert (form.metric == "number") == (counts[2] == 1)
    assert len(data.values) == 2000


@pytest.mark.parametrize("answers", ["AE", [0, 9], "XY"])
def test_answers_that_no_prompt_explains_are_said(tmp_path, answers):
    rows = [{"question": "q", "options": TEXTS, "answer": a} for a in answers]
    found = answer_form(read(data_file(tmp_path, *rows), {}))
    assert found.why.endswith("; the prompt does not say which of the options they mean")


@pytest.mark.parametrize("count", [2, 10, 11, 26, 27])
@pytest.mark.parametrize("answer", ["B", "AB", "", 1])
def test_any_number_of_options_is_shown(tmp_path, count, answer):
    """Whatever the answer is, the prompt is rendered, and letters are given to all or to none."""
    record = {"question": "q", "options": [f"text {n}" for n in range(count)], "answer": answer}
    data = read(data_file(tmp_path, record, {**record, "answer": answer or "none"}), {})
    form = answer_form(data)
    assert form.lettered == (answer == "B" and count <= 26)
    assert form.numbered_from == (0 if answer == 1 else None)
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
        (json.dumps(OBJECTS), "2", ("choice", ("1", "2")), ["1. red", "2. blue"]),
        (["red", "blue"], "xx", ("first_line", ()), ["- red", "- blue"]),
        ('["red", "blue"]', "xx", ("first_line", ()), ["- red", "- blue"]),
        ('["red", "blue"]', "B", ("choice", ("A", "B")), ["A. red", "B. blue"]),
        ('["red", "blue"]', "red", ("choice", "choices"), ["- red", "- blue"]),
    ],
)
def test_every_form_of_options_is_shown(tmp_path, options, answer, form, shown):
    record = {"question": "q", "choices": options, "answerKey": answer}
    data = read(data_file(tmp_path, record), {})
    found = answer_form(data)
    assert (found.parse, found.choices) == form
    assert prompts(data)[-1].splitlines() == ["Question: q", "Options:", *shown]


@pytest.mark.parametrize(
    ("context", "shown"),
    [
        (["One.", "Two."], ["Context:", "One.", "Two."]),
        ([["Ann", ["She lives.", "Here."]]], ["Context:", "Ann: She lives. Here."]),
        ({"a": [1, 2]}, ['Context: {"a": [1, 2]}']),
        ([{"a": "x"}], ['Context: [{"a": "x"}]']),
        ("{no JSON]", ["Context: {no JSON]"]),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_contexts_are_shown_also_if_they_are_json_texts(tmp_path, context, shown, as_text):
    given = json.dumps(context) if as_text and not isinstance(context, str) else context
    data = read(data_file(tmp_path, {"question": "[1]", "context": given, "answer": "a"}), {})
    prompt = next(p for p in prompts(data) if "Context:" in p)
    assert prompt.splitlines() == [*shown, "Question: [1]"]


@pytest.mark.parametrize(
    "answer",
    [[{"call": "f"}, {"call": "g"}], ["Ann", "Bob"], named("Ann"), [-5, 3.5], [1.0, 2.0], ["-1/2", "2"]],
)  # fmt: skip
def test_the_right_reply_of_a_stand_in_scores(tmp_path, answer):
    data = read(data_file(tmp_path, {"question": "q", "label": answer}), {})
    form = answer_form(data)
    script = json.loads(str(stand_ins(data, form, "x")[0].script))
    output = parts.parse(form.parse, script["rules"][0]["replies"][0]["text"])
    assert parts.METRICS[form.metric](output, answer) == 1


def test_answers_that_are_json_texts_of_lists(tmp_path):
    """The task reads them for ``set_f1``; for other metrics they are texts."""
    record = {"question": "q", "labels": '["Ann", "Bob"]'}
    assert answer_form(read(data_file(tmp_path, record), {})).metric == "set_f1"
    record = {"question": "q", "labels": '["Ann"]'}
    assert answer_form(read(data_file(tmp_path, record), {})).metric == "set_f1"
    path = data_file(tmp_path, record, {"question": "q", "labels": "[none"})
    assert answer_form(read(path, {})).metric == "exact_match"
    record = {"question": "q", "answers": '[{"call": "f"}]'}
    assert answer_form(read(data_file(tmp_path, record), {})).metric == "set_f1"
    for field, text in (("answers", '["New York", "NYC"]'), ("labels", json.dumps([named("Ann")]))):
        with pytest.raises(UserError, match=f"'{field}' holds lists as JSON texts.*--answer FIELD"):
            answer_form(read(data_file(tmp_path, {"question": "q", field: text}), {}))


@pytest.mark.parametrize("role", ["context", "options"])
@pytest.mark.parametrize("lack", [{}, None, [], ""])
@pytest.mark.parametrize(("have", "used"), [(1, False), (3, False), (4, True), (8, True)])
def test_a_field_that_most_records_lack_is_not_used(tmp_path, role, lack, have, used):
    given = [{role: ["red", "blue"]}] * have + [{} if lack == {} else {role: lack}] * (8 - have)
    rows = [{"question": "q", "answer": "red", **row} for row in given]
    path = data_file(tmp_path, *rows, {"question": "q"}, {role: ["red", "blue"]})
    data = read(path, {})
    assert getattr(data.fields, role) == (role if used else None)
    assert data.bad == (10 - have if used else 2)
    told = f"the field '{role}' is not used, because {have} of 8 records with question and answer"
    assert [note[: len(told)] for note in data.notes] == [told] * (not used)
    assert read(path, {role: role}).bad == 10 - have


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
