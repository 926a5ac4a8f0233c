"""Python's searches for garbage, which find nothing while modules are imported."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_searches(*, freeze: bool = False) -> Iterator[None]:
    """Search for no garbage meanwhile.

    Searches while vLLM was imported, and those that looked at all of it again while a model was
    loaded, took 3.5 of 12.5 s of processor time of a start (vLLM 0.32 on a CPU, 2026-11).

    Args:
        freeze: Whether all later searches leave out what has been made up to the end. Garbage among
            it is never freed. It is for importing libraries: what they define lives as long as the
            process.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if searched:
            gc.enable()
