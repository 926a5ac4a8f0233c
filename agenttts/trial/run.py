"""Run one trial from its spec file to a stored result or a fault file."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from agenttts.errors import AgentTTSError
from agenttts.inference.base import Engine, EngineError, ModelConfig
from agenttts.inference.sampler import Sampler
from agenttts.inference.store import SampleStore, trial_writer
from agenttts.trial.evaluate import evaluate
from agenttts.trial.phase import PhaseNotes, noted
from agenttts.trial.result import Fault, write_fault
from agenttts.trial.spec import TrialSpec


def run_trial(
    path: Path,
    engine_factory: Callable[[ModelConfig], Engine],
    *,
    out: TextIO,
    err: TextIO,
    before_closing: Callable[[], None] = lambda: None,
) -> int:
    """Evaluate the trial of a spec file.

    The samples drawn so far are stored however the trial ends. They are stored also when
    ``engine_factory`` or an engine raises something that is not an `Exception`, to stop the trial.

    Args:
        path: The trial's spec file; its directory gets the result or the fault file.
        engine_factory: Makes the engine of a model, with its model loaded.
        out: Gets one line with the score.
        err: Gets the errors.
        before_closing: Called once the trial is over, before its samples are stored and its engine
            is closed.

    Returns:
        0 if the result is stored, 1 if the trial failed (``fault.json`` says why).
    """
    try:
        spec = TrialSpec.read(path)
    except AgentTTSError as error:
        return _fail(path.parent, Fault("FAILED", str(error), "input"), err)
    directory = Path(spec.directory)
    # One shard writer per attempt, so that two attempts of a trial never share a file.
    store = SampleStore(
        Path(spec.samples), writer=f"{trial_writer(spec.run, spec.trial)}{os.getpid()}"
    )
    notes = PhaseNotes(directory)
    notes.note("other")
    sampler = Sampler(store, spec.models, spec.seed, noted(engine_factory, notes))
    try:
        output = evaluate(spec, sampler)
    except EngineError as error:
        return _fail(directory, Fault(error.kind, str(error), "engine"), err)
    except AgentTTSError as error:
        return _fail(directory, Fault("FAILED", str(error), "input"), err)
    except Exception as error:  # the task's own code may raise anything: the user is told where
        traceback.print_exc(file=err)
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        text = f"{type(error).__name__}: {error} ({where})"
        return _fail(directory, Fault("FAILED", text, "task"), err)
    finally:
        before_closing()
        sampler.close()
    print(f"{spec.trial}: score {output.score:.4f}", file=out, flush=True)
    return 0


def _fail(directory: Path, fault: Fault, err: TextIO) -> int:
    print(f"{directory.name}: {fault.kind}: {fault.message}", file=err, flush=True)
    write_fault(directory, fault)
    return 1
