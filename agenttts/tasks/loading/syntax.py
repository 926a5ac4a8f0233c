"""Python source read as such, in a process of several threads."""

from __future__ import annotations

import ast
import threading

PARSING = threading.RLock()
"""To be held while a syntax tree is made, by `inspect.getsourcelines` of a class too.

CPython up to 3.12 keeps the depth of the tree in one place for all threads: of two that make trees
at once, one fails with "SystemError: AST constructor recursion depth mismatch"
(python/cpython#106905).
"""


def parse(source: str) -> ast.Module:
    """`ast.parse`, one thread at a time. Raises what that does."""
    with PARSING:
        return ast.parse(source)
