"""Read a program's files from a model's reply, and check them without a run."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from pathlib import PurePosixPath

from agenttts.tasks.loading.syntax import parse

MAIN = "main.py"
_MOST_FILES = 20
_LONGEST_FILE = 100_000
_LONGEST_NAME = 80

# ```LANGUAGE NAME, at the start of a line or of an item of a list. The closing fence is at least as
# long.
_FENCE = re.compile(
    r"^(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?)(?P<mark>`{3,}|~{3,})[ \t]*"
    r"(?P<info>[^\n`]*)$",
    re.M,
)
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.[A-Za-z][A-Za-z0-9]{0,7}", re.ASCII)
# What may surround a name that has a line to itself: a heading, a list's number, bold, back-ticks,
# "File:".
_AROUND = " \t#*:`\"'>-"
_LABEL = re.compile(r"^(?:\d+[.)]\s+)?(?:file\s?(?:name)?[\s:*`]+)?", re.I)
_EXTENSIONS = (
    ".py", ".txt", ".json", ".md", ".csv", ".html", ".css", ".js", ".ini", ".toml", ".yaml", ".yml",
)  # fmt: skip
_COMMENT_NAME = re.compile(
    r"^\s*#\s*(?:file(?:name)?\s*:\s*)?([\w./-]+\.[A-Za-z0-9]{1,8})\s*$", re.I | re.ASCII
)
_STATEMENT = re.compile(
    r"^(?:def |class |import |from \w+ import|for |while |if |print\(|\w+ = )", re.M
)
_PYTHON = ("python", "py", "python3")
# Languages of blocks that show a program's use, its output or its data. Such a block is not the
# Python file that the text names.
_OTHER_LANGUAGES = (
    "sh",
    "bash",
    "shell",
    "zsh",
    "console",
    "cmd",
    "bat",
    "powershell",
    "terminal",
    "text",
    "txt",
    "plaintext",
    "output",
    "diff",
    "json",
    "yaml",
    "toml",
    "ini",
    "csv",
    "html",
    "css",
    "javascript",
    "js",
    "markdown",
    "md",
)
_PLACEHOLDER = re.compile(r"\b(?:TODO|FIXME)\b", re.I)


def read_files(reply: str) -> dict[str, str]:
    """Return the files of a reply by name, in order; empty if it has no code.

    Never raises. The rules are:

    - A file is a fenced block, without the indent of its fence. Its name stands in the line before
      it, on the fence itself, or in a comment on its first line.
    - The first block without a name is ``main.py`` if it is Python or gives no language.
    - A block of another language (how to start the program, what it prints) is not a Python file,
      whatever the line before it names.
    - A block that is not closed (the reply was cut) extends to the end.
    - A reply without any fence is ``main.py`` as a whole if it reads as Python.
    - Paths that leave the program's directory are dropped; in a comment they are no names.
    - If two files have the same name, the last counts.
    """
    reply = reply.replace("\r\n", "\n")
    files: dict[str, str] = {}
    for language, named, code in _blocks(reply):
        name = named or _commented_name(code)
        if name is None:
            if language not in ("", *_PYTHON) or MAIN in files:
                continue
            name = MAIN
        name = str(PurePosixPath(name))  # "./main.py" is main.py
        if name.endswith(".py") and (
            language in _OTHER_LANGUAGES
            # A block without a language may be a command or an output. It does not replace a file
            # unless it reads as Python.
            or (name in files and language not in _PYTHON and not _reads_as_code(code))
        ):
            continue
        if _is_safe(name) and code.strip() and len(files) < _MOST_FILES:
            files[name] = code[:_LONGEST_FILE]
    if not files and not _FENCE.search(reply) and _reads_as_code(reply):
        files[MAIN] = reply.strip("\n")[:_LONGEST_FILE] + "\n"
    return join(files, {})


def join(earlier: Mapping[str, str], changed: Mapping[str, str]) -> dict[str, str]:
    """Return the earlier files overridden by the changed ones.

    A file is dropped if another one needs its path as a folder.
    """
    files = {**earlier, **changed}
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents}
    return {name: code for name, code in files.items() if str(PurePosixPath(name)) not in folders}


def main_file(files: Mapping[str, str]) -> str | None:
    """Return the file to start.

    It is ``main.py``, else the file that runs as a script, else the first Python file.
    """
    scripts = [name for name in files if name.endswith(".py")]
    if MAIN in files or not scripts:
        return MAIN if MAIN in files else None
    return next((n for n in scripts if re.search(r"__name__\s*==", files[n])), scripts[0])


def show_files(files: Mapping[str, str]) -> str:
    """Return a program in the form of prompts and expected replies."""
    return "\n".join(f"{name}\n```python\n{code.rstrip()}\n```" for name, code in files.items())


def parses(files: Mapping[str, str]) -> bool:
    """Return whether there is a Python file and all Python files can be parsed."""
    sources = _sources(files)
    return bool(sources) and all(_tree(source) is not None for source in sources)


def is_complete(files: Mapping[str, str]) -> bool:
    """Return whether the program is Python with nothing left to fill in.

    It then has no ``pass``, no body of only ``...``, no ``NotImplementedError`` raised, and no TODO
    or FIXME in a comment.
    """
    if not parses(files):
        return False
    return not any(_has_placeholder(source) for source in _sources(files))


def without_comments(files: Mapping[str, str]) -> str:
    """Return the program's text without comments and docstrings.

    These could merely repeat the requirement.
    """
    return "\n".join(text for source in _sources(files) if (text := _strip(source)))


def _blocks(reply: str) -> list[tuple[str, str | None, str]]:
    """Return (language, name or None, code) of every fenced block."""
    fences = list(_FENCE.finditer(reply))
    if len(fences) == 1 and not reply[fences[0].end() :].strip():
        # Closed and never opened: the model took the prompt's opening fence for the start of its
        # reply.
        code = reply[: fences[0].start()]
        return [("", None, code)] if _STATEMENT.search(code) else []
    blocks = []
    position = 0
    while (fence := _FENCE.search(reply, position)) is not None:
        before = reply[position : fence.start()].rstrip().rpartition("\n")[2]
        mark = fence["mark"]
        close = re.compile(rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$", re.M)
        end = close.search(reply, fence.end())
        code = reply[fence.end() + 1 : end.start() if end else len(reply)]
        code = _unindented(code, len(fence["indent"]))
        info = fence["info"].strip()
        language = "" if _NAME.fullmatch(info) else re.split(r"[\s:{,]", info)[0].lower()
        named = _name_in(info, language) or _name_in(before, language)
        blocks.append((language, named, code))
        position = end.end() if end else len(reply)
    return blocks


def _unindented(code: str, most: int) -> str:
    """Remove the indent of a block's first line from all lines.

    At most ``most`` characters are removed.

    A line with less of it loses what it has.
    """
    first = re.search(r"^([ \t]*)\S", code, re.M)
    width = min(most, len(first[1])) if first else 0
    return re.sub(rf"^[ \t]{{1,{width}}}", "", code, flags=re.M) if width else code


def _name_in(text: str, language: str) -> str | None:
    """Return the file name that a line is or mentions.

    A name that the line only mentions must have a known extension, unlike "i.e" and "3.10".
    """
    bare = _LABEL.sub("", text.strip(_AROUND)).strip(_AROUND)
    if _NAME.fullmatch(bare):
        return bare
    extensions = (".py",) if language in _PYTHON else _EXTENSIONS
    return next((name for name in _NAME.findall(text) if _has_extension(name, extensions)), None)


def _commented_name(code: str) -> str | None:
    match = _COMMENT_NAME.match(code.lstrip("\n").partition("\n")[0])
    if match and _has_extension(match[1], _EXTENSIONS) and _is_safe(match[1]):
        return match[1]
    return None


def _has_extension(name: str, extensions: tuple[str, ...]) -> bool:
    return name.lower().endswith(extensions)


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and len(name) <= _LONGEST_NAME


def _reads_as_code(text: str) -> bool:
    tree = _tree(text)
    # Prose may parse ("yes", "none"). A program defines, imports, assigns or calls something.
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.Call)
    return tree is not None and any(isinstance(node, kinds) for node in ast.walk(tree))


def _sources(files: Mapping[str, str]) -> list[str]:
    return [code for name, code in files.items() if name.endswith(".py")]


def _tree(source: str) -> ast.Module | None:
    try:
        return parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the errors of compile()
        return None


def _has_placeholder(source: str) -> bool:
    tree = _tree(source)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Raise) and _not_implemented(node)):
            return True
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _only_dots(node.body):
            return True
    return any(_PLACEHOLDER.search(comment) for comment in _comments(source))


def _not_implemented(node: ast.Raise) -> bool:
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def _only_dots(body: list[ast.stmt]) -> bool:
    """Return whether a body has nothing but ``...`` and a docstring."""
    return all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in body)


def _comments(source: str) -> list[str]:
    return [token.string for token in _tokens(source) if token.type == tokenize.COMMENT]


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            tokens.append(token)
    except (tokenize.TokenError, SyntaxError):  # a cut file: the tokens before the cut count
        return tokens
    return tokens


def _strip(source: str) -> str:
    # The line ends of the tokenizer and the parser. splitlines() would also split at form feeds and
    # U+2028.
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    lines = source.split("\n")
    for token in _tokens(source):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    # The tree's columns count bytes.
    encoded = [line.encode("utf-8", "surrogatepass") for line in lines]
    tree = _tree(source)
    for node in ast.walk(tree) if tree else ():
        # A text that stands alone does nothing: it is a docstring or serves as a comment.
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            _blank(encoded, node.value)
    stripped = (line.decode("utf-8", "surrogatepass").rstrip() for line in encoded)
    return "\n".join(line for line in stripped if line)


def _blank(lines: list[bytes], node: ast.expr) -> None:
    """Put spaces in place of an expression; later columns of its line stay right."""
    last = node.lineno if node.end_lineno is None else node.end_lineno
    for row in range(node.lineno - 1, last):
        line = lines[row]
        begin = node.col_offset if row == node.lineno - 1 else 0
        end = node.end_col_offset if row == last - 1 and node.end_col_offset else len(line)
        lines[row] = line[:begin] + b" " * (end - begin) + line[end:]
