"""The program of a job.

Its command line is ``python -m agenttts.trial [--notes DIRECTORY] [--stay] SPEC.json[:N]...``. It
evaluates the trials of the spec files side by side, usually in a container. For a trial with
``:N`` it draws the first N stages, and another job continues (`agenttts.trial.part`). ``--notes``
names the directory that gets notes of the current phase; by default it is the first trial's. With
``--stay`` it then evaluates the trials that each line of standard input names, and answers the
questions that a line names, until that ends.

Exit code 0: every result or part is stored. 1: a trial failed, and its ``fault.json`` says why.
143: the program was told to stop (SIGTERM) and has stored the samples drawn so far.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import FrameType
from typing import BinaryIO

from agenttts.files.garbage import without_searches
from agenttts.files.lossy_output import lose_output_on_full_disk
from agenttts.inference.engine_child import SpareEngine
from agenttts.trial.command import TrialCommand
from agenttts.trial.engines_ahead import first_engine

STOPPED = 128 + signal.SIGTERM


class _Stopped(BaseException):
    """The job is being preempted, cancelled or has run out of time."""


def main(
    arguments: Sequence[str],
    importing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int:
    """Run the trials of spec files and return the exit code.

    ``importing`` makes the context in which the modules of the package are imported.
    """
    chosen = TrialCommand.parse(arguments)
    spare = SpareEngine()
    try:
        signal.signal(signal.SIGTERM, _stop)
        if engine := first_engine(chosen.trials):
            spare.start(engine)
        # Imported only now, while the spare process imports its own libraries.
        with importing():
            from agenttts.inference.engine_process import create_engine
            from agenttts.trial.run import run_trials

        spare.accept_environment()
        return run_trials(
            chosen,
            partial(create_engine, spare=spare),
            more=map(TrialCommand.read_line, _further_lists()) if chosen.stays else (),
            out=sys.stdout,
            err=sys.stderr,
            # The trials are over by then. A stop signal must not interrupt the storing.
            before_closing=_ignore_stops,
            spare=spare,
        )
    except _Stopped:
        return STOPPED


def _further_lists() -> BinaryIO:
    """Return standard input, which no program that the task starts then reads."""
    lists = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return os.fdopen(lists, "rb")


def _ignore_stops() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop(signum: int, frame: FrameType | None) -> None:
    # Once only: the runtime may pass the same signal on twice, and the storing must not be
    # interrupted.
    _ignore_stops()
    raise _Stopped


if __name__ == "__main__":
    lose_output_on_full_disk()
    # No search for garbage while modules are imported, and none that looks at them later: 0.15 s.
    sys.exit(main(sys.argv[1:], importing=partial(without_searches, freeze=True)))
