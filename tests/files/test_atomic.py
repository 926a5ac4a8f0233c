"""Atomic writes: whole or not at all, and nothing left behind."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from agenttts.files import atomic
from agenttts.files.atomic import (
    TEMPORARY_SUFFIX,
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    write_output,
)


def test_a_write_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "one é\n")
    atomic_write_text(path, "two")
    assert path.read_text(encoding="utf-8") == "two"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    ["漢" * 85, "a" + "é" * 127, "😀" * 63, "x" * 255, b"\xff" * 255],
    ids=["three bytes", "two bytes", "four bytes", "one byte", "not UTF-8"],
)
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    for text in ("old", "new"):
        atomic_write_text(path, text)
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def fail(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        atomic_write(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_rename_readers_see_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_write_text(path, "old")

    def look(stream: BinaryIO) -> None:
        stream.write(b"new")
        stream.flush()
        assert path.read_text() == "old"
        (temporary,) = [p for p in tmp_path.iterdir() if p != path]
        assert temporary.name.endswith(TEMPORARY_SUFFIX)
        assert not set(tmp_path.glob("*.json")) - {path}

    atomic_write(path, look)
    assert path.read_text() == "new"


def test_content_reaches_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(atomic.os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    atomic_write_text(tmp_path / "a", "x")
    assert steps == ["file", "rename", "directory"]
    steps.clear()
    atomic_write_text(tmp_path / "a", "note", durable=False)
    assert steps == ["rename"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    atomic_write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_json(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", {"é": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(tmp_path / "b.json", float("nan"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write_text(tmp_path / "no" / "a", "x")


def test_output_goes_through_a_device_and_replaces_a_file_whole(tmp_path: Path) -> None:
    write_output(Path("/dev/null"), lambda stream: stream.write(b"x"))
    assert Path("/dev/null").is_char_device()
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to("/dev/null")
    write_output(link, lambda stream: stream.write(b"x"))
    assert link.is_char_device()
    write_output(file, lambda stream: stream.write(b"old"))
    with pytest.raises(ZeroDivisionError):
        write_output(file, lambda stream: stream.write(b"new") / 0)
    assert file.read_bytes() == b"old"
    with pytest.raises(IsADirectoryError):
        write_output(tmp_path, lambda stream: stream.write(b"x"))


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd", "link"])
def test_output_into_an_open_file_keeps_what_was_written_to_it(tmp_path: Path, folder: str) -> None:
    (tmp_path / "link").symlink_to("/dev/fd")
    file = tmp_path / "file"
    with file.open("wb") as stream:
        stream.write(b"before ")
        stream.flush()
        place = tmp_path / folder / str(stream.fileno())
        write_output(place, lambda out: out.write(b"first "))
        (tmp_path / "named").symlink_to(place)  # as /dev/stdout is one to /proc/self/fd/1
        write_output(tmp_path / "named", lambda out: out.write(b"second "))
        stream.write(b"after")
    assert file.read_bytes() == b"before first second after"


def test_output_to_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises((OSError, RuntimeError)):
        write_output(tmp_path / "a", lambda stream: stream.write(b"x"))
