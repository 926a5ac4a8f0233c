"""Files out of replies, and judging programs without running them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agenttts.tasks.chatdev.programs import (
    is_complete,
    join,
    main_file,
    parses,
    read_files,
    show_files,
    without_comments,
)

HELLO = "print('hello')\n"


@pytest.mark.parametrize(
    "reply",
    [
        f"```python\n{HELLO}```",
        f"Here it is:\n\nmain.py\n```python\n{HELLO}```\nRun it.",
        f"**main.py**\n```\n{HELLO}```",
        f"`main.py`:\n```py\n{HELLO}```",
        f"```python main.py\n{HELLO}```",
        f'```python title="main.py"\n{HELLO}```',
        f"```main.py\n{HELLO}```",
        f"~~~python\n{HELLO}~~~",
        f"```python\n{HELLO}",  # cut at the token limit
        HELLO,  # no fence at all
        f"{HELLO}```",  # closed, never opened
        f"```bash\npip install x\n```\n```python\n{HELLO}```",
        f"./main.py\n```python\n{HELLO}```",
        f"```python ././main.py\n{HELLO}```",
    ],
)
def test_ways_of_giving_one_file(reply):
    assert read_files(reply) == {"main.py": HELLO}
    assert read_files(reply.replace("\n", "\r\n")) == read_files(reply)


@pytest.mark.parametrize(
    ("item", "indent"),
    [
        ("1. `{name}`\n   ```python", "   "),
        ("- **{name}**\n\n  ```python", "  "),
        ("* File: {name}\n\t```python", "\t"),
        ("10. The file {name}:\n    ~~~python", "    "),
        ("- ```python {name}", "  "),
        ("2) ~~~ {name}", "   "),
        ("`{name}`\n  ```python", ""),  # the fence alone is indented
    ],
)
def test_files_in_a_list_are_read_without_its_indent(item, indent):
    files = {
        "main.py": "from util import f\n\nif f():\n    print('hi')\n",
        "util.py": "def f():\n    if True:\n        return 1\n",
    }
    mark = "~~~" if "~~~" in item else "```"
    reply = ""
    for name, code in files.items():
        shown = "".join(indent * bool(line) + line + "\n" for line in code.splitlines())
        reply += f"{item.format(name=name)}\n{shown}{indent}{mark}\n"
    assert read_files(f"The files are:\n\n{reply}\nRun main.py.") == files
    assert read_files(reply.rstrip("\n").removesuffix(mark).rstrip(" \t")) == files  # cut off


def test_lines_of_a_text_that_are_not_indented_stay_whole():
    reply = "1. main.py\n   ```python\n   MENU = '''\n1. Add\n  2. Show\n'''\n   if MENU:\n       f()\n   ```"
    assert read_files(reply) == {"main.py": "MENU = '''\n1. Add\n2. Show\n'''\nif MENU:\n    f()\n"}


def test_ways_of_writing_a_path_are_one_file():
    reply = f"./lib/a.py\n```python\nx = 1\n```\n```python\n# lib//a.py\n{HELLO}```"
    assert read_files(reply) == {"lib/a.py": f"# lib//a.py\n{HELLO}"}


@pytest.mark.parametrize("path", ["/app/main.py", "../main.py", "x" * 90 + ".py"])
def test_a_comment_with_a_path_outside_names_no_file(path):
    code = f"# {path}\n{HELLO}"
    assert read_files(f"```python\n{code}```") == {"main.py": code}


def test_names_in_a_first_comment_and_several_files():
    reply = (
        "```python\n# file: shop/stock.py\nx = 1\n```\ntext\nmain.py\n```python\nimport shop\n```\n"
        "```sh\npython main.py\n```\nmain.py\n```python\nimport shop.stock\n```"
    )
    assert read_files(reply) == {
        "shop/stock.py": "# file: shop/stock.py\nx = 1\n",
        "main.py": "import shop.stock\n",
    }


@pytest.mark.parametrize(
    "line",
    [
        "Here is the code (Python 3.10):",
        "I fixed the call to game.start():",
        "The program, i.e. the whole of it:",
        "It reads config.json:",
        "3.10",
    ],
)
def test_prose_before_a_block_names_no_file(line):
    assert read_files(f"{line}\n```python\n{HELLO}```") == {"main.py": HELLO}
    assert read_files(f"```python 3.10\n# 3.10\n{HELLO}```") == {"main.py": f"# 3.10\n{HELLO}"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("File: `shop/stock.py`", "shop/stock.py"),
        ("**Filename: data.dat**", "data.dat"),
        ("### 2. `stock.py`:", "stock.py"),
        ("File `stock.py`:", "stock.py"),
        ("filename.py", "filename.py"),
        ("Now the corrected stock.py, which counts:", "stock.py"),
    ],
)
def test_a_line_that_is_a_name_or_speaks_of_a_known_kind(line, name):
    assert read_files(f"{line}\n```python\n{HELLO}```") == {name: HELLO}


def test_blocks_of_other_languages_are_no_python_files():
    assert read_files(f'```json\n{{"a": 1}}\n```\n\n```python\n{HELLO}```') == {"main.py": HELLO}
    reply = (
        f"**main.py**\n```python\n{HELLO}```\n"
        "To run it, use python main.py:\n```bash\npython main.py\n```\nmain.py prints:\n```text\nhello\n```"
    )
    assert read_files(reply) == {"main.py": HELLO}
    assert read_files(reply.replace("bash", "")) == {"main.py": HELLO}
    assert read_files('config.json\n```json\n{"a": 1}\n```') == {"config.json": '{"a": 1}\n'}


@pytest.mark.parametrize("output", ["hi", "5", "(1, 2)", "3 < 4", "[[1, 'a']]"])
def test_a_programs_output_that_parses_as_python_does_not_replace_it(output):
    reply = f"main.py\n```python\n{HELLO}```\nThe output of `main.py`:\n```\n{output}\n```"
    assert read_files(reply) == {"main.py": HELLO}
    changed = reply.replace(f"\n{output}\n", "\nimport shop\nshop.open()\n")
    assert read_files(changed) == {"main.py": "import shop\nshop.open()\n"}


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a/../../evil.py", "x" * 90 + ".py"])  # fmt: skip
def test_paths_that_leave_the_directory_are_not_taken(name):
    files = read_files(f"{name}\n```\nx=1\n```")
    assert name not in files
    assert all(".." not in f.split("/") and not f.startswith("/") for f in files)


@pytest.mark.parametrize(
    "reply", ["", "Sorry, I cannot.", "yes", "```\n```", "```bash\nls\n```", "Here it is:\n```"]
)
def test_no_code_is_no_file(reply):
    assert read_files(reply) == {}


@given(st.text(max_size=300) | st.text(alphabet="`~\n main.py#:python()[]\\/\x00", max_size=300))
@example("```" * 50)
@example("(" * 300)
def test_it_never_raises_and_takes_safe_names_only(text):
    files = read_files(text)
    for name in files:
        assert not name.startswith("/")
        assert ".." not in name.split("/")
    assert isinstance(is_complete(files), bool)
    assert isinstance(without_comments(files), str)
    assert main_file(files) is None or main_file(files) in files
    assert join(files, files) == files


def test_what_is_shown_reads_back():
    files = {"main.py": "import a\na.f()\n", "lib/a.py": "def f():\n    return 1\n"}
    assert read_files(show_files(files)) == files


def test_a_file_that_is_also_a_folder_is_dropped():
    assert join({"a.py": "x"}, {"a.py/b.py": "y"}) == {"a.py/b.py": "y"}


def test_the_main_file():
    assert main_file({"b.py": "", "main.py": ""}) == "main.py"
    assert main_file({"b.py": "", "c.py": "if __name__ == '__main__': f()"}) == "c.py"
    assert main_file({"b.py": ""}) == "b.py"
    assert main_file({"b.txt": ""}) is None


@pytest.mark.parametrize(
    ("code", "complete"),
    [
        ("print(1)", True),
        ("def f():\n    pass", False),
        ("def f():\n    ...", False),
        ("def f():\n    'Says what.'\n    ...", False),
        ("def f():\n    raise NotImplementedError('later')", False),
        ("x = 1  # TODO: more", False),
        ("x = 'TODO list'", True),
        ("bypass = 1", True),
        ("def f(:", False),
        ("x: tuple[int, ...] = ()", True),
    ],
)
def test_completeness(code, complete):
    assert is_complete({"main.py": code}) is complete


def test_nothing_is_not_complete():
    assert not is_complete({})
    assert not parses({"notes.txt": "hello"})


def test_comments_and_docstrings_are_stripped():
    code = '"""Requirement."""\nx = "# kept"  # gone\n\n\ndef f():\n    """Gone\n    too."""\n    return x\n'
    assert without_comments({"main.py": code}) == 'x = "# kept"\ndef f():\n    return x'
    assert without_comments({"main.py": "def f(:\n    # gone\n    x = 1"}) == "def f(:\n    x = 1"


@pytest.mark.parametrize(
    ("code", "stripped"),
    [
        ("x = 1\n\x0c\ny = 2  # gone\n", "x = 1\ny = 2"),
        ("x = 'a\u2028b'\ny = 2  # gone\n", "x = 'a\u2028b'\ny = 2"),
        ("x = 1  # gone\r\ny = 2  # gone\r\n", "x = 1\ny = 2"),
        ("x = 1  # gone\ry = 2  # gone\r", "x = 1\ny = 2"),
        ("x = 'äöü'; '''gone'''\ny = 2\n", "x = 'äöü';\ny = 2"),
        ("'''ä gone\nä gone'''; y = 'ä'\n", "           ; y = 'ä'"),
    ],
)
def test_comments_are_found_by_the_parsers_lines_and_columns(code, stripped):
    assert without_comments({"main.py": code}).strip() == stripped.strip()
