"""A program that is killed between two of its steps."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


def dies_after(patched: pytest.MonkeyPatch, steps: int, module: ModuleType) -> list[str]:
    """Let a module that changes a run's files die after so many of its steps.

    A step is a file or an event that it writes.

    Returns:
        The names of the steps; grows while the module works.
    """
    done: list[str] = []

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if len(done) == steps:
                raise Killed
            done.append(function.__name__)
            return function(*arguments, **more)

        return call

    for name in ("update_record", "atomic_write_text"):
        patched.setattr(module, name, dying(getattr(module, name)))
    patched.setattr(module.Journal, "append", dying(module.Journal.append))
    return done
