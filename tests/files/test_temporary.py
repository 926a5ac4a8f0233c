"""The directory for temporary files, and why there is none."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agenttts.files.temporary import executable_directory, is_noexec, temporary_directory
from agenttts.files.trouble import passing_trouble
from tests.support.full_disk import full_disk


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)


@contextmanager
def no_more_open_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("named", ["", "there", "not there", "a file"])
def test_a_variable_names_it_if_it_can_be_written(tmp_path, monkeypatch, named):
    (tmp_path / "there").mkdir()
    (tmp_path / "a file").touch()
    if named:
        monkeypatch.setenv("TMPDIR", str(tmp_path / named))
    expected = tmp_path / "there" if named == "there" else Path("/tmp").resolve()
    assert temporary_directory() == expected


def test_the_working_directory_is_one_only_if_a_variable_names_it(tmp_path, monkeypatch):
    """It may be on a shared file system. Python takes it if no other can be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        full_disk(0),
        pytest.raises(OSError, match="no directory for temporary files can be written: /tmp"),
    ):
        temporary_directory()
    assert temporary_directory() == Path("/tmp").resolve(), (
        "Python looks once; the disk is free now"
    )
    monkeypatch.setenv("TMP", str(tmp_path))
    assert temporary_directory() == tmp_path


def test_the_error_says_what_keeps_each_directory_from_being_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not there"))
    with full_disk(0), pytest.raises(OSError) as caught:  # noqa: PT011  # the text is below
        temporary_directory()
    said = str(caught.value)
    assert f"{tmp_path / 'not there'} (No such file or directory), " in said
    assert "/tmp (File too large)" in said
    assert said.endswith("; TMPDIR names another one")


def test_trouble_that_may_pass_is_told_from_a_machine_without_a_place():
    """Python's error is of a missing file, at which a trial failed for good."""
    with no_more_open_files(), pytest.raises(OSError) as caught:  # noqa: PT011  # the number is below
        temporary_directory()
    assert caught.value.errno == errno.EMFILE
    assert passing_trouble(caught.value)


@pytest.mark.parametrize("named", ["", "here", "."])
def test_a_working_directory_that_was_removed_is_no_trouble(tmp_path, monkeypatch, named):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    if named:
        monkeypatch.setenv("TMPDIR", named)
    assert temporary_directory() == Path("/tmp").resolve()
    monkeypatch.setattr(tempfile, "tempdir", None)
    with full_disk(0), pytest.raises(OSError) as caught:  # noqa: PT011  # the text is below
        temporary_directory()
    assert (f": {named} (No such file or directory), /tmp" in str(caught.value)) is bool(named)
    monkeypatch.setenv("TMP", str(tmp_path))
    assert temporary_directory() == tmp_path, "the next one that is named"


def test_a_circle_of_links_is_no_directory(tmp_path, monkeypatch):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "a"))
    assert temporary_directory() == Path("/tmp").resolve()


@pytest.mark.processes
def test_where_programs_cannot_be_executed(tmp_path):
    place = shlex.quote(str(tmp_path))
    code = f"from {is_noexec.__module__} import *; print(is_noexec(Path({str(tmp_path)!r})))"
    script = f"mount -t tmpfs -o noexec none {place}; {sys.executable} -c {shlex.quote(code)}"
    done = subprocess.run(["unshare", "-rm", "sh", "-ec", script], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert not is_noexec(Path("/usr"))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("noexec", "expected"),
    [((), "TMPDIR"), (("TMPDIR",), "/tmp"), (("TMPDIR", "/tmp"), "/var/tmp"), (("TMPDIR", "/tmp", "/var/tmp", "/usr/tmp"), "TMPDIR")],
)  # fmt: skip
def test_code_is_compiled_where_it_can_be_loaded(tmp_path, noexec, expected):
    named = {"TMPDIR": str(tmp_path)}
    mounted = [named.get(place, place) for place in noexec]
    code = f"""
import subprocess
from pathlib import Path
from {executable_directory.__module__} import executable_directory
for place in {mounted!r}:
    if Path(place).exists():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", place], check=True)
        Path({str(tmp_path)!r}).mkdir(parents=True, exist_ok=True)
print(executable_directory(1))
"""
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", code],
        env={**os.environ, **named},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{Path(named.get(expected, expected)).resolve()}\n", done.stderr
