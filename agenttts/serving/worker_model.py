"""Questions of the search to a worker that has the served model's engine.

A worker is a job of trials that stays with its engines loaded. If the served model is also a model
of a stage, a worker without trials answers in place of the server, which is then not started. If no
worker can answer, the server does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from agenttts.inference.base import ModelConfig, SamplingParams, sample_key
from agenttts.search.llm.base import LLM, Chat, LLMError, Reply
from agenttts.spec import ServeAgent
from agenttts.trial.questions import Question, QuestionAnswer, QuestionBox

log = logging.getLogger(__name__)

TAKEN_WITHIN_S = 120.0
"""Seconds within which a worker has to take a question.

Its job looks once a second. Beyond that, the files of the node may be visible late."""
_FIRST_LOOKS_S = 0.1
_LATER_LOOKS_S = 1.0


def model_of_search(served: ModelConfig, models: Mapping[str, ModelConfig]) -> ModelConfig | None:
    """Return the model of the search whose engine gives the replies of a served model.

    They are the same if their samples have equal addresses (`sample_key`): path, revision, engine
    and the options that do not only place an engine. Arguments of the chat template come with each
    question.
    """
    same = (m for m in models.values() if m.path == served.path and _plain(m) == _plain(served))
    return next(same, None)


def _plain(model: ModelConfig) -> str:
    # The server reads the further sampling parameters from the options, which are compared.
    plain = replace(model, template_args={}, thinking=None, weights=None, rules=2, sampling={})
    return sample_key(plain, "", SamplingParams(0.0, 1), 0)


class AnsweringWorkers(Protocol):
    """The workers of a run, as far as questions are concerned."""

    def free(self, model: ModelConfig, seconds: float) -> Sequence[Path]:
        """Return the directories of the workers that can answer now, the best first.

        Args:
            model: The model whose engine is needed.
            seconds: How long an answer may take.
        """

    def may_answer(self, model: ModelConfig) -> bool:
        """Return whether a worker lives that could answer once it has no trials."""

    def make_room(self) -> None:
        """End the workers without trials, and wait until they have left their GPUs."""

    def lives(self, directory: Path) -> bool:
        """Return whether a worker has not ended."""

    def look(self) -> None:
        """Do what is due while the search waits: give signs, and look at the queue.

        Raises:
            AgentTTSError: The controller has to stop.
        """

    def directories(self) -> Sequence[Path]:
        """Return the directories of all workers, also of those that have ended."""


@dataclass(frozen=True)
class WorkerLimits:
    """Time limits of a question to a worker, in seconds.

    Args:
        start_seconds: Until the engine is loaded.
        answer_seconds: From then until the answer.
        taken_seconds: Until the worker has read the question.
    """

    start_seconds: float
    answer_seconds: float
    taken_seconds: float = TAKEN_WITHIN_S


@dataclass(frozen=True)
class QuestionSettings:
    """What all questions of a run have in common; as for the requests to a server.

    Args:
        max_tokens: The most tokens of a reply.
        temperature: The sampling temperature.
        structured: Whether replies are held to the JSON schema of a question.
        template_args: Arguments of the chat template.
        keep_special: Whether special tokens stay in the replies.
    """

    max_tokens: int
    temperature: float
    structured: bool = True
    template_args: Mapping[str, Any] = field(default_factory=dict)
    keep_special: bool = False


class WorkerLLM:
    """A model that a worker's engine runs; a server runs it where no worker can.

    A worker that fails to answer is not asked again. A worker that takes too long is asked again
    after it has answered. A reply to the same question that an earlier controller, or an earlier
    attempt, did not wait for is used.

    Args:
        server: The model behind its server.
        model: The model of the search whose engine answers.
        workers: The run's workers.
        settings: What all questions have in common.
        limits: How long an answer may take.
        note: Called with a line for each event worth a record.
    """

    def __init__(
        self,
        server: LLM,
        model: ModelConfig,
        workers: AnsweringWorkers,
        settings: QuestionSettings,
        limits: WorkerLimits,
        note: Callable[[str], None],
    ) -> None:
        self.model = server.model
        self._server = server
        self._config = model
        self._workers = workers
        self._settings = settings
        self._limits = limits
        self._note = note
        self._failed: set[Path] = set()
        self._late: dict[Path, str] = {}

    def complete(self, chat: Chat) -> Reply:
        """Make one attempt: ask the workers that can answer, then the server.

        Raises:
            LLMError: A worker takes too long, the prompt is too long for the model, or as the
                server's.
        """
        for directory in self._workers.directories():
            if (answer := QuestionBox(directory).answered(chat.key)) is not None:
                return _reply(answer, directory)
        asked = self._asked_before(chat)
        if asked is not None and (answer := self._wait(*asked)) is not None:
            return _reply(answer, asked[0])
        needed = self._limits.answer_seconds
        for directory in self._workers.free(self._config, needed):
            if self._may_ask(directory) and (answer := self._ask(directory, chat)) is not None:
                return _reply(answer, directory)
        return self._server.complete(chat)

    def close(self) -> None:
        """Close the connection to the server."""
        self._server.close()

    def _asked_before(self, chat: Chat) -> tuple[Path, str] | None:
        """Return where an earlier controller asked, if a worker may yet answer."""
        for directory in self._workers.directories():
            names = QuestionBox(directory).open(chat.key)
            if names and directory not in self._failed and self._workers.lives(directory):
                return directory, names[-1]
        return None

    def _may_ask(self, directory: Path) -> bool:
        if directory in self._late:
            if QuestionBox(directory).answer(self._late[directory]) is None:
                return False
            del self._late[directory]
        return directory not in self._failed

    def _ask(self, directory: Path, chat: Chat) -> QuestionAnswer | None:
        """Ask a worker; return None if it does not answer and another may be asked."""
        settings = self._settings
        question = Question(
            model=self._config,
            messages=chat.messages,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=chat.seed,
            template_args=settings.template_args,
            keep_special=settings.keep_special,
            schema=chat.schema if settings.structured else None,
        )
        try:
            name = QuestionBox(directory).ask(chat.key, question)
        except OSError as error:
            self._note(f"worker {directory.name} cannot be asked: {error}")
            return None
        return self._wait(directory, name)

    def _wait(self, directory: Path, name: str) -> QuestionAnswer | None:
        """Wait for an answer; return None if the worker does not give one."""
        box, limits, began = QuestionBox(directory), self._limits, time.monotonic()
        ready: float | None = None
        while (answer := box.answer(name)) is None:
            now = time.monotonic()
            if ready is None and box.is_ready(name):
                ready = now
            if ready is not None and now - ready > limits.answer_seconds:
                self._give_up(directory, name)
                raise LLMError(
                    "timeout",
                    f"no answer of worker {directory.name} within {limits.answer_seconds:g} s",
                    again=True,
                )
            if problem := self._problem(directory, name, now - began, ready is not None):
                self._give_up(directory, name)
                self._note(f"worker {directory.name} {problem}")
                return box.answer(name)  # it may have come meanwhile
            self._workers.look()
            time.sleep(min(_LATER_LOOKS_S, _FIRST_LOOKS_S + (now - began) / 20))
        if answer.error:
            self._failed.add(directory)
            self._note(f"worker {directory.name} could not answer: {answer.error}")
            return None
        return answer

    def _problem(self, directory: Path, name: str, waited: float, ready: bool) -> str:
        """Return why a worker is not waited for any longer; empty if it is."""
        if not self._workers.lives(directory):
            return "ended before it answered"
        if ready:
            return ""
        if waited > self._limits.start_seconds:
            return f"had no engine within start_seconds ({self._limits.start_seconds:g})"
        if waited > self._limits.taken_seconds and not QuestionBox(directory).is_taken(name):
            return f"did not take the question within {self._limits.taken_seconds:g} s"
        return ""

    def _give_up(self, directory: Path, name: str) -> None:
        QuestionBox(directory).give_up(name)
        self._late[directory] = name


def workers_first(
    server: LLM,
    section: ServeAgent,
    temperature: float,
    fields: Mapping[str, Any],
    model: ModelConfig,
    workers: AnsweringWorkers,
    note: Callable[[str], None],
) -> WorkerLLM:
    """Return a model that the workers with ``model`` run, and else the server.

    ``fields`` are those of requests to the server.
    """
    settings = QuestionSettings(
        max_tokens=section.max_tokens,
        temperature=temperature,
        structured=section.structured,
        template_args=fields.get("chat_template_kwargs", {}),
        keep_special=fields.get("skip_special_tokens") is False,
    )
    limits = WorkerLimits(section.start_seconds, section.timeout_seconds)
    return WorkerLLM(server, model, workers, settings, limits, note)


def _reply(answer: QuestionAnswer, directory: Path) -> Reply:
    if answer.truncated:
        raise LLMError(
            "context",
            f"the prompt of {answer.prompt_tokens} tokens and the reply exceed the model's context",
        )
    return Reply(
        text=answer.text,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        finish_reason=answer.finish_reason,
        notes=(f"answered by worker {directory.name}",),
    )
