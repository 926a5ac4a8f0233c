"""The noted phase of a trial: what an engine is at while it works, and after it has failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agenttts.inference.base import Completion, Engine, EngineError, ModelConfig, Request
from agenttts.trial.phase import Phase, PhaseNotes, noted, read_phase

MODEL = ModelConfig("m", "/m")


class Recorder:
    """Records the phase that is noted during each of its calls; they fail if they are to."""

    def __init__(self, notes: Path, fails: bool) -> None:
        self.notes, self.fails = notes, fails
        self.phases: list[str] = []

    def _work(self) -> None:
        phase = read_phase(self.notes)
        assert phase is not None
        self.phases.append(phase.name)
        if self.fails:
            raise EngineError("no")

    def generate(self, requests: Sequence[Request], on_finished: object) -> list[Completion]:
        self._work()
        return []

    def sleep(self) -> bool:
        self._work()
        return True

    def wake(self) -> None:
        self._work()

    def close(self) -> None:
        """Nothing to close."""


CALLS: list[tuple[str, Callable[[Engine], object]]] = [
    ("generate", lambda engine: engine.generate([])),
    ("load", lambda engine: engine.sleep()),  # type: ignore[attr-defined]
    ("load", lambda engine: engine.wake()),  # type: ignore[attr-defined]
]


def after(notes: Path) -> Phase:
    phase = read_phase(notes)
    assert phase is not None
    return phase


@pytest.mark.parametrize(("name", "call"), CALLS)
@pytest.mark.parametrize("fails", [False, True])
def test_a_call_has_a_phase_that_ends_with_it(tmp_path, name, call, fails):
    made = Recorder(tmp_path, fails)
    engine = noted(lambda config: made, PhaseNotes(tmp_path))(MODEL)
    if fails:
        with pytest.raises(EngineError):
            call(engine)
    else:
        call(engine)
    assert made.phases == [name]
    assert after(tmp_path).name == "other"


def test_a_start_that_fails_is_over(tmp_path):
    def start(config: ModelConfig) -> Engine:
        assert after(tmp_path).name == "load"
        raise EngineError("no")

    with pytest.raises(EngineError):
        noted(start, PhaseNotes(tmp_path))(MODEL)
    assert after(tmp_path).name == "other"
