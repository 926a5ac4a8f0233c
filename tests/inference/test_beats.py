"""An engine at work gives signs of life, one that hangs gives none, and the job tells them
apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.node.limits import Limits, Sight, Watch
from agenttts.inference.base import (
    Completion,
    Finished,
    ModelConfig,
    OnFinished,
    Prompt,
    Request,
    SamplingParams,
    WrappedEngine,
)
from agenttts.inference.beats import BEAT_SECONDS, MARK, Beat, beat_at_steps
from agenttts.inference.sampler import Sampler
from agenttts.inference.store import SampleStore
from agenttts.trial.phase import PhaseNotes, noted, read_phase
from tests.support.draws import draw_one


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 100), max_size=60))
def test_steps_are_told_no_more_often_than_wanted_and_never_less(pauses):
    clock, said = Clock(), []
    beat = Beat("m", every=15.0, clock=clock, say=lambda line: said.append((clock.now, line)))
    last = 0.0
    for pause in pauses:
        clock.now += pause
        before = len(said)
        beat()
        told = len(said) > before
        assert told == (clock.now - last >= 15.0)
        last = clock.now if told else last
    assert all(line.startswith(MARK) and "model 'm'" in line for _, line in said)


def test_a_step_that_does_not_come_back_is_no_sign():
    beats: list[None] = []

    class Engine:
        def step(self, *arguments: int) -> list[int]:
            if arguments:
                raise RuntimeError("hung")
            return [1]

    engine = Engine()
    assert beat_at_steps(engine, lambda: beats.append(None))
    assert (engine.step(), engine.step()) == ([1], [1])
    with pytest.raises(RuntimeError):
        engine.step(1)
    assert len(beats) == 2


def test_an_engine_without_such_a_method_is_known():
    class Slots:
        __slots__ = ()

        def step(self) -> None: ...

    assert not beat_at_steps(SimpleNamespace(step=3), Beat("m"))
    assert not beat_at_steps(object(), Beat("m"))
    assert not beat_at_steps(Slots(), Beat("m"))


@pytest.mark.parametrize("reports", [True, False])
def test_the_phase_of_a_call_says_for_how_long_there_may_be_no_sign(tmp_path, reports):
    class Engine:
        reports_progress = reports

        def generate(self, requests: list[Request], on_finished: object) -> list[Completion]:
            phase = read_phase(tmp_path)
            assert phase is not None
            assert (phase.name, phase.tokens) == ("generate", 0 if reports else 64)
            return []

        def close(self) -> None: ...

    engine = noted(lambda config: Engine(), PhaseNotes(tmp_path))(ModelConfig("m", "/m"))
    engine.generate([Request("x", SamplingParams(1.0, 32), (1, 2))])


@pytest.mark.parametrize("max_tokens", [512, 8192, 32768])
def test_a_hang_is_noticed_within_the_limit_however_long_a_reply_may_be(max_tokens):
    """A call of an hour that goes on, and one that hangs after an hour."""
    from agenttts.trial.phase import Phase

    limits = Limits(stall_seconds=1800.0)
    watch, phase = Watch(limits, 0.0), Phase(3, "generate", "m", 0)
    log = 0
    for now in range(0, 3600, 5):
        log += now % BEAT_SECONDS == 0
        assert watch.look(Sight(phase, log, 5), now) is None
    noticed = next(t for t in range(3600, 10**6, 5) if watch.look(Sight(phase, log, 5), t))
    assert noticed <= 3600 + 1800 + 5


@pytest.mark.llm
def test_vllm_tells_of_its_steps(smollm2_engine):
    assert smollm2_engine.reports_progress


@pytest.mark.llm
def test_what_a_real_model_has_finished_is_stored_before_its_call_ends(
    smollm2, smollm2_engine, tmp_path
):
    """As it would be found after a kill at that moment, and the next start draws only the rest."""
    model = ModelConfig("smollm2", str(smollm2), prompt_style="few_shot_completion")
    place, copy = tmp_path / "samples", tmp_path / "copy"
    drawn: list[int] = []

    class Watched(WrappedEngine):
        def generate(
            self, requests: Sequence[Request], on_finished: OnFinished | None = None
        ) -> list[Completion]:
            drawn.append(sum(len(request.seeds) for request in requests))

            def pass_on(finished: Finished) -> None:
                on_finished(finished)
                if not copy.exists() and list(place.glob("*.parquet")):
                    shutil.copytree(place, copy)

            return super().generate(requests, pass_on)

        def close(self) -> None: ...

    def sampler(folder: Path) -> Sampler:
        store = SampleStore(folder, "w")
        engine = Watched(smollm2_engine)
        return Sampler(store, {"smollm2": model}, 3, lambda config: engine, store_seconds=0.05)

    prompts = [Prompt("", f"A story about the number {n}.", label="Story:") for n in range(9)]
    params = SamplingParams(1.0, 3)  # 64 samples are drawn at once, then the other 8
    draws = draw_one(sampler(place), "smollm2", prompts, params, 8)
    before = pl.read_parquet(copy / "*.parquet")
    assert 0 < before.height < 72
    again = draw_one(sampler(copy), "smollm2", prompts, params, 8)
    assert drawn == [72, 72 - before.height]
    assert all(len(draw.texts) == 8 for draw in again)
    kept = pl.read_parquet(place / "*.parquet").join(before, on=["key", "index"], suffix="_copy")
    assert kept.height == before.height
    assert (kept["text"] == kept["text_copy"]).all()
    assert sum(draw.reused_tokens for draw in draws) == 0 < sum(d.reused_tokens for d in again)
