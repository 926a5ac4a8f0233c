"""The fingerprint of a model's directory: what changes it, and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agenttts.inference.fingerprint import LARGEST_READ, contents_digest, fingerprint

FILES = {
    "config.json": "{}",
    "model.safetensors.index.json": '{"weight_map": {}}',
    "model-00001-of-00001.safetensors": "weights",
    "tokenizer.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "modeling_own.py": "pass",
    "onnx/model.bin": "weights",
}


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def rewrite(file: Path, text: str) -> None:
    """Other contents of the same size and, where they are read, of the same time."""
    state = file.stat()
    file.write_text(text)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_it_is_16_hex_digits_and_stays(model):
    assert len(int(fingerprint(model), 16).to_bytes(8)) == 8
    assert len(fingerprint(model)) == 16
    assert fingerprint(model) == fingerprint(str(model))


@pytest.mark.parametrize("name", [n for n in FILES if not n.endswith((".safetensors", ".bin"))])
def test_small_files_are_read(model, name):
    before = fingerprint(model)
    rewrite(model / name, "x" * len(FILES[name]))
    assert fingerprint(model) != before


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith((".safetensors", ".bin"))])
def test_weights_overwritten_in_place_change_it(model, name):
    before = fingerprint(model)
    file = model / name
    later = file.stat().st_mtime_ns + 1_000_000
    file.write_text("WEIGHTS")
    os.utime(file, ns=(later, later))
    other = fingerprint(model)
    assert other != before
    rewrite(file, "longer weights")
    assert fingerprint(model) not in (before, other)


def test_a_file_more_or_less_or_under_another_name_changes_it(model):
    seen = {fingerprint(model)}
    (model / "model-00002-of-00002.safetensors").write_text("")
    seen.add(fingerprint(model))
    (model / "model-00002-of-00002.safetensors").rename(model / "other.safetensors")
    seen.add(fingerprint(model))
    (model / "other.safetensors").unlink()
    (model / "tokenizer.json").unlink()
    seen.add(fingerprint(model))
    assert len(seen) == 4


def test_what_the_model_is_not_made_of_does_not(model):
    before = fingerprint(model)
    for name in ("README.md", "picture.png", ".gitattributes", ".cache/download.json", "a/b/deep.bin"):  # fmt: skip
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("x")
    assert fingerprint(model) == before


def test_where_the_directory_lies_does_not(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")  # with the times of the files
    assert fingerprint(tmp_path / "copy") == fingerprint(model)


def test_weights_named_by_their_contents_are_told_by_that_name(model, tmp_path):
    """As a download of the hub lies: the same weights fetched again are the same."""
    file = model / "model-00001-of-00001.safetensors"
    blobs = tmp_path / "blobs"
    blobs.mkdir()

    def download(digest: str) -> str:
        (blobs / digest).write_text("weights")
        file.unlink()
        file.symlink_to(blobs / digest)
        return fingerprint(model)

    first = download("a" * 64)
    os.utime(blobs / ("a" * 64), (1, 1))
    assert fingerprint(model) == first
    assert download("b" * 64) != first


def test_one_file_of_weights_has_one_too(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_text("weights")
    before = fingerprint(file)
    os.utime(file, (1, 1))
    assert before != fingerprint(file)


def test_where_nothing_is_there_is_none(tmp_path):
    for digest in (fingerprint, contents_digest):
        assert digest("owner/name") is None
        assert digest(tmp_path / "none") is None


def test_a_copy_with_other_times_holds_the_same(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy", copy_function=shutil.copyfile)
    for file in (tmp_path / "copy").rglob("*.*"):
        os.utime(file, (1, 1))
    assert fingerprint(tmp_path / "copy") != fingerprint(model)
    assert contents_digest(tmp_path / "copy") == contents_digest(str(model))
    # As a download of the hub lies, with links to the files.
    weights = tmp_path / "copy" / "model-00001-of-00001.safetensors"
    weights.rename(tmp_path / ("a" * 64))
    weights.symlink_to(tmp_path / ("a" * 64))
    assert contents_digest(tmp_path / "copy") == contents_digest(model)


@pytest.mark.parametrize("name", FILES)
def test_other_contents_are_not_the_same(model, name):
    before = contents_digest(model)
    rewrite(model / name, "x" * len(FILES[name]))
    assert contents_digest(model) != before
    (model / name).unlink()
    assert contents_digest(model) not in (before, None)


@pytest.mark.parametrize("changed", [0, 3_100_000, 199_999_999])
def test_weights_that_change_all_over_are_seen_in_parts(tmp_path, changed):
    """The file is sparse; a changed tensor is longer than the distance of the parts."""
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.truncate(200_000_000)
    before = contents_digest(tmp_path)
    with file.open("r+b") as stream:
        start = max(0, min(changed, 200_000_000 - 4_000_000))
        stream.seek(start)
        stream.write(b"x" * 4_000_000)
    assert contents_digest(tmp_path) != before


def bytes_read() -> int:
    """The bytes that this process has read, also of what lies in memory (proc_pid_io(5))."""
    [line] = [s for s in Path("/proc/self/io").read_text().splitlines() if s.startswith("rchar: ")]
    return int(line.removeprefix("rchar: "))


@pytest.mark.parametrize("digest", [fingerprint, contents_digest])
def test_gigabytes_are_not_read(model, digest):
    for name in ("model-00001-of-00001.safetensors", "huge.json"):
        with (model / name).open("wb") as stream:
            stream.truncate(200 * LARGEST_READ)  # a sparse file: 12.8 GB to whoever reads it
    before = bytes_read()
    assert digest(model)
    assert bytes_read() - before < 10 * LARGEST_READ


@pytest.mark.parametrize(
    ("name", "counts", "counted"),
    [
        ("eval_results.json", False, True),
        ("trainer_state.json", False, True),
        ("LICENSE.txt", False, True),
        ("vocab.bpe", True, False),
        ("added.tokens", True, False),
        ("merges.txt", True, True),
        ("generation_config.json", True, True),
        ("special_tokens_map.json", True, True),
        ("tekken.json", True, True),
        ("params.json", True, True),
    ],
)
def test_what_lies_beside_the_weights_counts_if_a_model_is_read_from_it(model, name, counts, counted):  # fmt: skip
    before, earlier = fingerprint(model), fingerprint(model, rules=1)
    (model / name).write_text("{}")
    assert (fingerprint(model) != before) is counts
    assert (fingerprint(model, rules=1) != earlier) is counted


def test_names_may_hold_bytes_that_are_no_utf_8(tmp_path):
    found = set()
    for name in (b"a\xff.safetensors", b"a\xfe.safetensors", "ä.safetensors".encode()):
        place = tmp_path / str(len(found))
        place.mkdir()
        (place / os.fsdecode(name)).write_bytes(b"weights")
        os.utime(place / os.fsdecode(name), ns=(0, 0))
        found.add(fingerprint(place))
    assert len(found) == 3
