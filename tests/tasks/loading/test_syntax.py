"""Syntax trees are made by one thread at a time, whoever makes them: trials of `kind:
in_process` are threads.
"""

from __future__ import annotations

import ast
import sys

import pytest

from agenttts.tasks import user_code
from agenttts.tasks.chatdev import programs as chatdev_programs
from agenttts.tasks.loading.syntax import PARSING, parse
from agenttts.tasks.loading.values import value_of_cell


class Written:
    """A class whose source is looked up."""


def line_of_a_class():
    user_code._line.cache_clear()
    return user_code._line(Written)


@pytest.mark.parametrize(
    "make",
    [
        lambda: parse("x = 1"),
        lambda: chatdev_programs._tree("x = 1"),
        pytest.param(
            line_of_a_class,
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 13), reason="Python 3.13 knows the lines of a class"
            ),
        ),
        lambda: value_of_cell("['a', 'b']"),
    ],
)
def test_a_tree_is_made_under_the_lock(make, monkeypatch):
    held = []
    original = ast.parse

    def watched(*arguments, **more):
        held.append(PARSING._is_owned())
        return original(*arguments, **more)

    monkeypatch.setattr(ast, "parse", watched)
    assert make()
    assert held
    assert all(held)
    assert not PARSING._is_owned()
