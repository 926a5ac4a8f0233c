"""Data files in the forms that data sets are published in: documents, tables, Parquet,
compressed or not.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agenttts import tasks
from agenttts.errors import UserError
from agenttts.tasks.base import Example, TaskConfig
from agenttts.tasks.loading.aliases import read_aliases
from agenttts.tasks.loading.answers import read_answers
from agenttts.tasks.loading.records import read_file, read_records
from agenttts.tasks.loading.report import LoadReport, SourceReport
from agenttts.tasks.loading.source import example_id
from agenttts.tasks.loading.table_records import row_record

ROWS: list[dict[str, Any]] = [
    {"question": "one, two?", "answers": ["a", "b"], "n": "1"},
    {"question": 'three\n"four"?', "answers": ["c"], "n": "2"},
]
QUESTION = [("question",)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def table(rows: list[dict[str, Any]], separator: str = ",", text: Any = json.dumps) -> bytes:
    """As pandas and Polars write a table: lists as texts, quoted where needed."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([v if isinstance(v, str) else text(v) for v in row.values()])
    return stream.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(rows).write_parquet(stream)
    return stream.getvalue()


def document(value: object, indent: int | None = None) -> bytes:
    return json.dumps(value, indent=indent).encode()


FORMS = {
    "list": ("d.json", document(ROWS)),
    "pretty list": ("d.json", document(ROWS, 2)),
    "list in a file of lines": ("d.jsonl", document(ROWS, 2)),
    "lines": ("d.jsonl", lines(ROWS)),
    "lines by another name": ("d.ndjson", lines(ROWS)),
    "lines in a .json file": ("d.json", lines(ROWS)),
    "lines without a suffix": ("d", lines(ROWS)),
    "data": ("d.json", document({"version": "1.1", "data": ROWS})),
    "data, pretty": ("d.json", document({"version": "1.1", "data": ROWS}, 1)),
    "data in a file of lines": ("d.jsonl", document({"data": ROWS})),
    "questions beside scalars": ("d.json", document({"n": 1, "Questions": ROWS, "by": ["me"]})),
    "nested": ("d.json", document({"result": {"rows": ROWS, "took": 3}})),
    "an empty list beside it": ("d.json", document({"errors": [], "data": ROWS})),
    "csv": ("d.csv", table(ROWS)),
    "csv with Python lists": ("d.csv", table(ROWS, text=repr)),
    "csv with a mark": ("d.csv", b"\xef\xbb\xbf" + table(ROWS)),
    "csv with Unix lines": ("d.csv", table(ROWS).replace(b"\r\n", b"\n")),
    "csv with semicolons": ("d.csv", table([{k.replace(",", ""): v for k, v in r.items()} for r in ROWS], ";")),
    "csv with blank lines": ("d.csv", table(ROWS) + b"\r\n,,\r\n"),
    "tsv": ("d.tsv", table(ROWS, "\t")),
    "tabs in a .csv file": ("d.csv", table(ROWS, "\t")),
    "parquet": ("d.parquet", parquet(ROWS)),
    "parquet with JSON texts": ("d.parquet", parquet([{**r, "answers": json.dumps(r["answers"])} for r in ROWS])),
    "parquet by another name": ("d.json", parquet(ROWS)),
}  # fmt: skip


def values(record) -> dict[str, Any]:
    return {**record.values, "answers": record.texts("answers")}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_records(tmp_path, form, packed):
    name, content = FORMS[form]
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    found = read_file(path, fields=QUESTION)
    assert [values(record) for record in found.records] == ROWS
    assert all(record.damage is None for record in found.records)


def test_gzip_is_told_by_its_content(tmp_path):
    (tmp_path / "d.json").write_bytes(gzip.compress(document(ROWS)))
    assert [r.values for r in read_records(tmp_path / "d.json")] == ROWS


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"data": ROWS}, "data"),
        ({"result": {"rows": ROWS}}, "result.rows"),
        # The list that the fewest keys lead to; a list within a record is not one.
        ({"data": ROWS, "meta": {"authors": [{"name": "x"}]}}, "data"),
        ({"question": ROWS}, "question"),
        (ROWS, ""),
    ],
)
def test_the_key_of_the_records_is_told(tmp_path, value, key):
    path = tmp_path / "d.json"
    path.write_bytes(document(value))
    found = read_file(path, fields=QUESTION)
    assert (found.key, [r.values for r in found.records]) == (key, ROWS)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_with_what_records_have_is_one_record(tmp_path, indent):
    """TaskBench's and WebQSP's records hold lists of objects themselves."""
    record = {"question": "one?", "steps": [{"task": "a"}, {"task": "b"}]}
    (tmp_path / "d.json").write_bytes(document(record, indent))
    found = read_file(tmp_path / "d.json", fields=QUESTION)
    assert [r.values for r in found.records] == [record]
    assert found.records[0].place() == f"{tmp_path}/d.json:1"


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        ({"train": ROWS, "dev": ROWS}, "", "2 lists of objects, .* cannot be told: 'train', 'dev'; name one with the option records_key"),
        ({"a": {"x": ROWS}, "b": {"y": ROWS}}, "", "cannot be told: 'a.x', 'b.y'"),
        ({"train": ROWS, "dev": ROWS}, "dve", "no list of objects under 'dve'; valid: train, dev; did you mean 'dev'"),
        ({"train": ROWS, "note": "x"}, "note", "no list of objects under 'note'; valid: train"),
        (ROWS, "data", "'data' is a key of a document, and .* holds a list; leave it out"),
        ({"a": 1, "b": ["x"]}, "", "an object with one list of records under a key; it is an object without one, with the keys: a, b"),
        ("text", "", "must hold a JSON list of records.*not \"text\""),
    ],
)  # fmt: skip
def test_a_document_whose_records_cannot_be_told(tmp_path, value, key, expected):
    path = tmp_path / "d.json"
    path.write_bytes(document(value, 1))
    with pytest.raises(UserError, match=expected):
        read_file(path, fields=QUESTION, key=key)


@pytest.mark.parametrize(("key", "first"), [("dev", 2), ("train", 1), ("more.dev", 3), ("x.y", 4)])
def test_the_user_names_the_key(tmp_path, key, first):
    n = [[{"n": i}] for i in range(5)]
    value = {"train": n[1], "dev": n[2], "more": {"dev": n[3]}, "x.y": n[4]}
    (tmp_path / "d.json").write_bytes(document(value))
    found = read_file(tmp_path / "d.json", key=key)
    assert (found.key, found.records[0].values) == (key, {"n": first})


@pytest.mark.parametrize("name", ["d.csv", "d.parquet", "d.jsonl"])
def test_a_key_of_no_use(tmp_path, name):
    content = {"d.csv": table(ROWS), "d.parquet": parquet(ROWS), "d.jsonl": lines(ROWS)}[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"^options.records_key: 'data' is a key .*leave it out"):
        read_file(tmp_path / name, key="data")


def test_the_line_of_a_record_under_a_key_is_told(tmp_path):
    # The key comes twice, as JSON allows: the last counts. Texts that look like the key are passed
    # over.
    text = '{"note": "\\"data\\": [",\n "data": [{}],\n "data": [\n {"question": "a"},\n\n {"question": 7}]}'
    (tmp_path / "d.json").write_text(text)
    _, record = read_file(tmp_path / "d.json", fields=QUESTION).records
    with pytest.raises(
        UserError, match=r"d.json:6 \(record 2 of 'data'\): field 'question' .*not 7"
    ):
        record.text("question")
    (tmp_path / "d.json").write_text(r'{"d\ud83d": [{"question": 7}]}')  # half a character
    [record] = read_file(tmp_path / "d.json", fields=QUESTION).records
    with pytest.raises(
        UserError, match=r"d.json:1 \(record 1 of 'd\?'\): field 'question' .*not 7"
    ):
        record.text("question")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.csv", b"a,b\n1,2\n3\n", r"d.csv:3 \(record 2\): has 1 field, and the header has 2: a, b"),
        ("d.csv", b"a,b\n\n\n1,2,3\n", r"d.csv:4 \(record 1\): has 3 fields"),
        ("d.csv", b'a,b\n1,"2"x\n', r"d.csv:2 \(record 1\): not a row of a table"),
        ("d.csv", b'a,b\n1,2\n"x\ny",\xff\n', r"d.csv:3: a record that spans lines 3 to 4 not UTF-8"),
        ("d.csv", b"a,b\n1,\xff\n", r"d.csv:2 \(record 1\): not UTF-8 text \(byte 0xff"),
        ("d.csv", b'a,b\n1,"2\n3,4\n5,6\n', r"d.csv:2: a quoted field .* is not closed"),
        ("d.csv", b'a,b\n1,"2\n3,"4"\n5,6\n', r"d.csv:2: a record that spans lines 2 to 3 not a row of a table"),
        ("d.csv", b'a,b\n1,"2\n3",4\n5,6\n', r"d.csv:2: a record that spans lines 2 to 3 has 3 fields"),
        ("d.csv", b"a,a\n1,2\n", r"d.csv:1: the header names column 'a' twice"),
        ("d.csv", b"a,\xe4\n1,2\n", r"d.csv:1: the header: not UTF-8"),
        ("d.csv", b"a,b\n", "d.csv holds no records"),
        ("d.csv", b"", "d.csv holds no records"),
        ("d.jsonl", b"", "d.jsonl holds no records"),
        ("d.json", b'[{"a": 1}, {"a": \xff}]', "d.json:1: not UTF-8"),
        ("d.parquet", b"PAR1" + b"x" * 40, "not a whole Parquet file"),
        ("d.parquet", parquet(ROWS)[:-9], "not a whole Parquet file"),
        ("d.parquet", b"", "not a whole Parquet file"),
        ("d.xlsx", b"PK\x03\x04", "unknown kind of data file; valid: .json, .jsonl, .ndjson, .csv, .tsv, .tab, .parquet, each also with .gz"),
    ],
)  # fmt: skip
def test_malformed_tables_name_the_line(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read_records(tmp_path / name)


@pytest.mark.parametrize("text", ['{"data": []}', '{\n"by": "me", "data": []}', "[]", " \n"])
def test_a_document_without_records(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(UserError, match=r"d.json holds no records"):
        load("retrieval_qa", tmp_path / "d.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "d.json")
    with pytest.raises(UserError, match=r"d.json is not a file"):
        read_records(tmp_path / "d.json")


def test_cells_are_texts_lists_and_objects(tmp_path):
    cells = {
        "007": "007",
        "": "",
        "[1, 2.5]": [1, 2.5],
        '{"a": [null, NaN]}': {"a": [None, None]},
        "['it''s', None, True, (1,)]": ["its", None, True, [1]],
        "{'a': \"b\"}": {"a": "b"},
        "[sic]": "[sic]",
        "{1: 2}": "{1: 2}",
        "{'a', 'b'}": "{'a', 'b'}",
        "[__import__('os')]": "[__import__('os')]",
        # Python 3.13 reads JSON of some thousand levels, and 3.11 of a thousand.
        "[" * 100_000 + "]" * 100_000: "[" * 100_000 + "]" * 100_000,
        "[1] and [2]": "[1] and [2]",
        # As numpy writes its arrays.
        "['Paris' 'Lutetia']": ["Paris", "Lutetia"],
        "['it\\'s' \"L'Eau\"\n 'x']": ["it's", "L'Eau", "x"],
        "['a, b' 'c']": ["a, b", "c"],
        "[['a' 'b']\n ['c' 'd']]": [["a", "b"], ["c", "d"]],
        "[1 -2 3.5]": [1, -2, 3.5],
        "[1. 2.]": [1.0, 2.0],
        "{'text': array(['a', 'b'], dtype=object), 'start': array([1, 2])}": {
            "text": ["a", "b"],
            "start": [1, 2],
        },
        "[array(['a', 'b'], dtype='<U1') array(['c'], dtype='<U1')]": [["a", "b"], ["c"]],
        "[np.str_('a'), np.float64(1.5), ('b' 'c')]": ["a", 1.5, ["b", "c"]],
        "['a' 'b' ... 'z']": "['a' 'b' ... 'z']",
        "['a' 'b": "['a' 'b",
        "[np.f('a'": "[np.f('a'",
        "[a 'b' -]": "[a 'b' -]",
    }
    several = ["[3] [17]", "[1], [2, 3]", "[1] 2\n[3]", "['a'] ['b']", "{'a': 1}, {'b': 2}"]
    cells |= zip(several, several, strict=True)
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([["cell", "x"], *([cell, "x"] for cell in cells)])
    (tmp_path / "d.csv").write_text(stream.getvalue())
    assert [r.values["cell"] for r in read_records(tmp_path / "d.csv")] == list(cells.values())


def test_a_long_cell_and_the_index_of_pandas(tmp_path):
    long = json.dumps(["word " * 60_000])
    (tmp_path / "d.csv").write_bytes(table([{"": "0", "question": "one?", "answers": long}]))
    [record] = read_records(tmp_path / "d.csv")
    assert record.values == {"question": "one?", "answers": json.loads(long)}
    assert csv.field_size_limit() == 131_072, "the limit of other readers is left as it was"


def test_values_of_parquet_become_json_values(tmp_path):
    from datetime import date, datetime, timedelta
    from decimal import Decimal

    frame = pl.DataFrame(
        {
            "day": [date(2024, 2, 29)],
            "time": [datetime(2024, 2, 29, 12)],
            "took": [timedelta(seconds=5)],
            "price": [Decimal("1.50")],
            "whole": [Decimal("2")],
            "nan": [float("nan")],
            "kind": pl.Series(["x"], dtype=pl.Categorical),
            "pairs": [[{"title": "A", "n": 1}]],
        }
    )
    frame.write_parquet(tmp_path / "d.parquet")
    [record] = read_records(tmp_path / "d.parquet")
    assert record.values == {
        "day": "2024-02-29",
        "time": "2024-02-29T12:00:00",
        "took": "0:00:05",
        "price": 1.5,
        "whole": 2,
        "nan": None,
        "kind": "x",
        "pairs": [{"title": "A", "n": 1}],
    }
    assert json.loads(json.dumps(dict(record.values))) == record.values


def load(task: str, path: object, report: LoadReport | None = None, **options: object) -> list[Example]:  # fmt: skip
    return tasks.create(task).load(
        TaskConfig(str(path), options=options, report=report or LoadReport())
    )


def texts(record: dict[str, Any]) -> dict[str, str]:
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in record.items()}


PUBLISHED = [
    ("retrieval_qa", "2wiki.excerpt.json", {}),
    ("retrieval_qa", "hotpotqa.excerpt.json", {}),
    ("kgqa", "cwq.excerpt.json", {}),
    ("taskbench", "taskbench_dailylifeapis.excerpt.jsonl", {"tools": "taskbench_dailylifeapis_tool_desc.excerpt.json"}),
]  # fmt: skip


@pytest.mark.parametrize(("task", "file", "options"), PUBLISHED)
@pytest.mark.parametrize("form", ["data.json", "lines.jsonl.gz", "table.csv", "table.tsv", "texts.parquet"])  # fmt: skip
def test_published_records_in_every_form_of_file(excerpt, tmp_path, task, file, options, form):
    """One reader serves every task: the excerpts, rewritten, give the examples of the published
    file.
    """
    options = {name: excerpt(value) for name, value in options.items()}
    content = Path(excerpt(file)).read_text("utf-8")
    rows = json.loads(content) if file.endswith(".json") else [json.loads(line) for line in content.splitlines()]  # fmt: skip
    if task == "kgqa":  # Freebase's ids are nested objects of changing keys, which no table has
        rows = [{k: v for k, v in row.items() if k not in ("topic_entity", "qid_topic_entity")} for row in rows]  # fmt: skip
    path = tmp_path / form
    path.write_bytes(
        {
            "data.json": lambda: document({"version": 2, "data": rows}, 1),
            "lines.jsonl.gz": lambda: gzip.compress(lines(rows)),
            "table.csv": lambda: table([texts(row) for row in rows]),
            "table.tsv": lambda: table([texts(row) for row in rows], "\t"),
            "texts.parquet": lambda: parquet([texts(row) for row in rows]),
        }[form]()
    )
    report = LoadReport()
    assert load(task, path, report, **options) == load(task, excerpt(file), **options)
    key = "data" if form == "data.json" else ""
    # The excerpt of the tools has not all of the gold plans' tools, which is a note.
    [read] = report.sources.values()
    assert replace(read, notes=()) == SourceReport(str(path), len(rows), key)
    assert len(read.notes) == (task == "taskbench")


def test_2wiki_in_parquet_as_the_hub_has_it(excerpt, tmp_path):
    """Lists of texts, and HotpotQA's pairs as two columns or as a list of objects."""
    rows = json.loads(Path(excerpt("hotpotqa.excerpt.json")).read_text("utf-8"))
    wanted = load("retrieval_qa", excerpt("hotpotqa.excerpt.json"))
    names = {"context": ("title", "sentences"), "supporting_facts": ("title", "sent_id")}
    columns = [row | {f: {a: [p[0] for p in row[f]], b: [p[1] for p in row[f]]} for f, (a, b) in names.items()} for row in rows]  # fmt: skip
    objects = [row | {f: [{a: p[0], b: p[1]} for p in row[f]] for f, (a, b) in names.items()} for row in rows]  # fmt: skip
    for number, form in enumerate((columns, objects)):
        (tmp_path / f"{number}.parquet").write_bytes(parquet(form))
        assert load("retrieval_qa", tmp_path / f"{number}.parquet") == wanted


SRDD = [
    ["Name", "Description", "Category"],
    ["Clock", 'Shows the time, "12:00" say.', "Tools"],
    ["Dice", "Rolls\ndice.", "Games"],
    ["Dice", "Rolls two.", "Games"],
]


@pytest.mark.parametrize("header", [SRDD[0], ["SoftwareName", "SoftwareDescription", "SoftwareCategory"], ["name", "task", "category"]])  # fmt: skip
def test_srdd_as_published(tmp_path, header):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header, *SRDD[1:]])
    (tmp_path / "srdd.csv").write_text(stream.getvalue())
    found = {e.id: e.data for e in load("chatdev", tmp_path / "srdd.csv")}
    assert found == {
        "Clock": {"name": "Clock", "requirement": 'Shows the time, "12:00" say.'},
        "Dice#1": {"name": "Dice", "requirement": "Rolls dice."},
        "Dice#2": {"name": "Dice", "requirement": "Rolls two."},
    }


def test_srdd_in_both_of_its_forms_is_one_data_set(excerpt, tmp_path):
    columns = json.loads(Path(excerpt("srdd.excerpt.json")).read_text("utf-8"))
    rows = [{"Name": n, "Description": t, "Category": "x"} for n, t in zip(columns["names"], columns["tasks"], strict=True)]  # fmt: skip
    wanted = load("chatdev", excerpt("srdd.excerpt.json"))
    forms = {
        "d.csv": table(rows),
        "d.parquet": parquet(rows),
        "d.jsonl": lines(rows),
        "d.json": document({"name": "SRDD", "data": rows}),
        "c.json": document(columns),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        assert load("chatdev", tmp_path / name) == wanted, name


def test_a_table_without_srdd_columns_says_which_are_read(tmp_path):
    (tmp_path / "d.csv").write_text("Title,Text\nClock,Shows the time.\n")
    with pytest.raises(UserError, match=r"d.csv:2 \(record 1\): field 'task' is missing.*Description.*it has: Title, Text"):  # fmt: skip
        load("chatdev", tmp_path / "d.csv")


TASK = """
name: sums
main_metric: answer.exact_match
stages:
  answer:
    prompt: "{{ question }}{% for option in options %} {{ option }}{% endfor %}"
    parse: choice
    choices: options
    metrics: {exact_match: gold, set_f1: golds}
"""


@pytest.mark.parametrize(
    "image", [b"\x89PNG", {"bytes": b"\x89PNG", "path": "a.png"}, [b"\x89PNG"]]
)
def test_a_value_without_a_json_form_is_an_error_where_it_is_used(tmp_path, image):
    """As the images of ScienceQA in its Parquet files, of which most tasks use the texts alone."""
    row = {"id": "q", "image": image, "question": "?", "options": ["x", "y"], "gold": "y", "golds": ["y"]}  # fmt: skip
    (tmp_path / "d.parquet").write_bytes(parquet([row]))
    (tmp_path / "task.yaml").write_text(TASK)
    [example] = tasks.create(str(tmp_path / "task.yaml")).load(TaskConfig(str(tmp_path / "d.parquet")))  # fmt: skip
    assert example.data == {name: value for name, value in row.items() if name != "image"}
    (tmp_path / "task.yaml").write_text(TASK.replace("{{ question }}", "{{ image }}"))
    with pytest.raises(UserError, match=r"d\.parquet, record 1: field 'image' has a value that is not text, number, list or object \(bytes\), and is what stages\.answer\.prompt of .* uses"):  # fmt: skip
        tasks.create(str(tmp_path / "task.yaml")).load(TaskConfig(str(tmp_path / "d.parquet")))


@pytest.mark.parametrize("field", ["id", "answer", "answer_aliases"])
def test_a_text_that_a_table_holds_as_bytes_is_not_passed_over(field):
    """A column without the mark of text gave other ids, and answers without their other names."""
    values = {"id": "q", "answer": "y", "answers": ["y"], "answer_aliases": ["z"]}
    record = row_record(values | {field: b"q"}, lambda: "here")
    read = (
        partial(example_id, number=0)
        if field == "id"
        else partial(read_answers, fields=["answer", "answers"])
    )
    with pytest.raises(UserError, match=f"here: field '{field}' has a value that is not text"):
        read(record)


TRIPLES = [["Rome", "in", "Italy"]]
READ: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "2wiki": (
        "retrieval_qa",
        {"_id": "q", "question": "?", "answers": ["y"], "aliases": ["z"], "ctxs_candidate": ["c"], "ctxs_gt": ["c"]},
        {"id": "q", "answer": "y", "context": [{"title": "t", "sentences": ["s"]}], "supporting_facts": [{"title": "t", "sent_id": 0}]},
    ),
    "hotpot": (
        "retrieval_qa",
        {"id": "q", "question": "?", "answer": "y", "context": [{"title": "t", "sentences": ["s"]}], "supporting_facts": [{"title": "t", "sent_id": 0}]},
        {},
    ),
    "kgqa": (
        "kgqa",
        {"ID": "q", "question": "?", "answer": ["y"], "answer_aliases": ["z"], "crucial_triples": TRIPLES, "gt_triples": TRIPLES, "2hop_triples": TRIPLES},
        {"QuestionId": "q", "RawQuestion": "?", "answers": ["y"]},
    ),
    "kgqa of WebQSP": (
        "kgqa",
        {"QuestionId": "q", "RawQuestion": "?", "Parses": [{"Answers": [{"EntityName": "y", "AnswerArgument": "m.1"}]}], "crucial_triples": TRIPLES, "gt_triples": TRIPLES, "2hop_triples": TRIPLES},
        {},
    ),
    "taskbench": (
        "taskbench",
        {"id": "q", "instruction": "Do it.", "task_steps": ["a"], "task_nodes": [{"task": "t", "arguments": [{"name": "n", "value": "v"}]}]},
        {"user_request": "Do it.", "tool_steps": ["a"], "tool_nodes": [{"task": "t", "arguments": [{"name": "n", "value": "v"}]}]},
    ),
    "chatdev": ("chatdev", {"name": "q", "task": "Write it."}, {"Name": "q", "Description": "Write it."}),
    "chatdev as lists": ("chatdev", {"names": ["q"], "tasks": ["Write it."]}, {}),
    "aliases": ("aliases", {"Q_id": "m.1", "aliases": ["y"], "demonyms": ["z"]}, {"qid": "m.1"}),
}  # fmt: skip
"""A task, the fields of a record that it reads, and fields that it reads where those lack."""


@pytest.mark.parametrize(("form", "field"), [(form, field) for form in READ for field in READ[form][1]])  # fmt: skip
def test_no_field_that_is_read_is_passed_over_for_its_bytes(tmp_path, form, field):
    """As a column without the mark of text; others took its place, or nothing did."""
    task, row, others = READ[form]
    (tmp_path / "d.parquet").write_bytes(parquet([row]))
    (tmp_path / "bytes.parquet").write_bytes(parquet([{**row, field: b"q", **others}]))
    tool = {"id": "t", "desc": "d", "parameters": [{"name": "n"}]}
    (tmp_path / "tool_desc.json").write_bytes(document({"nodes": [tool]}))

    def read(file: Path) -> object:
        if task == "aliases":
            return read_aliases(str(file)).names
        return tasks.create(task).load(TaskConfig(str(file)))

    assert read(tmp_path / "d.parquet")
    with pytest.raises(UserError, match=f"field '{field}' has a value that is not text"):
        read(tmp_path / "bytes.parquet")


def test_the_id_of_an_answer_is_not_passed_over_where_it_is_looked_up(tmp_path):
    row: dict[str, Any] = {"id": "q", "answer": "y", "answer_id": b"m.1"}
    record = row_record(row, lambda: "here")
    assert read_answers(record, ["answer"]) == ("y",)
    with pytest.raises(UserError, match="here: field 'answer_id' has a value that is not text"):
        read_answers(record, ["answer"], {"m.1": ["z"]})


@pytest.mark.parametrize("form", ["d.json", "d.jsonl", "d.csv", "d.tsv", "d.parquet", "data.json", "texts.parquet"])  # fmt: skip
def test_a_task_of_your_own_reads_every_form(tmp_path, form):
    rows = [
        {"id": f"q{n}", "question": f"{n}?", "options": ["x", "y"], "gold": "y", "golds": ["y"]}
        for n in range(3)
    ]
    content = {
        "d.json": document(rows),
        "d.jsonl": lines(rows),
        "d.csv": table(rows),
        "d.tsv": table(rows, "\t"),
        "d.parquet": parquet(rows),
        "data.json": document({"id": "all", "items": rows}),
        "texts.parquet": parquet([texts(row) for row in rows]),
    }[form]
    (tmp_path / form).write_bytes(content)
    (tmp_path / "task.yaml").write_text(TASK)
    task = tasks.create(str(tmp_path / "task.yaml"))
    found = task.load(TaskConfig(str(tmp_path / form)))
    assert sorted(e.id for e in found) == ["q0", "q1", "q2"]
    for example in found:
        assert example.data["options"] == ["x", "y"]
        [stage] = task.stages
        assert stage.metrics(stage.parse("It is y.", example), example) == {"exact_match": 1, "set_f1": 1}  # fmt: skip
