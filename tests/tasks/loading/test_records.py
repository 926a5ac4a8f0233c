"""Data files: every kind that is read, and errors that name the line."""

from __future__ import annotations

import gzip
import json

import pytest

from agenttts.errors import Unavailable, UserError
from agenttts.tasks.loading.records import read_records

RECORDS = [{"question": "one?", "n": 1}, {"question": "two? ", "n": 2}]
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
LIST = json.dumps(RECORDS, indent=1, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.jsonl", LINES),
        ("d.jsonl", f"\n{LINES}\n\n"),
        ("d.json", LIST),
        ("d.json", LINES),  # as TaskBench is published
        ("d.json", "\ufeff" + LIST),
    ],
)
def test_what_is_read(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [record.values for record in read_records(tmp_path / name)] == RECORDS
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert [record.values for record in read_records(packed)] == RECORDS


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("d.jsonl", '{"a": 1}\n\n{"a": \n', "d.jsonl:3: not a JSON object"),
        ("d.jsonl", '{"a": 1}\n[1]', "d.jsonl:2: must be a JSON object, not [1]"),
        ("d.json", '{"a": 1}\n{"a": \n', "d.json:2: not a JSON object"),
        ("d.json", '[\n {"a": 1},\n {"a" 1}\n]', "d.json:3: not JSON"),
        ("d.json", '[\n {"a": 1},\n\n 7\n]', "d.json:4 (record 2): must be a JSON object, not 7"),
        ("d.json", '{\n"names": ["a"]\n}', "must hold a JSON list of records"),
        ("d.json", "[]", "holds no records"),
        ("d.txt", "a,b", "unknown kind of data file; valid: .json, .jsonl"),
    ],
)
def test_malformed_files_name_the_line(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        read_records(tmp_path / name)
    assert expected in str(caught.value)


def test_bytes_that_are_no_text_and_archives_cut_off(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(UserError, match=r"d.jsonl:2: not UTF-8"):
        read_records(tmp_path / "d.jsonl")
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(LIST.encode())[:-9])
    with pytest.raises(UserError, match="not a whole gzip file"):
        read_records(tmp_path / "d.json.gz")


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "cwq.json").write_text(LIST)
    with pytest.raises(Unavailable, match=r"does not exist.*did you mean 'cwq.json'"):
        read_records(tmp_path / "cqw.json")
    with pytest.raises(Unavailable, match=f"only {tmp_path} exists"):
        read_records(tmp_path / "none" / "cwq.json")
    with pytest.raises(UserError, match="is a directory"):
        read_records(tmp_path)


def test_an_error_of_a_field_shows_what_is_there(tmp_path):
    (tmp_path / "d.json").write_text(LIST)
    _, second = read_records(tmp_path / "d.json")
    line = LIST[: LIST.index('"two')].count("\n")  # the record begins a line before its first field
    place = rf"d.json:{line} \(record 2\): "
    with pytest.raises(UserError, match=f"{place}field 'question' must be a list"):
        second.texts("question")
    with pytest.raises(UserError, match=f"{place}field 'n' must be a text.* not 2"):
        second.text("n")
    with pytest.raises(UserError, match=f"{place}field 'questoin' is missing.*is 'question' meant"):
        second.text("questoin")


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_halves_of_characters_become_question_marks_and_whole_ones_stay(tmp_path, name):
    text = r'{"question": "\ud83d!", "list": [{"\uDE00": "\ud83d\ude00"}], "n": 1}'
    (tmp_path / name).write_text(text if name == "d.jsonl" else f"[{text}]")
    [record] = read_records(tmp_path / name)
    assert record.values == {"question": "?!", "list": [{"?": "\U0001f600"}], "n": 1}
