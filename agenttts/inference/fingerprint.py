"""The fingerprint of a model's local directory, and a digest of what it holds.

The fingerprint tells whether the directory still holds the model whose samples were stored. The
path alone does not: after weights are overwritten in place (the next checkpoint of a training run,
a repeated download), the stored samples would be those of the old weights. Reading the weights
takes minutes. So a weight file counts by name, size and time of last change. Configuration, index
and tokenizer files are read.

Two copies of a model have different times. Whether two runs have the same model is told by the
digest: of a weight file, its size and parts of it are read. No sample is addressed by it, because a
change between these parts would not be seen.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".msgpack", ".h5", ".npz")
"""Files that hold weights."""
READ_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Files that say how the weights are used.

They are configuration, index, tokenizer, template and the model's own code.
"""
_READ_SUFFIXES_2 = (*READ_SUFFIXES, ".bpe", ".tokens", ".vocab", ".spm")
# Names of the JSON and text files that models are read from. Other programs leave files such as a
# run's eval_results.json or a README.txt beside the weights; they do not describe the model.
_OF_THE_MODEL = re.compile(
    r"config|token|vocab|merge|index|template|params|tekken|processor|quant|adapter|module|model|bpe",
    re.I,
)
LARGEST_READ = 64 << 20
"""Bytes; a larger file of `READ_SUFFIXES` counts like weights.

Tokenizers of 2025 take up to 35 MB.
"""

_PARTS = 64
"""Parts of a weight file that a digest reads, at equal distances.

The shards of checkpoints have up to 5 GB, so a part is read every 80 MB: of each large tensor.
"""
_PART_BYTES = 16 << 10

# A download of the Hugging Face hub consists of links to files that are named by the digest of
# their contents.
_CONTENT_NAMED = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def fingerprint(path: str | Path, rules: int = 2) -> str | None:
    """Return the fingerprint of a directory (or a file) of weights: 16 hex digits.

    In a directory the files in it and one folder down count. Hidden files do not count, and neither
    do files that are not weights and not read with them (README, images).

    Args:
        path: The directory or file.
        rules: The version of the rules; 1 for runs that froze their fingerprints before version 2.

    Returns:
        The fingerprint; None if the path does not exist, as for a hub id.

    Raises:
        OSError: A file cannot be read.
    """
    return _digest(path, rules, partial(_state, rules=rules))


def contents_digest(path: str | Path) -> str | None:
    """Return a digest of what a directory (or a file) of weights holds: 16 hex digits.

    The files are those of `fingerprint`. Copies of a model have the same digest, wherever they are
    and whenever they were written. At most 1 MB of a weight file is read.

    Raises:
        OSError: A file cannot be read.
    """
    return _digest(path, 2, _contents)


def _digest(path: str | Path, rules: int, of_file: Callable[[Path], str]) -> str | None:
    """Return a digest of files: of their names and what ``of_file`` returns."""
    place = Path(path)
    if not place.exists():
        return None
    digest = hashlib.sha256()
    for file in _files(place, rules) if place.is_dir() else [place]:
        name = file.relative_to(place).as_posix() if place.is_dir() else file.suffix
        # A file's name may hold bytes that are not UTF-8.
        digest.update(f"{name}\0{of_file(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _contents(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb", buffering=0) as stream:
        if size <= _PARTS * _PART_BYTES or (
            file.suffix in _READ_SUFFIXES_2 and size <= LARGEST_READ
        ):
            digest.update(stream.read())
            return digest.hexdigest()
        # Without it, 128 kB are read for each part.
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for number in range(_PARTS):
            stream.seek((size - _PART_BYTES) * number // (_PARTS - 1))
            digest.update(stream.read(_PART_BYTES))
    return digest.hexdigest()


def _files(directory: Path, rules: int) -> Iterator[Path]:
    """Return the files that count, in an order independent of the file system."""
    # No deeper, because a path given by mistake may hold a whole file system.
    for file in sorted((*directory.glob("*"), *directory.glob("*/*"))):
        hidden = any(part.startswith(".") for part in file.relative_to(directory).parts)
        if not hidden and _counts(file, rules) and file.is_file():
            yield file


def _counts(file: Path, rules: int) -> bool:
    if file.suffix in WEIGHT_SUFFIXES:
        return True
    if rules == 1:
        return file.suffix in READ_SUFFIXES
    named = file.suffix not in (".json", ".txt") or _OF_THE_MODEL.search(file.stem) is not None
    return named and file.suffix in _READ_SUFFIXES_2


def _state(file: Path, rules: int) -> str:
    """Return what identifies the content of a file.

    It is the content, a name that is a digest of it, or size and time of last change.
    """
    found = file.stat()
    read = READ_SUFFIXES if rules == 1 else _READ_SUFFIXES_2
    if file.suffix in read and found.st_size <= LARGEST_READ:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    target = file.resolve().name
    if file.is_symlink() and _CONTENT_NAMED.fullmatch(target):
        return target
    return f"{found.st_size} {found.st_mtime_ns}"
