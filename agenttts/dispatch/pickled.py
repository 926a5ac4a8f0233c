"""What a job runs, as a pickle of its own within submitit's."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # it has no types

from agenttts.files.garbage import without_searches


class Pickled:
    """A pickled function; who loads it, as submitit does, gets the function itself."""

    def __init__(self, function: bytes) -> None:
        self._function = function

    @classmethod
    def of(cls, function: Callable[[], Any]) -> Pickled:
        """Return a function pickled."""
        return cls(cloudpickle.dumps(function))

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return load_quickly, (self._function,)


def load_quickly(pickled: bytes) -> Any:
    """Load a function without searches for garbage.

    That imports all that its job needs, and takes a tenth more time with searches.
    """
    with without_searches():
        return pickle.loads(pickled)
