"""Parse Python source in a process with several threads."""

from __future__ import annotations

import ast
import threading

PARSING = threading.RLock()
"""The lock to hold while a syntax tree is made.

CPython up to 3.12 keeps the depth of the tree in one place for all threads, and its
`inspect.getsourcelines` makes a tree of a class's file, too. If two threads make trees at once, one
fails with "SystemError: AST constructor recursion depth mismatch" (python/cpython#106905).
"""


def parse(source: str) -> ast.Module:
    """Call `ast.parse`, one thread at a time; raises the same errors."""
    with PARSING:
        return ast.parse(source)
