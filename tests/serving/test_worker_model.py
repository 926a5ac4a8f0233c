"""Questions of the search to workers: a thread with a real engine and real files as worker."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agenttts.inference.base import Completion, ModelConfig
from agenttts.inference.sampler import Sampler
from agenttts.inference.scripted import ScriptedEngine
from agenttts.inference.store import SampleStore
from agenttts.search.llm.base import Chat, LLMError
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.scripted import ScriptedLLM
from agenttts.search.llm.transcript import Transcript
from agenttts.serving.worker_model import (
    QuestionSettings,
    WorkerLimits,
    WorkerLLM,
    model_of_search,
)
from agenttts.trial.questions import OpenQuestions, QuestionBox, answer_question
from tests.support.waiting import until

CHAT = Chat("propose", ({"role": "user", "content": "Which one?"},), seed=3)


class Worker:
    """A worker that answers in a thread; `paused` keeps it from taking questions."""

    def __init__(self, directory: Path, *, paused: bool) -> None:
        directory.mkdir()
        self.directory = directory
        self.paused, self.ended = paused, False
        self.answered: list[str] = []
        self._sampler = Sampler(SampleStore(directory / "samples", writer="w"), {}, 1)
        self.thread = threading.Thread(target=self._answer)
        self.thread.start()

    def _answer(self) -> None:
        asked = OpenQuestions(self.directory)
        while not self.ended:
            if not self.paused and (question := asked.take()) is not None:
                answer_question(question.file, self._sampler, io.StringIO())
                self.answered.append(question.file.stem)
            time.sleep(0.01)

    def end(self) -> None:
        self.ended = True


class Workers:
    """The workers of a test, all without trials."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.all: list[Worker] = []
        self.looks = 0

    def add(self, *, paused: bool = False) -> Worker:
        self.all.append(Worker(self._folder / f"w{len(self.all)}", paused=paused))
        return self.all[-1]

    def free(self, model: ModelConfig, seconds: float) -> Sequence[Path]:
        return [worker.directory for worker in self.all if not worker.ended]

    def may_answer(self, model: ModelConfig) -> bool:
        return bool(self.free(model, 0))

    def make_room(self) -> None:
        raise AssertionError("no server is started")

    def lives(self, directory: Path) -> bool:
        return any(w.directory == directory and not w.ended for w in self.all)

    def look(self) -> None:
        self.looks += 1

    def directories(self) -> Sequence[Path]:
        return [worker.directory for worker in self.all]


@pytest.fixture
def workers(tmp_path) -> Iterator[Workers]:
    made = Workers(tmp_path)
    yield made
    for worker in made.all:
        worker.end()
        worker.thread.join()


@pytest.fixture
def model(tmp_path) -> ModelConfig:
    script = tmp_path / "model.json"
    rule = {"contains": ["Which one?"], "replies": [{"text": "the first"}, {"text": "the second"}]}
    script.write_text(json.dumps({"rules": [rule], "default": "what?"}))
    return ModelConfig("strong", str(script), engine="scripted", gpus=0)


@pytest.fixture
def ask(workers, model):
    """What asks the workers, with a server that says that it is the server; and the notes."""
    notes: list[str] = []

    def make(model: ModelConfig = model, **limits: float) -> WorkerLLM:
        server = ScriptedLLM({"replies": [], "then": "the server"})
        limited = WorkerLimits(**({"start_seconds": 30.0, "answer_seconds": 30.0} | limits))
        settings = QuestionSettings(max_tokens=20, temperature=0.7)
        return WorkerLLM(server, model, workers, settings, limited, notes.append)

    return make, notes


def test_a_worker_answers_and_the_server_is_not_asked(ask, workers):
    make, notes = ask
    worker = workers.add()
    reply = make().complete(CHAT)
    assert reply.text in ("the first", "the second")
    assert (reply.finish_reason, reply.completion_tokens, reply.prompt_tokens) == ("stop", 3, 2)
    assert reply.notes == ("answered by worker w0",)
    assert worker.answered == [f"{CHAT.key}-1"]
    assert notes == []
    assert make().complete(CHAT) == reply, "another controller"
    assert len(worker.answered) == 1, "it is not asked again what it has answered"
    other = replace(CHAT, seed=5)
    make().complete(other)
    assert worker.answered[1:] == [f"{other.key}-1"]


def test_without_a_worker_the_server_is_asked(ask, workers):
    make, notes = ask
    assert make().complete(CHAT).text == "the server"
    assert notes == []


def test_the_next_worker_is_asked_if_one_ends_before_it_answers(ask, workers):
    make, notes = ask
    first, second = workers.add(paused=True), workers.add()
    threading.Timer(0.3, first.end).start()
    assert make().complete(CHAT).notes == ("answered by worker w1",)
    assert notes == ["worker w0 ended before it answered"]
    assert QuestionBox(first.directory).open(CHAT.key) == [], "it was given up"
    assert workers.looks > 0
    second.end()
    other = replace(CHAT, seed=5)
    assert make().complete(other).text == "the server"


def test_a_worker_that_cannot_answer_is_not_asked_again(ask, workers, model):
    make, notes = ask
    worker = workers.add()
    llm = make(replace(model, options={"fail": "OOM"}))
    assert llm.complete(CHAT).text == "the server"
    assert llm.complete(replace(CHAT, seed=5)).text == "the server"
    assert len(worker.answered) == 1
    [note] = notes
    assert note.startswith("worker w0 could not answer: model 'strong' failed to load")


def test_the_server_is_asked_if_a_worker_does_not_take_the_question(ask, workers):
    make, notes = ask
    workers.add(paused=True)
    assert make(taken_seconds=0.2).complete(CHAT).text == "the server"
    assert notes == ["worker w0 did not take the question within 0.2 s"]


def test_the_server_is_asked_if_an_engine_does_not_load_in_time(ask, workers):
    make, notes = ask
    workers.add(paused=True)
    assert make(start_seconds=0.2).complete(CHAT).text == "the server"
    assert notes == ["worker w0 had no engine within start_seconds (0.2)"]


def test_a_slow_answer_is_a_timeout_and_is_used_when_it_has_come(ask, workers, model, monkeypatch):
    make, _ = ask
    worker, may_answer = workers.add(), threading.Event()
    generate = ScriptedEngine.generate

    def slowly(engine: ScriptedEngine, *arguments: Any) -> list[Completion]:
        may_answer.wait(60)
        return generate(engine, *arguments)

    monkeypatch.setattr(ScriptedEngine, "generate", slowly)
    llm = make(model, answer_seconds=0.3)
    with pytest.raises(LLMError, match="no answer of worker w0 within 0.3 s") as caught:
        llm.complete(CHAT)
    assert (caught.value.fault, caught.value.again) == ("timeout", True)
    assert llm.complete(replace(CHAT, seed=5)).text == "the server", "the worker is busy"
    may_answer.set()
    until(lambda: worker.answered)
    assert llm.complete(CHAT).notes == ("answered by worker w0",)
    assert len(worker.answered) == 1


def test_a_question_of_the_controller_before_is_waited_for_and_not_asked_twice(ask, workers):
    make, _ = ask
    worker = workers.add(paused=True)
    first = threading.Thread(target=make().complete, args=(CHAT,))
    first.start()
    until(lambda: QuestionBox(worker.directory).open(CHAT.key), pause=0.01)
    threading.Timer(0.2, lambda: setattr(worker, "paused", False)).start()
    assert make().complete(CHAT).notes == ("answered by worker w0",)
    first.join()
    assert worker.answered == [f"{CHAT.key}-1"]


def test_a_prompt_that_is_too_long_is_the_fault_of_the_prompt(ask, workers, model):
    make, _ = ask
    workers.add()
    llm = make(replace(model, options={"max_model_len": 21}))
    with pytest.raises(LLMError, match="exceed the model's context") as caught:
        llm.complete(CHAT)
    assert (caught.value.fault, caught.value.again) == ("context", False)


def test_the_caller_records_a_worker_s_reply_as_a_server_s(ask, workers, tmp_path):
    make, _ = ask
    workers.add()
    transcript = Transcript(tmp_path / "agent.jsonl")
    caller = Caller(make(), transcript, RetryPolicy(retries=0))
    reply = caller.ask(CHAT)
    [event] = transcript.events
    assert (event["event"], event["reply"]) == ("reply", reply.text)
    assert event["notes"] == ["answered by worker w0"]
    workers.all[0].end()
    again = Caller(make(), Transcript(tmp_path / "agent.jsonl"), RetryPolicy(retries=0))
    assert again.ask(CHAT).text == reply.text, "from the transcript"
    assert again.transcript.calls == 1


SERVED = ModelConfig("agent", "/m/qwen", "r1", gpus=2, options={"dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"gpus": 4, "weights": "abcd", "rules": 1}, True),
        ({"template_args": {"enable_thinking": False}, "thinking": None}, True),
        ({"options": {"dtype": "bfloat16", "gpu_memory_utilization": 0.8}}, True),
        ({"path": "/m/other"}, False),
        ({"revision": "r2"}, False),
        ({"options": {}}, False),
        ({"options": {"dtype": "bfloat16", "max_model_len": 9}}, False),
        ({"engine": "transformers"}, False),
    ],
)
def test_which_model_of_the_search_gives_the_replies_of_a_served_one(changes, same):
    model = replace(SERVED, **({"name": "strong"} | changes))
    others = {"weak": replace(SERVED, path="/m/weak"), "strong": model}
    assert model_of_search(SERVED, others) == (model if same else None)
