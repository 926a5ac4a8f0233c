"""Numbered JSON documents in a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from agenttts.files.numbered import (
    check_moments,
    next_number,
    number_of,
    numbered_files,
    read_numbered,
    write_numbered,
)


@dataclass(frozen=True)
class Note:
    text: str


def refuse_empty(note: Note) -> None:
    if not note.text:
        raise ValueError("it says nothing")


def test_documents_are_read_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "notes"
    assert (numbered_files(folder), next_number(folder)) == ([], 1)
    for number in (100, 2, 99):
        write_numbered(folder, number, asdict(Note(str(number))))
    write_numbered(folder, 2, asdict(Note("again")))
    found = read_numbered(Note, folder, refuse_empty)
    assert [note.text for note in found] == ["again", "99", "100"]
    assert [number_of(path) for path in numbered_files(folder)] == [2, 99, 100]
    assert next_number(folder) == 101


@pytest.mark.parametrize("content", ["{", "[]", '{"text": 3}', '{"text": ""}'])
def test_what_cannot_be_read_is_left_out_and_named(tmp_path, caplog, content):
    write_numbered(tmp_path, 1, asdict(Note("one")))
    (tmp_path / "02.json").write_text(content)
    (tmp_path / "03.json").write_text(json.dumps({"text": "three", "later": 1}))
    (tmp_path / ".04.json").write_text("{")
    assert [n.text for n in read_numbered(Note, tmp_path, refuse_empty)] == ["one", "three"]
    assert "02.json cannot be read and is left out" in caplog.text


def test_a_folder_that_is_removed_while_it_is_listed_has_no_files(tmp_path, monkeypatch):
    folder = tmp_path / "attempts"
    folder.mkdir()
    (folder / "01.json").write_text("{}")
    looked, is_dir = [], Path.is_dir

    def removed_after(path: Path) -> bool:
        found = is_dir(path)
        if path == folder and found:
            looked.append(path)
            shutil.rmtree(folder)
        return found

    monkeypatch.setattr(Path, "is_dir", removed_after)
    names = [file.name for file in numbered_files(folder)]
    assert names == ([] if looked else ["01.json"])


def test_moments_need_a_time_zone():
    check_moments("2026-01-02T03:04:05+00:00", None)
    with pytest.raises(ValueError, match="'2026-01-02T03:04:05' has no time zone"):
        check_moments(None, "2026-01-02T03:04:05")
