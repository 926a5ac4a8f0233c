"""The kind of an engine's failure, from what its library raised."""

from __future__ import annotations

from agenttts.files.trouble import is_outside_trouble
from agenttts.inference.base import FailureKind
from agenttts.inference.out_of_memory import is_out_of_memory


def failure_kind(error: Exception) -> FailureKind:
    """Return the `EngineError` kind of what a library raised."""
    if is_out_of_memory(error):
        return "OOM"
    # Libraries also raise `OSError` without a number, e.g. where a model's files are damaged.
    of_the_system = isinstance(error, OSError) and error.errno is not None
    return "INFRA_FAILED" if of_the_system and is_outside_trouble(error) else "FAILED"
