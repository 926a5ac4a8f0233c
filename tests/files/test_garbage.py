"""Code that runs without searches for garbage, and what later searches leave out."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc
from agenttts.files.garbage import without_searches
(gc.enable if {before} else gc.disable)()
try:
    with without_searches(freeze={freeze}):
        print(gc.isenabled())
        {inside}
except ValueError:
    pass
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


@pytest.mark.processes
@pytest.mark.parametrize("inside", ["pass", "raise ValueError"])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_there_are_none_inside_and_as_many_as_before_afterwards(before, freeze, inside):
    code = PROGRAM.format(before=before, freeze=freeze, inside=inside)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"False\n{before} {freeze}\n"
