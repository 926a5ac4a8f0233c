"""A program that is killed between two of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


@contextmanager
def killed_at(
    part: type,
    method: str,
    *,
    when: Callable[..., bool] = lambda *_, **__: True,
    after: bool = False,
) -> Iterator[None]:
    """Have the program die at a call of a method, and end the context when it has.

    Args:
        part: The class.
        method: The name of the method.
        when: Takes the arguments of a call, without self; whether the program dies there.
        after: Whether the program dies after what the method does, instead of before it.
    """
    original = getattr(part, method)

    def call(self: object, *arguments: object, **more: object) -> object:
        dies = when(*arguments, **more)
        if dies and not after:
            raise Killed
        result = original(self, *arguments, **more)
        if dies:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patched, suppress(Killed):
        patched.setattr(part, method, call)
        yield


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
