"""``python -m agenttts.trial SPEC.json``: the program inside the container.

Exit code 0: the result is stored. 1: the trial failed, and ``fault.json`` says why. 143: it was
told to stop (SIGTERM) and has stored the samples drawn so far.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

from agenttts.inference.engine_process import create_engine
from agenttts.trial.run import run_trial

STOPPED = 128 + signal.SIGTERM


class _Stopped(BaseException):
    """The job is being preempted, cancelled or has run out of time."""


def main(path: Path) -> int:
    """Run the trial of a spec file and return the exit code."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        # The trial is over by now, whether it succeeded or failed. A stop signal must not interrupt
        # the storing.
        return run_trial(
            path, create_engine, out=sys.stdout, err=sys.stderr, before_closing=_ignore_stops
        )
    except _Stopped:
        return STOPPED


def _ignore_stops() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop(signum: int, frame: FrameType | None) -> None:
    # Once only: the runtime may pass the same signal on twice, and the storing must not be
    # interrupted.
    _ignore_stops()
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
