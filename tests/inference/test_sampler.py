"""The sampler: what is stored is not drawn again, what is missing is; tokens are counted either
way.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agenttts.dispatch.blame import AttemptEnd, blame
from agenttts.inference import sampler as sampler_module
from agenttts.inference.base import (
    Completion,
    Engine,
    EngineError,
    Finished,
    ModelConfig,
    OnFinished,
    Prompt,
    Request,
    Sample,
    SamplingParams,
)
from agenttts.inference.draws import Drawn, DrawRequest
from agenttts.inference.endpoint import EndpointEngine
from agenttts.inference.engine_use import EngineObserver, ModelDraw, model_draws
from agenttts.inference.partition import SamplePartition
from agenttts.inference.sampler import FEWEST_A_CALL, TOKENS_A_CALL, Sampler, most_samples
from agenttts.inference.scripted import ScriptedEngine
from agenttts.inference.store import SampleStore
from agenttts.trial.result import Fault
from tests.support.draws import draw_one
from tests.support.llm import Server, said
from tests.support.waiting import until

HOT = SamplingParams(0.9, 40)
TREE, LONG = Prompt("", "Which tree?"), Prompt("", "A long story.")


class Engines:
    """Makes scripted engines and writes down what becomes of them; ``fail_after`` calls, one
    raises.

    ``meanwhile`` is called before every call returns: what others do while an engine runs.
    ``finished`` gets all finished samples before the sampler does.
    """

    def __init__(
        self,
        fail_after: int | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        finished: Callable[[Finished], object] = lambda finished: None,
    ) -> None:
        self.events: list[object] = []
        self.drawn = 0
        self.fail_after = fail_after
        self.meanwhile = meanwhile
        self.finished = finished

    def __call__(self, config: ModelConfig) -> Recorded:
        self.events.append(("start", config.name))
        return Recorded(self, config)

    def watched(self, on_finished: OnFinished | None) -> OnFinished:
        assert on_finished is not None

        def pass_on(finished: Finished) -> None:
            self.finished(finished)
            on_finished(finished)

        return pass_on

    @property
    def calls(self) -> int:
        return self.events.count("call")


class Recorded(ScriptedEngine):
    def __init__(self, engines: Engines, config: ModelConfig) -> None:
        super().__init__(config)
        self.engines, self.name = engines, config.name

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        if self.engines.fail_after == self.engines.calls:
            raise EngineError("the node is on fire")
        self.engines.events.append("call")
        self.engines.drawn += sum(len(request.seeds) for request in requests)
        completions = super().generate(requests, self.engines.watched(on_finished))
        self.engines.meanwhile()
        return completions

    def close(self) -> None:
        self.engines.events.append(("close", self.name))
        super().close()


@pytest.fixture
def model(script):
    return ModelConfig("m", str(script), engine="scripted", prompt_style="few_shot_completion")


@pytest.fixture
def sampler(model, tmp_path):
    """Make a sampler as each process of a run would: one store directory, an own writer."""

    def make(engines: Engines, models=None, seed=5, directory="samples", **more):
        store = SampleStore(tmp_path / directory, "w")
        return Sampler(store, models or {"m": model}, seed, engines, **more)

    return make


def test_few_samples_are_a_prefix_of_many(sampler):
    [few] = draw_one(sampler(Engines()), "m", [TREE], HOT, 5)
    [many] = draw_one(sampler(Engines(), directory="other"), "m", [TREE], HOT, 20)
    assert few.texts == many.texts[:5]
    assert len(set(many.texts)) > 3


def test_what_is_stored_is_not_drawn_again(sampler):
    first = Engines()
    one = sampler(first)
    [few] = draw_one(one, "m", [TREE], HOT, 5)
    one.close()
    assert (first.drawn, few.reused_tokens) == (5, 0)
    second = Engines()
    two = sampler(second)
    [many] = draw_one(two, "m", [TREE], HOT, 8)
    assert second.drawn == 3
    assert many.texts[:5] == few.texts
    assert many.reused_tokens == few.decode_tokens, "the prompt was computed again"
    [again] = draw_one(two, "m", [TREE], HOT, 8)
    assert second.drawn == 3
    assert again.texts == many.texts
    assert again.reused_tokens == again.prompt_tokens + again.decode_tokens
    assert (again.prompt_tokens, again.decode_tokens) == (many.prompt_tokens, many.decode_tokens)


def test_no_engine_starts_for_what_is_stored(sampler):
    one = sampler(Engines())
    draw_one(one, "m", [TREE, LONG], HOT, 4)
    one.close()
    engines = Engines()
    two = sampler(engines)
    draw_one(two, "m", [LONG, TREE], HOT, 3)
    two.close()
    assert engines.events == []


@pytest.mark.parametrize(
    "change",
    [
        {"params": SamplingParams(0.8, 40)},
        {"params": SamplingParams(0.9, 41)},
        {"seed": 6},
        {"revision": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_address_is_drawn_anew(sampler, model, change):
    one = sampler(Engines())
    draw_one(one, "m", [TREE], HOT, 4)
    one.close()
    engines = Engines()
    other = dataclasses.replace(model, revision=change.get("revision"))
    two = sampler(engines, {"m": other}, seed=change.get("seed", 5))
    [draw] = draw_one(two, "m", [TREE], change.get("params", HOT), 4)
    assert engines.drawn == 4
    assert draw.reused_tokens == 0


BIRCHES = Prompt("", "Which birch " + "or birch " * 20 + "is a tree?")  # 46 words with the label


def with_context(model, context, rules=3):
    options = {} if context is None else {"max_model_len": context}
    return dataclasses.replace(model, options=options, rules=rules)


@given(st.lists(st.sampled_from([60, 70, 85, 86, 90, None]), min_size=2, max_size=6))
def test_a_sample_is_shared_by_all_contexts_that_draw_it(script, tmp_path_factory, contexts):
    """A prompt that is cut is drawn for its context; one that fits, once for all."""
    model = ModelConfig("m", str(script), engine="scripted", prompt_style="few_shot_completion")
    shared = tmp_path_factory.mktemp("shared")
    seen = set()
    for context in contexts:
        configured = with_context(model, context)
        results = []
        for store in (shared, tmp_path_factory.mktemp("own")):
            engines = Engines()
            here = Sampler(SampleStore(store, "w"), {"m": configured}, 5, engines)
            results.append(draw_one(here, "m", [TREE, BIRCHES], HOT, 3))
            here.close()
            if store == shared:
                kind = min(context or 999, 86)  # both prompts fit in 86
                assert engines.drawn == (0 if kind in seen else 3 if seen else 6)
                seen.add(kind)
        [shared_results, own_results] = results
        assert [r.texts for r in shared_results] == [r.texts for r in own_results]
        assert [r.truncated for r in shared_results] == [False, kind < 86]
        assert [r.prompt_tokens for r in shared_results] == [3, kind - 40]


@given(st.lists(st.sampled_from([60, 70, 80, None]), min_size=2, max_size=6))
@example([70, None])
@example([None, 70, 80, None])
def test_a_model_s_own_context_takes_no_prompt_that_another_one_cut(
    script, tmp_path_factory, contexts
):
    """Its config tells a least length only: it is not known what the engine will make of it."""
    place = tmp_path_factory.mktemp("model")
    lengths = {"max_position_embeddings": 80, "original_max_position_embeddings": 60}
    (place / "config.json").write_text(json.dumps(lengths))
    model = ModelConfig("m", str(place), engine="transformers", prompt_style="few_shot_completion")
    shared = tmp_path_factory.mktemp("shared")
    seen = set()
    for context in contexts:
        results = []
        for store in (shared, tmp_path_factory.mktemp("own")):
            engines = Engines()
            here = Sampler(
                SampleStore(store, "w"),
                {"m": with_context(model, context)},
                5,
                partial(scripted_engine, engines, script, context or 80),
            )
            results.append(draw_one(here, "m", [TREE, BIRCHES], HOT, 3))
            here.close()
            if store == shared:
                assert context not in seen or engines.drawn == 0
        seen.add(context)
        assert [r.texts for r in results[0]] == [r.texts for r in results[1]]
        assert [r.prompt_tokens for r in results[0]] == [3, (context or 80) - 40]


def scripted_engine(engines, script, context, config):
    """Make an engine that has a context, in place of one that loads a model."""
    options = {"max_model_len": context}
    return engines(
        dataclasses.replace(config, engine="scripted", path=str(script), options=options)
    )


def test_samples_that_were_stored_by_earlier_rules_are_found(sampler, model):
    one = sampler(Engines(), {"m": with_context(model, 60, rules=2)})
    before = draw_one(one, "m", [TREE, BIRCHES], HOT, 3)
    one.close()
    engines = Engines()
    two = sampler(engines, {"m": with_context(model, 60)})
    assert not two.lacks_samples(DrawRequest("m", [TREE, BIRCHES], HOT, 3))
    after = draw_one(two, "m", [TREE, BIRCHES], HOT, 5)
    assert engines.drawn == 4
    assert [r.texts[:3] for r in after] == [r.texts for r in before]
    assert [r.prompt_tokens for r in after] == [r.prompt_tokens for r in before]


def test_equal_prompts_are_drawn_once_and_counted_each(sampler):
    engines = Engines()
    one = sampler(engines)
    first, second, third = draw_one(one, "m", [TREE, LONG, TREE], HOT, 4)
    assert engines.drawn == 8
    assert third.texts == first.texts
    assert third.reused_tokens == third.prompt_tokens + third.decode_tokens
    assert first.reused_tokens == second.reused_tokens == 0
    totals = one.totals["m"]
    assert totals.prompt_tokens == first.prompt_tokens + second.prompt_tokens
    assert totals.decode_tokens == first.decode_tokens + second.decode_tokens
    assert totals.reused_tokens == third.reused_tokens


@pytest.mark.parametrize("counts", [(1, 2, 3), (3, 2, 1), (2, 4, 2, 5)])
def test_a_prompt_that_several_requests_draw_of_is_computed_once(sampler, counts):
    """Each request draws samples that the ones before do not need."""
    computed: list[ModelDraw] = []

    class Told(EngineObserver):
        def called(self, draws: Sequence[ModelDraw], seconds: float) -> None:
            computed.extend(draws)

    one = sampler(Engines(), observer=Told())
    requests = [DrawRequest("m", [TREE, LONG, TREE], HOT, count) for count in counts]
    found = [drawn.results for drawn in one.draw_together(requests)]
    new = [sum(result.new_tokens for result in results) for results in found]
    assert sum(new) == sum(draw.prompt_tokens + draw.decode_tokens for draw in computed)
    totals = one.totals["m"]
    assert totals.prompt_tokens == sum(draw.prompt_tokens for draw in computed)
    assert totals.decode_tokens == sum(draw.decode_tokens for draw in computed)
    first, *others = [results[0] for results in found]
    assert first.reused_tokens == 0
    assert all(other.reused_tokens >= other.prompt_tokens for other in others)
    [again] = draw_one(one, "m", [TREE], HOT, 9)
    assert again.new_tokens > again.prompt_tokens, "a later call reads the prompt again"


def test_without_temperature_one_sample_is_drawn_for_all(sampler):
    engines = Engines()
    [draw] = draw_one(sampler(engines), "m", [TREE], SamplingParams(0.0, 40), 6)
    assert engines.drawn == 1
    assert len(draw.texts) == 6
    assert len(set(draw.texts)) == 1


def test_models_take_turns(sampler, model):
    """They share a GPU: the first is closed before the second starts; two names of one model
    share an engine.
    """
    other = dataclasses.replace(model, name="b", options={"max_model_len": 500})
    engines = Engines()
    models = {"a": dataclasses.replace(model, name="a"), "alias": model, "b": other}
    one = sampler(engines, models)
    for name, prompt in [("a", TREE), ("alias", LONG), ("b", TREE), ("a", Prompt("", "x"))]:
        draw_one(one, name, [prompt], HOT, 1)
    one.close()
    one.close()
    order = [event for event in engines.events if event != "call"]
    assert order == [("start", "a"), ("close", "a"), ("start", "b"), ("close", "b"), ("start", "a"), ("close", "a")]  # fmt: skip


def test_a_restart_in_the_middle_goes_on_from_what_is_stored(sampler):
    """Samples are stored after each engine call: an engine that dies in the third call costs
    that call alone.
    """
    prompts = [TREE, LONG, Prompt("", "Another tree?")]
    first = Engines(fail_after=2)
    one = sampler(first, samples_a_call=5)
    with pytest.raises(EngineError, match="on fire"):
        draw_one(one, "m", prompts, HOT, 4)
    one.close()
    assert (first.calls, first.drawn) == (2, 10)
    second = Engines()
    two = sampler(second, samples_a_call=5)
    draws = draw_one(two, "m", prompts, HOT, 4)
    assert second.drawn == 2, "twelve samples, ten of them stored"
    assert sum(draw.reused_tokens > 0 for draw in draws) == 3
    undisturbed = draw_one(sampler(Engines(), directory="other"), "m", prompts, HOT, 4)
    assert [draw.texts for draw in draws] == [draw.texts for draw in undisturbed]


def test_finished_samples_are_stored_while_the_call_goes_on(sampler, tmp_path):
    shards = tmp_path / "samples" / "*.parquet"
    seen: list[int] = []

    def wait_for_the_store(finished: Finished) -> None:
        """Before the fifth sample, some of the first four become visible to others."""
        if finished.places == (4,):
            until(lambda: list(shards.parent.glob(shards.name)), "a shard")
            seen.extend(pl.read_parquet(shards)["index"])

    engines = Engines(finished=wait_for_the_store)
    [draw] = draw_one(sampler(engines, store_seconds=0.01), "m", [TREE], HOT, 9)
    assert 0 in seen
    assert max(seen) < 4
    [whole] = draw_one(sampler(Engines(), directory="whole"), "m", [TREE], HOT, 9)
    assert draw == whole
    assert sorted(pl.read_parquet(shards)["index"]) == list(range(9)), "each sample once"


def stop_at(place: int) -> Callable[[Finished], None]:
    def stop(finished: Finished) -> None:
        if finished.places == (place,):
            raise EngineError("the GPU fell off the bus")

    return stop


def test_a_call_that_fails_in_the_middle_keeps_what_came_before(sampler):
    with pytest.raises(EngineError, match="fell off"):
        draw_one(sampler(Engines(finished=stop_at(5))), "m", [TREE], HOT, 8)
    second = Engines()
    [draw] = draw_one(sampler(second), "m", [TREE], HOT, 8)
    assert second.drawn == 3, "eight samples, five of them stored"
    [whole] = draw_one(sampler(Engines(), directory="whole"), "m", [TREE], HOT, 8)
    assert draw.texts == whole.texts


@pytest.mark.parametrize("alone", [True, False])
def test_a_model_that_does_not_load_beside_others_is_loaded_once_without_them(
    sampler, model, alone
):
    """vLLM's errors of this kind need not say that memory ran out."""
    engines = Engines()

    def start(config: ModelConfig) -> Recorded:
        loaded = engines.events.count(("start", "m")) > engines.events.count(("close", "m"))
        if config.name == "b" and (loaded or not alone):
            engines.events.append("no start")
            raise EngineError("Error in memory profiling")
        return engines(config)

    model = dataclasses.replace(model, gpus=0)  # engines without GPUs stay beside each other
    other = dataclasses.replace(model, name="b", options={"seconds_per_sample": 0.0})
    of = sampler(start, {"m": model, "b": other}, keep_engines=True)
    few = [DrawRequest("b", [TREE], HOT, 1), DrawRequest("b", [LONG], HOT, 2)]
    of.draw_together([DrawRequest("m", [TREE], HOT, 1)])
    found = of.draw_each(few)
    assert [isinstance(one, Drawn) for one in found] == [alone] * 2
    assert engines.events.count("no start") == (1 if alone else 2)
    # It is known by now whether it loads alone; engines are not closed for it again.
    of.draw_together([DrawRequest("m", [LONG], HOT, 1)])
    of.draw_each([DrawRequest("b", [Prompt("", "Another tree?")], HOT, 1)])
    assert engines.events.count("no start") == (1 if alone else 2)
    assert engines.events.count(("start", "b")) == alone
    assert engines.events.count(("close", "m")) == 1


@pytest.mark.parametrize("gone", [True, False])
def test_a_server_that_is_gone_is_waited_for_once(sampler, model, gone):
    server = Server()
    failing = (503, "down", {})
    server.models = (200, json.dumps({"data": [{"id": "org/e"}]}), {})
    server.answers = [said("stored"), failing]
    options = {"base_url": server.url, "use_proxy": False, "retry_seconds": 0}
    served = ModelConfig("e", "org/e", engine="endpoint", options=options)
    engines, tries = Engines(), 0

    def start(config: ModelConfig) -> Engine:
        nonlocal tries
        if config.engine != "endpoint":
            return engines(config)
        tries += 1
        if tries > 1 and gone:
            server.models = failing
        elif tries > 1:
            server.answers = [said("back")]
        return EndpointEngine(config)

    of = sampler(start, {"m": dataclasses.replace(model, gpus=0), "e": served}, keep_engines=True)
    of.draw_together([DrawRequest("m", [TREE], HOT, 1)])
    of.draw_together([DrawRequest("e", [TREE], HOT, 1)])
    prompts = [TREE, LONG, Prompt("", "A lake?"), Prompt("", "A hill?")]
    try:
        first, *rest = of.draw_each([DrawRequest("e", [prompt], HOT, 1) for prompt in prompts])
    finally:
        server.close()
    assert isinstance(first, Drawn), "its sample is stored"
    assert [isinstance(one, EngineError) for one in rest] == [gone] * 3
    assert not gone or {one.kind for one in rest} == {"INFRA_FAILED"}
    assert tries == 2
    assert ("close", "m") not in engines.events, "it takes nothing from a server"


@pytest.mark.parametrize("hangs", [True, False])
def test_a_server_that_lists_its_models_and_answers_nothing_is_waited_for_twice(sampler, hangs):
    """A prompt that fails while the server answers others is that prompt's own."""
    server, over = Server(), threading.Event()

    def answer(body: dict[str, object]) -> tuple[int, str, dict[str, str]]:
        if hangs:
            over.wait(60)
        failed = "lake" in str(body["messages"])
        return (503, "down", {}) if failed else said("text")

    server.models = (200, json.dumps({"data": [{"id": "org/e"}]}), {})
    server.answers = [answer]
    options = {
        **{"base_url": server.url, "use_proxy": False, "max_concurrent": 1},
        **{"retry_seconds": 0, "timeout_seconds": 0.5 if hangs else 60},
    }
    served = ModelConfig("e", "org/e", engine="endpoint", options=options)
    of = sampler(EndpointEngine, {"e": served}, keep_engines=True)
    prompts = [Prompt("", f"A {what}?") for what in ("lake", "hill", "tree", "road")]
    try:
        found = of.draw_each([DrawRequest("e", [prompt], HOT, 1) for prompt in prompts])
    finally:
        over.set()
        server.close()
    assert [isinstance(one, EngineError) for one in found] == [True, hangs, hangs, hangs]
    assert {one.kind for one in found if isinstance(one, EngineError)} == {"INFRA_FAILED"}
    assert len(server.requests) == (2 if hangs else 5)


@pytest.mark.parametrize(("ended", "starts"), [(True, 3), (False, 5)])
def test_an_engine_that_ends_again_and_again_is_not_started_for_each_request(
    sampler, ended, starts
):
    """A start takes minutes on all GPUs of the job."""

    def end(finished: Finished) -> None:
        raise EngineError("CUDA error: an illegal memory access", ended=ended)

    engines = Engines()
    of = sampler(engines)
    of.draw_together([DrawRequest("m", [TREE], HOT, 2)])
    engines.finished = end
    before = engines.events.count(("start", "m"))
    prompts = [LONG, Prompt("", "A lake?"), TREE, Prompt("", "A hill?"), Prompt("", "A road?")]
    found = of.draw_each([DrawRequest("m", [prompt], HOT, 2) for prompt in prompts])
    assert [isinstance(one, Drawn) for one in found] == [False, False, True, False, False]
    assert engines.events.count(("start", "m")) - before == starts - 1
    assert ("not tried, because its engine ended 2 times" in str(found[-1])) == ended
    kinds = [one.kind for one in found if isinstance(one, EngineError)]
    assert kinds == ["FAILED", "FAILED", *(["INFRA_FAILED" if ended else "FAILED"] * 2)]
    verdict = blame(AttemptEnd(exit_code=1, fault=Fault(kinds[-1], str(found[-1]), "engine")))
    assert verdict.retry == ended, "no allocation is blamed that was not tried"


def test_all_requests_of_a_model_that_ends_while_it_loads_have_its_error(sampler):
    def fail(model):
        raise EngineError("the engine process ended", kind="OOM", ended=True)

    of = sampler(fail)
    found = of.draw_each([DrawRequest("m", [prompt], HOT, 2) for prompt in (TREE, LONG) * 2])
    assert [(one.kind, str(one)) for one in found] == [("OOM", "the engine process ended")] * 4


def test_who_needs_only_what_came_before_a_failure_is_served(sampler):
    requests = [DrawRequest("m", [TREE], HOT, 4), DrawRequest("m", [TREE, LONG], HOT, 8)]
    served, failed = sampler(Engines(finished=stop_at(6))).draw_each(requests)
    assert isinstance(failed, EngineError)
    [whole] = draw_one(sampler(Engines(), directory="whole"), "m", [TREE], HOT, 4)
    assert isinstance(served, Drawn)
    assert served.results[0].texts == whole.texts


@given(there=st.sets(st.integers(0, 11)), size=st.integers(1, 12))
def test_only_what_is_missing_is_drawn_wherever_the_gaps_are(script, tmp_path_factory, there, size):
    """An engine finishes samples in any order, so a killed call may leave any of them."""
    model = ModelConfig("m", str(script), engine="scripted", prompt_style="few_shot_completion")
    folder = tmp_path_factory.mktemp("samples")
    [whole] = draw_one(
        Sampler(SampleStore(folder / "whole", "w"), {"m": model}, 5), "m", [TREE], HOT, 12
    )
    (folder / "gaps").mkdir()
    complete = pl.read_parquet(folder / "whole" / "*.parquet")
    complete.filter(pl.col("index").is_in(there)).write_parquet(folder / "gaps" / "killed.parquet")
    engines = Engines()
    again = Sampler(SampleStore(folder / "gaps", "w"), {"m": model}, 5, engines, size)
    [draw] = draw_one(again, "m", [TREE], HOT, 12)
    assert draw.texts == whole.texts
    assert engines.drawn == 12 - len(there)


KILLED = """
import sys
from pathlib import Path
from agenttts.inference.base import ModelConfig, Prompt, SamplingParams
from agenttts.inference.draws import DrawRequest
from agenttts.inference.sampler import Sampler
from agenttts.inference.store import SampleStore
model = ModelConfig("m", sys.argv[2], engine="scripted", prompt_style="few_shot_completion",
                    options={"seconds_per_sample": 0.05}, rules=2)
sampler = Sampler(SampleStore(Path(sys.argv[1]), "w"), {"m": model}, 5, store_seconds=0.2)
prompts = [Prompt("", "Which tree?")]
sampler.draw_together([DrawRequest("m", prompts, SamplingParams(0.9, 40), 1000)])
"""


@pytest.mark.processes
def test_a_process_that_is_killed_in_a_call_leaves_its_finished_samples(script, tmp_path):
    samples = tmp_path / "samples"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(samples), str(script)])
    try:
        until(lambda: len(list(samples.glob("*.parquet"))) > 1, "two shards", pause=0.02)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    stored = pl.read_parquet(samples / "*.parquet").height
    assert 0 < stored < 1000
    killed = ModelConfig(
        "m", str(script), engine="scripted", prompt_style="few_shot_completion",
        options={"seconds_per_sample": 0.05}, rules=2,
    )  # fmt: skip
    engines = Engines()

    def fast(model: ModelConfig) -> Recorded:
        return engines(dataclasses.replace(model, options={}))

    again = Sampler(SampleStore(samples, "w"), {"m": killed}, 5, fast)
    [draw] = draw_one(again, "m", [TREE], HOT, stored + 30)
    assert engines.drawn == 30
    assert len(draw.texts) == stored + 30


def test_at_least_one_sample(sampler):
    with pytest.raises(ValueError, match="valid: 1 or more"):
        draw_one(sampler(Engines()), "m", [TREE], HOT, 0)


def test_seconds_are_told_by_phase(sampler, model):
    slow = dataclasses.replace(model, options={"seconds_per_sample": 0.02})
    one = sampler(Engines(), {"m": slow})
    draw_one(one, "m", [TREE], HOT, 5)
    assert one.totals["m"].generate_seconds >= 0.1
    assert one.totals["m"].load_seconds >= 0


MANY = [Prompt("", f"Which tree is number {number}?") for number in range(12)]


def test_what_others_store_meanwhile_is_not_drawn_here(sampler):
    """While the first call runs, another sampler draws everything: the second call has nothing
    left to do.
    """
    other = sampler(Engines())
    others: list[object] = []

    def meanwhile() -> None:
        if not others:
            others.extend(draw_one(other, "m", MANY, HOT, 3))
            other.close()

    engines = Engines(meanwhile=meanwhile)
    draws = draw_one(sampler(engines, samples_a_call=9), "m", MANY, HOT, 4)
    assert engines.drawn == 9 + 10, "what was drawn before, and the fourth of all prompts but two"
    alone = draw_one(sampler(Engines(), directory="alone"), "m", MANY, HOT, 4)
    assert [draw.texts for draw in draws] == [draw.texts for draw in alone]
    assert [draw.decode_tokens for draw in draws] == [draw.decode_tokens for draw in alone]
    first, last = draws[0], draws[-1]
    assert first.reused_tokens == 0
    assert 0 < last.reused_tokens < last.decode_tokens, "three of four samples, and not the prompt"


def test_what_others_store_while_a_model_loads_is_not_drawn_here(sampler, model):
    other = sampler(Engines())

    class Slow(Engines):
        def __call__(self, config: ModelConfig) -> Recorded:
            draw_one(other, "m", MANY, HOT, 4)
            return super().__call__(config)

    engines = Slow()
    [*draws] = draw_one(sampler(engines), "m", MANY, HOT, 4)
    assert engines.drawn == 0
    assert all(d.reused_tokens == d.prompt_tokens + d.decode_tokens for d in draws)


class Turns:
    """Threads that go on one after the other, as those whose calls run at the same time come
    back.
    """

    def __init__(self, count: int) -> None:
        self.queue = list(range(count))
        self.change = threading.Condition()

    def wait(self, who: int) -> None:
        with self.change:
            assert self.change.wait_for(lambda: self.queue[0] == who, timeout=120)

    def pass_on(self, who: int) -> None:
        with self.change:
            self.queue.append(self.queue.pop(0))
            self.change.notify_all()
        self.wait(who)

    def leave(self) -> None:
        with self.change:
            self.queue.pop(0)
            self.change.notify_all()


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_peers_share_the_work(sampler, monkeypatch, peers):
    """Side by side they draw hardly more than the one that wants most would alone."""
    monkeypatch.setattr("agenttts.inference.partition._LEAST", 4)
    prompts = [Prompt("", f"Which tree is number {number}?") for number in range(40)]
    turns = Turns(peers)
    wanted = [4, *[2] * (peers - 1)]
    everyone = [Engines(meanwhile=partial(turns.pass_on, who)) for who in range(peers)]

    def draw(who: int) -> list[tuple[str, ...]]:
        turns.wait(who)
        own = sampler(everyone[who])
        drawn = draw_one(own, "m", prompts, HOT, wanted[who], SamplePartition(who, peers))
        own.close()
        turns.leave()
        return [draw.texts for draw in drawn]

    with ThreadPoolExecutor(peers) as pool:
        texts = list(pool.map(draw, range(peers)))
    alone = draw_one(sampler(Engines(), directory="alone"), "m", prompts, HOT, 4)
    for k, mine in zip(wanted, texts, strict=True):
        assert mine == [draw.texts[:k] for draw in alone]
    drawn = [engines.drawn for engines in everyone]
    assert 160 <= sum(drawn) <= 1.1 * 160, (
        f"{drawn}: each by itself, they would draw {wanted} a prompt"
    )


def test_a_peer_that_is_left_alone_makes_no_more_calls_for_it(sampler):
    """It shares with fifteen that never come: one small call for its own part, then as large
    ones as ever.
    """
    prompts = [Prompt("", f"Which tree is number {number}?") for number in range(160)]
    engines = Engines()
    draw_one(sampler(engines), "m", prompts, HOT, 5, SamplePartition(3, 16))
    assert engines.drawn == 800
    assert engines.calls == 1 + 3, "800 samples: 50, then 256 at a time"


@given(st.integers(1, 4096), st.integers(1, 10**6))
def test_calls_of_long_replies_are_small_and_keep_a_gpu_busy(samples, max_tokens):
    most = most_samples(samples, max_tokens)
    assert min(samples, FEWEST_A_CALL) <= most <= samples
    if most > FEWEST_A_CALL:
        assert most * max_tokens <= TOKENS_A_CALL


@pytest.mark.parametrize("max_tokens", [40, 3 << 20])
def test_the_size_of_calls_changes_no_sample(sampler, monkeypatch, max_tokens):
    monkeypatch.setattr(sampler_module, "FEWEST_A_CALL", 2)
    params = SamplingParams(0.9, max_tokens)
    engines = Engines()
    draws = draw_one(sampler(engines), "m", MANY, params, 4)
    assert engines.calls == (1 if max_tokens == 40 else 24)
    monkeypatch.undo()
    whole = draw_one(sampler(Engines(), directory="whole"), "m", MANY, params, 4)
    assert [draw.texts for draw in draws] == [draw.texts for draw in whole]


def test_the_seconds_of_a_call_are_divided_by_tokens_among_its_models():
    def completion(prompt_tokens, *decode_tokens):
        samples = tuple(Sample("text", tokens, "stop") for tokens in decode_tokens)
        return Completion(samples, prompt_tokens, truncated=False)

    draws = model_draws(
        ["a", "b", "a"], [completion(10, 20, 30), completion(5, 15), completion(10, 10)], 4.0
    )
    assert [(d.model, d.prompt_tokens, d.decode_tokens, d.sequences, d.seconds) for d in draws] == [
        ("a", 20, 60, 3, 3.2),
        ("b", 5, 15, 1, 0.8),
    ]
    assert sum(d.seconds for d in model_draws(["a"], [completion(0, 0)], 1.0)) == 1.0
