"""JSON lines: a line is there whole or not at all, and damage is told by its line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agenttts.errors import MissingRequirement
from agenttts.files.json_lines import (
    JsonLinesFile,
    LineNotWritten,
    read_json_lines,
    readable_json_lines,
)
from tests.support.full_disk import full_disk


def opened(path: Path) -> JsonLinesFile:
    return JsonLinesFile(path, what="diary", fix="make room there")


def lines(path: Path, *, unfinished: bool = False) -> tuple[list[tuple[int, object]], list[int]]:
    """The lines with their numbers, and the numbers of damaged ones."""
    damaged: list[int] = []
    found = list(read_json_lines(path, lambda n, _: damaged.append(n), unfinished=unfinished))
    return found, damaged


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    file = opened(path)
    assert not path.exists(), "it is made with its first line"
    odd = {"text": "né \u2028 \x00 \n 漢", "file": os.fsdecode(b"odd\xff")}
    for document in ({"n": 1}, odd):
        file.append(document)
    file.close()
    again = opened(path)
    again.append({"n": 3})
    again.close()
    assert lines(path) == ([(1, {"n": 1}), (2, odd), (3, {"n": 3})], [])
    assert path.read_bytes().count(b"\n") == 3
    assert lines(tmp_path / "none.jsonl") == ([], [])


@pytest.mark.parametrize("torn", ['{"n": ', '{"n": 2}', "\x00\x00", "é"])
def test_a_torn_last_line_is_left_out_and_cut_off_at_opening(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n' + torn)
    assert lines(path) == ([(1, {"n": 1})], [])
    file = opened(path)
    assert path.read_text() == '{"n": 1}\n'
    file.append({"n": 3})
    file.close()
    assert path.read_text() == '{"n": 1}\n{"n": 3}\n'


def test_an_unfinished_line_is_read_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    assert lines(path, unfinished=True)[0] == [(1, {"n": 1}), (2, {"n": 2})]
    path.write_text('{"n": 1}\n')
    assert lines(path, unfinished=True) == ([(1, {"n": 1})], [])


def test_the_reader_says_what_a_damaged_line_means(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\nnot json\n{"n": 3}\n\xff\n\n' + b"[" * 100_000 + b"\n7\n")
    assert lines(path) == ([(1, {"n": 1}), (3, {"n": 3}), (7, 7)], [2, 4, 5, 6])

    def refuse(number: int, problem: str) -> None:
        raise LookupError(f"{number}: {problem}")

    with pytest.raises(LookupError, match="^2: Expecting value"):
        list(read_json_lines(path, refuse))


def test_a_part_of_a_line_is_taken_back_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    file = opened(path)
    file.append({"n": 1})
    before = path.read_bytes()
    with full_disk(len(before) + 10), pytest.raises(LineNotWritten) as caught:
        file.append({"text": "x" * 100})
    assert isinstance(caught.value, MissingRequirement)
    assert str(caught.value).startswith(f"{path}: the diary cannot be written: ")
    assert caught.value.fix == "make room there"
    assert path.read_bytes() == before
    file.append({"n": 2})
    file.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"n": 1}, {"n": 2}]


def test_a_file_that_cannot_be_made_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(LineNotWritten, match="No such file or directory"):
        opened(tmp_path / "none" / "a.jsonl").append({"n": 1})


def test_every_line_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
    file = opened(path)
    file.append({"n": 1})
    file.append({"n": 2})
    file.close()
    assert synced == [b'{"n": 1}\n', b'{"n": 1}\n{"n": 2}\n']


def test_what_can_be_read_of_a_damaged_file(tmp_path):
    file = tmp_path / "lines"
    assert readable_json_lines(file) == []
    file.write_bytes(b'{"a": 1}\n{"a": 2\n[3]\n\xff\n{"a": 4}\n{"a": 5}')
    assert readable_json_lines(file) == [{"a": 1}, {"a": 4}, {"a": 5}]
    file.write_bytes(b'{"a": 1}\n{"a": ')
    assert readable_json_lines(file) == [{"a": 1}]
