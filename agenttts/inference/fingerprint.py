"""The fingerprint of a model's local directory: whether it still holds the model whose samples were stored.

A path alone does not say it: weights overwritten in place (a training run's next checkpoint, a download repeated) would
be served the samples of the old ones. Reading the weights takes minutes, so of weight files it counts name, size and
time of last change; configuration, index and tokenizer files are read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".msgpack", ".h5", ".npz")
"""Files that hold weights."""
READ_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Files that say how the weights are used: configuration, index, tokenizer, template, the model's own code."""
LARGEST_READ = 64 << 20
"""Bytes; a larger file of `READ_SUFFIXES` counts like weights. Tokenizers of 2025 take up to 35 MB."""

# A download of the Hugging Face hub is links to files that are named by the digest of their contents.
_CONTENT_NAMED = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def fingerprint(path: str | Path) -> str | None:
    """16 hex digits for a directory (or a file) of weights; None where nothing is there, as for a hub id.

    Of a directory the files in it and one folder down count, but for hidden ones and for what is neither weights nor read
    with them (README, images). Raises `OSError` for a file that cannot be read.
    """
    place = Path(path)
    if not place.exists():
        return None
    digest = hashlib.sha256()
    files = _files(place) if place.is_dir() else [place]
    for file in files:
        name = file.relative_to(place).as_posix() if place.is_dir() else file.suffix
        digest.update(f"{name}\0{_state(file)}\n".encode())
    return digest.hexdigest()[:16]


def _files(directory: Path) -> Iterator[Path]:
    """The files that count, in an order that does not depend on the file system."""
    # No deeper: a path given by mistake may hold a whole file system.
    for file in sorted((*directory.glob("*"), *directory.glob("*/*"))):
        hidden = any(part.startswith(".") for part in file.relative_to(directory).parts)
        if not hidden and file.suffix in (*WEIGHT_SUFFIXES, *READ_SUFFIXES) and file.is_file():
            yield file


def _state(file: Path) -> str:
    """What a file holds: by its contents, by a name that tells them, or by size and time of last change."""
    found = file.stat()
    if file.suffix in READ_SUFFIXES and found.st_size <= LARGEST_READ:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    target = file.resolve().name
    if file.is_symlink() and _CONTENT_NAMED.fullmatch(target):
        return target
    return f"{found.st_size} {found.st_mtime_ns}"
