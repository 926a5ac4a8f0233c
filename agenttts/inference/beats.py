"""Signs of life of a working engine: lines in the trial's log.

The job uses them to distinguish a working engine from one that hangs. A call that thinks for hours
may finish no sample for a long time. The time that its tokens may take does not say whether the
call makes progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

BEAT_SECONDS = 15.0
"""Time between two signs, at least; limits on a trial's progress are minutes."""
MARK = "(progress) "
"""The beginning of these lines."""


class Beat:
    """To be called at every step of an engine; prints one line every `BEAT_SECONDS`.

    It prints nothing for a call that is shorter.
    """

    def __init__(
        self,
        model: str,
        every: float = BEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], object] = lambda line: print(line, flush=True),
    ) -> None:
        self._model = model
        self._every = every
        self._clock = clock
        self._say = say
        self._steps = 0
        self._last = clock()

    def __call__(self) -> None:
        self._steps += 1
        if self._clock() - self._last >= self._every:
            self._last = self._clock()
            self._say(f"{MARK}model '{self._model}' is running: step {self._steps:,}")


def beat_at_steps(engine: Any, beat: Beat) -> bool:
    """Make an object's method ``step`` report every returned call to ``beat``.

    Returns:
        Whether there is such a method.
    """
    step = getattr(engine, "step", None)
    if not callable(step):
        return False

    def step_and_tell(*arguments: Any, **more: Any) -> Any:
        outputs = step(*arguments, **more)
        beat()
        return outputs

    try:
        engine.step = step_and_tell
    except AttributeError:
        return False
    return True
