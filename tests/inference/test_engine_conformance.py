"""What every engine owes its callers (see `agenttts.inference.base.Engine`).

A new engine is a line in ``ENGINES``.

Each engine is loaded twice: once on a model with a chat template, for most tests, and once on a
base model, which is killed in the end.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts.inference.base import (
    Engine,
    EngineError,
    Finished,
    ModelConfig,
    Request,
    SamplingParams,
    WrappedEngine,
)
from agenttts.inference.engine_child import LIBRARIES, SpareEngine
from agenttts.inference.engine_process import EngineProcess, create_engine
from agenttts.inference.engines import ENGINES as ENTRIES
from agenttts.inference.vllm import is_cpu_build
from agenttts.trial.phase import PhaseNotes, noted
from tests.support.endpoints import KEY_VARIABLE
from tests.support.processes import group_members
from tests.support.waiting import until

llm = pytest.mark.llm
# Those that read a script in place of a model's files.
SCRIPTED = {"scripted"}
ENGINES = [
    "scripted",
    pytest.param("transformers", marks=llm),
    pytest.param("vllm", marks=llm),
    pytest.param("endpoint", marks=llm),
]
REAL = [engine for engine in ENGINES if not isinstance(engine, str)]
# Its samples depend on nothing but prompt and seed, however they are batched.
BATCHED = (("vllm",), ("endpoint",))
EXACT = [engine for engine in ENGINES if getattr(engine, "values", ()) not in BATCHED]
CONTEXT = 256
# A server that counts tokens itself is only asked whether a shortened prompt fits.
UNUSED_CONTEXT = {"endpoint": 8}

TREE = "Question: which tree is larger, number 37 or number 53? Answer:"
CHAT = ({"role": "system", "content": "Answer."}, {"role": "user", "content": "Which tree?"})


def request(
    content: object = TREE, temperature: float = 1.0, tokens: int = 24, seeds: int = 1, **more: object
) -> Request:  # fmt: skip
    return Request(content, SamplingParams(temperature, tokens), tuple(range(7, 7 + seeds)), **more)


def texts(completion: object) -> list[str]:
    return [sample.text for sample in completion.samples]


def config(name: str, path: Path, **options: object) -> ModelConfig:
    if name == "vllm" and not is_cpu_build():
        # Several engines at once on one GPU, of which vLLM takes nearly all unless told.
        options.setdefault("gpu_memory_utilization", 0.3)
    return ModelConfig(name="model", path=str(path), engine=name, options=options)


def on_server(url: str, model: str, **extra: object) -> ModelConfig:
    options = {"base_url": url, "api_key_env": KEY_VARIABLE, "use_proxy": False, "extra": extra}
    return ModelConfig(name="model", path=model, engine="endpoint", options=options)


@pytest.fixture(scope="session")
def loaded(request: pytest.FixtureRequest) -> Iterator[Callable[..., Engine]]:
    """The engine of a name, on a model with or without a chat template; loaded once a session.

    Who closes it takes it with ``keep=False``, and the next one gets another.
    """
    engines: dict[tuple[str, bool], Engine] = {}

    def get(name: str, chat: bool = True, *, keep: bool = True) -> Engine:
        load(name, chat)
        return engines[name, chat] if keep else engines.pop((name, chat))

    def load(name: str, chat: bool) -> None:
        if (name, chat) in engines:
            return
        if name == "endpoint":
            url = request.getfixturevalue("tiny_server")
            template = {"chat_template": request.getfixturevalue("thinking_template")}
            extra = template if chat else {}
            engines[name, chat] = create_engine(on_server(url, "tiny/model", **extra))
        else:
            model = "script" if name in SCRIPTED else "tiny_thinking" if chat else "tiny_base"
            path = request.getfixturevalue(model)
            spare = SpareEngine()
            if chat and ENTRIES[name].own_process:  # one of each is from a process started ahead
                spare.start(name)
            settings = config(name, path, max_model_len=CONTEXT)
            pid = spare.pid
            engines[name, chat] = create_engine(settings, spare=spare)
            assert pid is None or engines[name, chat].pid == pid

    yield get
    for engine in engines.values():
        engine.close()


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    engine = request.param
    for package in ENTRIES[engine].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed here")
    return engine


@pytest.fixture
def engine(name: str, loaded: Callable[..., Engine]) -> Engine:
    return loaded(name)


def test_one_completion_a_request_in_order_and_one_sample_a_seed(engine):
    prompts = [TREE, "a longer one: " + TREE * 4, "short", CHAT]
    requests = [request(prompt, seeds=n) for n, prompt in enumerate(prompts, 1)]
    completions = engine.generate(requests)
    assert [len(c.samples) for c in completions] == [1, 2, 3, 4]
    tokens = [c.prompt_tokens for c in completions]
    assert all(n > 0 for n in tokens)
    assert tokens[1] > tokens[0] > tokens[2], "each completion is its own prompt's"
    assert not any(c.truncated for c in completions)


def test_the_finished_samples_of_a_call_are_its_result(engine):
    """Each sample comes exactly once, with the other values of its completion."""
    long = request("long tree " * 400, tokens=24, seeds=2)
    requests = [request(seeds=5), long, request(CHAT, seeds=3), request(seeds=0)]
    every: list[Finished] = []
    completions = engine.generate(requests, every.append)
    assert engine.generate(requests) == completions, "with and without them"
    places = [(finished.request, place) for finished in every for place in finished.places]
    assert sorted(places) == [(r, p) for r, c in enumerate(completions) for p in range(len(c.samples))]  # fmt: skip
    for finished in every:
        whole = completions[finished.request]
        assert finished.completion == replace(whole, samples=tuple(whole.samples[p] for p in finished.places))  # fmt: skip


@pytest.mark.parametrize("name", REAL, indirect=True)
def test_a_short_sample_comes_before_the_long_ones_of_its_call(engine):
    """Although the long ones are asked for first: no sample waits for the end of the call."""
    order: list[int] = []
    long, short = request("long tree " * 8, tokens=150, seeds=4), request(tokens=1)
    engine.generate([long, short], lambda finished: order.append(finished.request))
    assert order[0] == 1
    assert sorted(set(order)) == [0, 1]


def test_what_is_raised_where_a_sample_arrives_ends_the_call(script):
    class Stopped(BaseException):
        pass

    def stop(finished: Finished) -> None:
        raise Stopped

    for load in (create_engine, EngineProcess):
        engine = load(config("scripted", script))
        with pytest.raises(Stopped):
            engine.generate([request(seeds=3)], stop)
        engine.close()


def test_nothing_asked_nothing_given(engine):
    assert engine.generate([]) == []
    [completion] = engine.generate([request(seeds=0)])
    assert completion.samples == ()
    assert completion.prompt_tokens > 0


def test_the_same_call_gives_the_same_samples(engine):
    requests = [request(seeds=4), request("Which other tree?", seeds=2)]
    engine.generate(requests)  # vLLM's prefix cache is warm from here on
    assert engine.generate(requests) == engine.generate(requests)


@pytest.mark.parametrize("name", EXACT, indirect=True)
def test_a_sample_is_its_prompt_and_seeds_alone(engine):
    """Whatever else is in the call."""
    [together] = engine.generate([request(seeds=6)])
    mixed = engine.generate([request("another tree", seeds=3), request(seeds=6)])[1]
    assert mixed == together
    [last] = engine.generate([Request(TREE, SamplingParams(1.0, 24), (12,))])
    assert last.samples == together.samples[5:]


def test_seeds_make_samples_differ(engine):
    [completion] = engine.generate([request(seeds=12)])
    assert len(set(texts(completion))) >= 4


def test_without_temperature_all_samples_are_one(engine):
    [completion] = engine.generate([request(temperature=0.0, seeds=3)])
    assert len(set(texts(completion))) == 1


def test_generation_ends_at_max_tokens(engine):
    [completion] = engine.generate([request("a long tree, a long story", tokens=2, seeds=8)])
    for sample in completion.samples:
        assert 0 < sample.decode_tokens <= 2
        assert sample.finish_reason in ("stop", "length")
    cut = [s for s in completion.samples if s.finish_reason == "length"]
    assert cut, "two tokens are not enough for all of them"
    assert all(s.decode_tokens == 2 for s in cut)


def test_stop_strings_end_a_completion(engine, name):
    stop = "\n\n" if name in SCRIPTED else "e"
    [free] = engine.generate([request(tokens=24, seeds=8)])
    assert any(stop in text for text in texts(free)), "the test needs samples that hold it"
    [stopped] = engine.generate([request(tokens=24, seeds=8, stop=(stop, "never to be seen"))])
    assert not any(stop in text for text in texts(stopped))
    ended = [s for s in stopped.samples if s.finish_reason == "stop"]
    assert ended
    assert min(s.decode_tokens for s in ended) < 24
    assert sum(s.decode_tokens for s in stopped.samples) < sum(s.decode_tokens for s in free.samples)  # fmt: skip


def test_a_prompt_too_long_loses_its_middle_and_says_so(engine, name):
    long = request("long tree " * 400, tokens=24, seeds=2)
    cut, whole = engine.generate([long, request()])
    assert (cut.truncated, whole.truncated) == (True, False)
    most = CONTEXT - 24
    assert most - UNUSED_CONTEXT.get(name, 0) <= cut.prompt_tokens <= most
    assert all(0 < s.decode_tokens <= 24 for s in cut.samples)


def test_max_tokens_that_leave_no_room_for_a_prompt_are_refused(engine):
    with pytest.raises(EngineError, match="lower decode_tokens"):
        engine.generate([request(tokens=CONTEXT)])
    assert engine.generate([request()]), "and the engine lives on"


@pytest.mark.parametrize("name", REAL, indirect=True)
def test_template_arguments_are_applied_and_the_end_of_the_prompt_is_returned(engine, name):
    plain, opened, completion = engine.generate(
        [
            request(CHAT, temperature=0, tokens=4),
            request(CHAT, temperature=0, tokens=4, template_args={"opened": True}, keep_special=True),
            request("Which tree?", temperature=0, tokens=4),
        ]
    )  # fmt: skip
    if name == "endpoint":  # the prompt is written by the server
        assert plain.prompt_end == opened.prompt_end == ""
        return
    assert plain.prompt_end.endswith("tree? ")
    assert opened.prompt_end.endswith("<think>\n")
    assert opened.prompt_tokens > plain.prompt_tokens
    assert completion.prompt_end == ""
    assert all(len(c.samples) == 1 for c in (plain, opened, completion))


@pytest.mark.parametrize("name", REAL, indirect=True)
def test_chat_with_a_model_without_a_template_is_refused(name, loaded):
    base = loaded(name, chat=False)
    with pytest.raises(EngineError, match="has no chat template.*few_shot_completion"):
        base.generate([request(CHAT)])
    assert base.generate([request()]), "completions work"


@pytest.mark.parametrize("name", REAL, indirect=True)
def test_a_killed_engine_is_taken_for_one_out_of_memory(name, loaded):
    """SIGKILL is all that is seen of the kernel's out-of-memory killer."""
    base = loaded(name, chat=False)
    assert isinstance(base, EngineProcess)
    os.kill(base.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EngineError, match="killed by SIGKILL") as caught:
            base.generate([request()])
        assert caught.value.kind == "OOM"
    until(lambda: not group_members(base.pid), pause=0.1)


@pytest.mark.processes
def test_an_engine_that_is_killed_in_a_call_has_passed_on_what_was_finished(script):
    slow = EngineProcess(config("scripted", script, seconds_per_sample=0.05))
    every: list[Finished] = []

    def kill(finished: Finished) -> None:
        every.append(finished)
        if len(every) == 3:
            os.kill(slow.pid, signal.SIGKILL)

    with pytest.raises(EngineError, match="killed by SIGKILL"):
        slow.generate([request(seeds=1000)], kill)
    slow.close()
    assert [finished.places for finished in every[:3]] == [(0,), (1,), (2,)]
    assert len(every) < 1000


def test_an_engine_before_another_one_passes_samples_on(script, tmp_path):
    phases = noted(create_engine, PhaseNotes(tmp_path))(config("scripted", script))
    for engine in (phases, WrappedEngine(phases)):
        every: list[Finished] = []
        [completion] = engine.generate([request(seeds=3)], every.append)
        assert (
            tuple(s for finished in every for s in finished.completion.samples)
            == completion.samples
        )


def test_a_broken_model_is_an_engine_error(name, tmp_path, request, loaded):
    path = tmp_path / "broken"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')  # fmt: skip
    if name == "endpoint":
        broken = on_server(request.getfixturevalue("tiny_server"), "broken")
    else:
        broken = config(name, path)
    # Libraries that are imported once more for it take up to 8 s of a core.
    load = loaded(name)._ask if name in LIBRARIES else create_engine
    with pytest.raises(EngineError) as caught:
        load(broken)
    assert caught.value.kind == "FAILED"
    assert "broken" in str(caught.value), "it says which"


# Last, since a test after it would load an engine again.
def test_closing_gives_the_memory_back(loaded, name):
    engine = loaded(name, keep=False)
    engine.generate([request()])
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate([request()])
    if isinstance(engine, EngineProcess):
        # The processes are given a moment to be reaped.
        until(lambda: not group_members(engine.pid), pause=0.1)
    else:
        assert name in SCRIPTED, "every engine with a model to load has a process of its own"
