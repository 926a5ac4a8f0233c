"""What engines compile is kept between jobs, whatever happens to the archive, however many jobs
write it.
"""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from agenttts.dispatch.node.compile_cache import archive_path, publish, restore
from agenttts.dispatch.node.scratch import CompileCache, host_caches, scratch_directory


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / "vllm").mkdir(parents=True, exist_ok=True)
        (folder / "vllm" / name).write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_one_job_compiles_the_next_one_finds(tmp_path):
    cache = CompileCache(tmp_path / "cache", "0123456789abcdef0123")
    with scratch_directory(cache) as scratch:
        assert (scratch / "home").is_dir()
        assert contents(scratch / "cache") == {}
        write(scratch / "cache", a="1")
    with scratch_directory(cache) as again:
        assert again != scratch
        assert contents(again / "cache") == {"a": "1"}
    assert not scratch.exists()
    with scratch_directory(CompileCache(cache.directory, "another image")) as other:
        assert contents(other / "cache") == {}


def test_a_job_that_adds_nothing_or_fails_writes_nothing(tmp_path):
    cache = CompileCache(tmp_path / "cache", "image")
    archive = archive_path(cache.directory, cache.image)
    with scratch_directory(cache) as scratch:
        write(scratch / "cache", a="1")
    before = archive.stat().st_mtime_ns
    with scratch_directory(cache):
        pass

    def fail() -> None:
        with scratch_directory(cache) as scratch:
            write(scratch / "cache", b="2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert archive.stat().st_mtime_ns == before
    assert [path.name for path in cache.directory.iterdir()] == [archive.name]


def test_without_a_cache_there_is_still_a_home_and_an_empty_folder():
    with scratch_directory(None) as scratch:
        assert sorted(path.name for path in scratch.iterdir()) == ["cache", "home"]


@pytest.mark.parametrize("damage", [b"", b"no archive at all", None], ids=["empty", "text", "cut"])
def test_a_damaged_archive_is_replaced(tmp_path, damage):
    archive = tmp_path / "a.tar"
    publish(write(tmp_path / "one", a="1" * 20_000), archive)
    archive.write_bytes(archive.read_bytes()[:9_000] if damage is None else damage)
    restore(archive, tmp_path / "two")
    assert contents(tmp_path / "two") == {}
    assert publish(write(tmp_path / "two", b="2"), archive)
    restore(archive, tmp_path / "three")
    assert contents(tmp_path / "three") == {"b": "2"}


@pytest.fixture(params=["this", "3.11.2"])
def python(request, monkeypatch):
    """This Python, and one whose `tarfile` has no filters, such as that of Debian 12."""
    extract = tarfile.TarFile.extractall

    def without_filters(
        tar: tarfile.TarFile, path: Path, members: Iterable[tarfile.TarInfo] | None = None
    ) -> None:
        extract(tar, path, members, filter="fully_trusted")

    if request.param == "3.11.2":
        monkeypatch.setattr(tarfile.TarFile, "extractall", without_filters)
        monkeypatch.delattr(tarfile, "data_filter")
    return request.param


def test_every_python_finds_what_was_compiled(tmp_path, python):
    archive = tmp_path / "a.tar"
    publish(write(tmp_path / "one", a="1", b="2"), archive)
    restore(archive, tmp_path / "two")
    assert contents(tmp_path / "two") == {"a": "1", "b": "2"}


def test_what_lies_outside_of_the_folder_is_never_written(tmp_path, python):
    archive = tmp_path / "a.tar"
    (tmp_path / "evil").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "evil", "../escaped")
        tar.add(tmp_path / "link", "link")
        tar.add(tmp_path / "evil", "link/escaped")
        absolute = tarfile.TarInfo(str(tmp_path / "absolute"))
        tar.addfile(absolute)
    restore(archive, tmp_path / "in" / "cache")
    assert not (tmp_path / "in" / "escaped").exists()
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "absolute").exists()


def test_jobs_that_start_and_end_together_leave_one_whole_archive(tmp_path):
    archive = tmp_path / "cache" / "a.tar"
    start = threading.Barrier(12)

    def job(number: int) -> None:
        folder = tmp_path / f"job{number}"
        restore(archive, folder)
        write(folder, **{f"f{number}": str(number) * 1000})
        start.wait()
        publish(folder, archive)

    jobs = [threading.Thread(target=job, args=(number,)) for number in range(12)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert [path.name for path in archive.parent.iterdir()] == ["a.tar"]
    restore(archive, tmp_path / "after")
    found = contents(tmp_path / "after")
    assert found
    assert all(text == name[1:] * 1000 for name, text in found.items())


def test_a_directory_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert not publish(write(tmp_path / "one", a="1"), tmp_path / "file" / "a.tar")
    assert "was not written" in caplog.text


def test_other_versions_of_the_host_s_packages_have_another_archive(tmp_path, monkeypatch):
    names = set()
    for version in ("1", "2", "2"):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        names.add(archive_path(tmp_path, "").name)
    assert len(names) == 2
    assert all("-host-" in name for name in names)


MIG_DEVICES = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa-1)
  MIG 3g.40gb     Device  0: (UUID: MIG-cccc-3)
  MIG 1g.10gb     Device  1: (UUID: MIG-dddd-4)
"""


@pytest.mark.parametrize(
    ("granted", "ending"),
    [
        ("MIG-cccc-3", "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb-image.tar"),
        ("MIG-dddd-4", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb-image.tar"),
        ("MIG-GPU-aaaa-1/1/0", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb-MIG-3g.40gb-image.tar"),
        ("GPU-aaaa-1", "NVIDIA-A100-SXM4-80GB-image.tar"),
        ("0", "NVIDIA-A100-SXM4-80GB-image.tar"),
    ],
)
def test_mig_devices_of_another_type_have_another_archive(granted, ending, tmp_path, monkeypatch):
    """vLLM keeps how much memory a model leaves, and takes a device for its whole GPU."""
    script = tmp_path / "nvidia-smi"
    name = "NVIDIA A100-SXM4-80GB"
    script.write_text(
        f"#!/bin/sh\n[ $1 != -L ] && echo '{name}' || cat <<'END'\n{MIG_DEVICES}END\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", granted)
    assert archive_path(Path("/cache"), "image").name == ending


@pytest.mark.parametrize(
    ("noexec", "needed", "says"),
    [(False, 1, ""), (True, 1, "is mounted noexec"), (False, 10**18, "GB are needed")],
)
def test_code_that_could_not_be_used_is_not_put_into_scratch(
    tmp_path, monkeypatch, caplog, noexec, needed, says
):
    monkeypatch.setattr("agenttts.dispatch.node.scratch.is_noexec", lambda _: noexec)
    monkeypatch.setattr("agenttts.dispatch.node.scratch.SCRATCH_BYTES", needed)
    assert bool(host_caches(tmp_path)) is not bool(says)
    assert says in caplog.text
