"""``python -m agenttts.trial SPEC.json``: the program that runs inside the container.

Exit code 0: the result is stored. 1: the trial failed by its own fault, which ``fault.json`` tells. 143: it was told
to stop (SIGTERM) and has stored the samples drawn so far.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from agenttts.errors import AgentTTSError
from agenttts.inference.base import EngineError
from agenttts.inference.sampler import Sampler
from agenttts.inference.store import SampleStore
from agenttts.trial.evaluate import evaluate
from agenttts.trial.result import Fault, write_fault
from agenttts.trial.spec import TrialSpec

STOPPED = 128 + signal.SIGTERM


class _Stopped(BaseException):
    """The job is being preempted, cancelled or has run out of time."""


def main(path: Path) -> int:
    """Run the trial of a spec file; the exit code."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        return _run(path)
    except _Stopped:
        return STOPPED


def _run(path: Path) -> int:
    try:
        spec = TrialSpec.read(path)
    except AgentTTSError as error:
        return _fail(path.parent, Fault("FAILED", str(error)))
    directory = Path(spec.directory)
    # One shard writer an attempt: two attempts of a trial never share a file.
    store = SampleStore(Path(spec.samples), writer=f"{spec.run}-{spec.trial}-{os.getpid()}")
    sampler = Sampler(store, spec.models, spec.seed)
    try:
        output = evaluate(spec, sampler)
    except EngineError as error:
        return _fail(directory, Fault(error.kind, str(error)))
    except AgentTTSError as error:
        return _fail(directory, Fault("FAILED", str(error)))
    except Exception as error:  # the task's own code may raise anything: the user is told where
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return _fail(directory, Fault("FAILED", f"{type(error).__name__}: {error} ({where})"))
    finally:
        # The trial is over, one way or the other: being told to stop must not interrupt the storing.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sampler.close()
    print(f"{spec.trial}: score {output.score:.4f}", flush=True)
    return 0


def _fail(directory: Path, fault: Fault) -> int:
    print(f"{directory.name}: {fault.kind}: {fault.message}", file=sys.stderr, flush=True)
    write_fault(directory, fault)
    return 1


def _stop(signum: int, frame: FrameType | None) -> None:
    # One-shot: the runtime may pass the same signal on twice, and storing must not be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
