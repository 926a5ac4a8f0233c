"""The pages of the documentation, and what they show: commands, YAML."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
    and page.relative_to(ROOT).parts[:2] != ("results", "demo")
)
_BLOCK = re.compile(r"^```(\w*)(?: [\w./-]+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in a language."""
    return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def codes(page: Path) -> list[str]:
    """The codes within a page's lines, without those of blocks."""
    return _CODE.findall(_BLOCK.sub("", page.read_text()))


def console(page: Path) -> list[list[str]]:
    """The words of each command that a page's console blocks show, without the comments."""
    lines = "".join(blocks(page, "console") + blocks(page, "")).splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [shlex.split(command, comments=True) for command in commands]


def inline(page: Path) -> list[list[str]]:
    """The words of each whole command within a page's lines: those without brackets and dots."""
    return [
        shlex.split(code)
        for code in codes(page)
        if code.startswith("agenttts-hpc ") and not re.search(r"[\[\]…]|\.\.\.", code)
    ]
