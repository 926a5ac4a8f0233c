"""The fingerprint of a model's local directory: whether it still holds the model whose samples were
stored.

A path alone does not say it: weights overwritten in place (a training run's next checkpoint, a
download repeated) would be served the samples of the old ones. Reading the weights takes minutes,
so of weight files it counts name, size and time of last change; configuration, index and tokenizer
files are read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".msgpack", ".h5", ".npz")
"""Files that hold weights."""
READ_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Files that say how the weights are used: configuration, index, tokenizer, template, the
model's own code.
"""
_READ_SUFFIXES_2 = (*READ_SUFFIXES, ".bpe", ".tokens", ".vocab", ".spm")
# Of JSON and text files those that models are read from, by their names: a run's eval_results.json
# or a README.txt, which other programs leave beside the weights, say nothing about them.
_OF_THE_MODEL = re.compile(
    r"config|token|vocab|merge|index|template|params|tekken|processor|quant|adapter|module|model|bpe",
    re.I,
)
LARGEST_READ = 64 << 20
"""Bytes; a larger file of `READ_SUFFIXES` counts like weights.

Tokenizers of 2025 take up to 35 MB.
"""

# A download of the Hugging Face hub is links to files that are named by the digest of their
# contents.
_CONTENT_NAMED = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def fingerprint(path: str | Path, rules: int = 2) -> str | None:
    """16 hex digits for a directory (or a file) of weights; None where nothing is there, as for a
    hub id.

    Of a directory the files in it and one folder down count, but for hidden ones and for what is
    neither weights nor read with them (README, images). ``rules``: 1 for those by which runs before
    there were others froze theirs. Raises `OSError` for a file that cannot be read.
    """
    place = Path(path)
    if not place.exists():
        return None
    digest = hashlib.sha256()
    files = _files(place, rules) if place.is_dir() else [place]
    for file in files:
        name = file.relative_to(place).as_posix() if place.is_dir() else file.suffix
        digest.update(f"{name}\0{_state(file, rules)}\n".encode())
    return digest.hexdigest()[:16]


def _files(directory: Path, rules: int) -> Iterator[Path]:
    """The files that count, in an order that does not depend on the file system."""
    # No deeper: a path given by mistake may hold a whole file system.
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
    """What a file holds: by its contents, by a name that tells them, or by size and time of
    last change.
    """
    found = file.stat()
    read = READ_SUFFIXES if rules == 1 else _READ_SUFFIXES_2
    if file.suffix in read and found.st_size <= LARGEST_READ:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    target = file.resolve().name
    if file.is_symlink() and _CONTENT_NAMED.fullmatch(target):
        return target
    return f"{found.st_size} {found.st_mtime_ns}"
