"""The files that the tutorial shows, for every test that runs its task."""

from __future__ import annotations

import re
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "docs" / "how-to" / "own-task.md"
_BLOCK = re.compile(r"^```(\w+)(?: ([\w.-]+))?\n(.*?)^```$", re.M | re.S)


def blocks() -> list[tuple[str, str, str]]:
    """(language, file name or "", text)."""
    return _BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))


def write_files(folder: Path) -> Path:
    """Write its files into ``folder``, and return that."""
    for _, name, text in blocks():
        if name:
            (folder / name).write_text(text)
    return folder
