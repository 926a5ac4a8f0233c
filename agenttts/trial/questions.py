"""Questions of the search that a worker answers, as files in its directory.

In the directory of a worker (a job that stays with its engines loaded):

- ``questions/NAME.json``: a question. The controller alone writes there. It removes a question
  that it has given up.
- ``answers/NAME.taken``: the program has read the question.
- ``answers/NAME.ready``: the engine is loaded, and the answer begins.
- ``answers/NAME.json``: the answer, or why there is none. The program alone writes in ``answers``.

A name is made of the key of the question and a number. A controller that is started again finds
the answers to the questions of the one before. An answer is not a sample of a trial, and is not in
the sample store.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from agenttts.errors import AgentTTSError
from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import read_object, typed
from agenttts.inference.base import EngineError, Message, ModelConfig, Request, SamplingParams
from agenttts.trial.command import AskedQuestion

if TYPE_CHECKING:
    from agenttts.inference.sampler import Sampler

_QUESTIONS = "questions"
_ANSWERS = "answers"
_TAKEN = ".taken"
_READY = ".ready"


@dataclass(frozen=True)
class Question:
    """A chat that is to be continued with one reply.

    ``model`` is the model whose engine answers. ``template_args`` are for its chat template,
    ``schema`` is the JSON schema of the reply, and ``keep_special`` is as in `Request`.
    """

    model: ModelConfig
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    seed: int
    template_args: Mapping[str, Any] = field(default_factory=dict)
    keep_special: bool = False
    schema: Mapping[str, Any] | None = None

    @property
    def request(self) -> Request:
        """The request to the engine."""
        return Request(
            content=self.messages,
            params=SamplingParams(self.temperature, self.max_tokens),
            seeds=(self.seed,),
            template_args=self.template_args,
            keep_special=self.keep_special,
            schema=self.schema,
        )

    @classmethod
    def read(cls, file: Path) -> Question | None:
        """Return the question in a file; None if it was removed or cannot be read."""
        document = read_object(file)
        try:
            model = ModelConfig.from_record(document["model"])
            messages = tuple(dict(message) for message in document["messages"])
            return cls(**{**document, "model": model, "messages": messages})
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class QuestionAnswer:
    """A reply, or why there is none.

    ``truncated`` says that the prompt was too long for the model's context. ``error`` is empty for
    a reply.
    """

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    truncated: bool = False
    error: str = ""


class QuestionBox:
    """The questions to a worker and its answers, as the controller sees them.

    Args:
        directory: The worker's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._questions = directory / _QUESTIONS
        self._answers = directory / _ANSWERS

    def ask(self, key: str, question: Question) -> str:
        """Write a question; return its name.

        Raises:
            OSError: It cannot be written, e.g. because the worker's directory was removed.
        """
        self._questions.mkdir(exist_ok=True)
        used = {*self._names(self._questions, key), *self._names(self._answers, key)}
        numbers = [int(name.rpartition("-")[2]) for name in used]
        name = f"{key}-{max(numbers, default=0) + 1}"
        document = {**asdict(question), "model": question.model.to_record()}
        atomic_write_json(self._question(name), document)
        return name

    def open(self, key: str) -> list[str]:
        """Return the names of the open questions of a key.

        They have no answer and were not given up.
        """
        names = self._names(self._questions, key)
        return [name for name in names if self.answer(name) is None]

    def answered(self, key: str) -> QuestionAnswer | None:
        """Return a reply to any question of a key, however old; None if there is none."""
        answers = (self.answer(name) for name in self._names(self._answers, key))
        return next((answer for answer in answers if answer and not answer.error), None)

    def answer(self, name: str) -> QuestionAnswer | None:
        """Return the answer to a question; None if there is none yet."""
        self._look_anew()
        document = read_object(self._answers / f"{name}.json")
        if not document:
            return None
        try:
            return typed(QuestionAnswer, document)
        except ValueError as error:
            return QuestionAnswer(error=f"its answer {name} cannot be read: {error}")

    def is_taken(self, name: str) -> bool:
        """Return whether the worker's program has read the question."""
        return (self._answers / f"{name}{_TAKEN}").exists()

    def is_ready(self, name: str) -> bool:
        """Return whether the engine is loaded that answers the question."""
        return (self._answers / f"{name}{_READY}").exists()

    def give_up(self, name: str) -> None:
        """Remove a question, so that it is not answered if that has not begun."""
        with suppress(OSError):
            self._question(name).unlink(missing_ok=True)

    def _question(self, name: str) -> Path:
        return self._questions / f"{name}.json"

    def _look_anew(self) -> None:
        with suppress(OSError):  # NFS looks for a file again when its directory is listed
            list(self._answers.iterdir())

    @staticmethod
    def _names(folder: Path, key: str) -> list[str]:
        return sorted(file.stem for file in folder.glob(f"{key}-*.json"))


class OpenQuestions:
    """The questions to a worker, as its job on the node sees them.

    Args:
        directory: The worker's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._questions = directory / _QUESTIONS
        self._answers = directory / _ANSWERS
        self._handed: set[str] = set()
        self._in_work: set[str] = set()

    def take(self) -> AskedQuestion | None:
        """Return a question without an answer; None if there is none.

        No question is returned twice.

        Raises:
            OSError: The files cannot be read; a later call finds the question.
        """
        for file in sorted(self._questions.glob("[!.]*.json")):
            if file.name not in self._handed:
                answered = (self._answers / file.name).exists()
                self._handed.add(file.name)
                if not answered:
                    self._in_work.add(file.name)
                    return AskedQuestion(file)
        return None

    def any_in_work(self) -> bool:
        """Return whether a question that `take` returned has no answer yet.

        It does not count if it was given up before the program read it.

        Raises:
            OSError: The files cannot be read.
        """
        self._in_work = {name for name in self._in_work if self._has_to_be_answered(name)}
        return bool(self._in_work)

    def _has_to_be_answered(self, name: str) -> bool:
        if (self._answers / name).exists():
            return False
        taken = (self._answers / name).with_suffix(_TAKEN)
        return (self._questions / name).exists() or taken.exists()


def answer_question(file: Path, sampler: Sampler | None, err: TextIO) -> None:
    """Answer the question in a file with an engine, and store the answer.

    Nothing is stored for a question that was given up.

    Args:
        file: The file of the question.
        sampler: Has the engines; None if no trial has needed one yet.
        err: Gets the errors.
    """
    question = Question.read(file)
    if question is None and not file.exists():
        print(f"question {file.stem} was given up", file=err, flush=True)
        return
    answers = file.parents[1] / _ANSWERS
    answers.mkdir(exist_ok=True)
    (answers / f"{file.stem}{_TAKEN}").touch()
    try:
        if question is None:
            raise EngineError("the question cannot be read by this image; build the image again")
        if sampler is None:
            raise EngineError("none of the worker's trials could begin")
        sampler.load(question.model)
        (answers / f"{file.stem}{_READY}").touch()
        [completion] = sampler.generate(question.model, [question.request])
    except (AgentTTSError, EngineError) as error:
        answer = QuestionAnswer(error=str(error))
    except Exception as error:  # e.g. a chat template that does not take the messages
        traceback.print_exception(error, file=err)
        answer = QuestionAnswer(error=f"{type(error).__name__}: {error}")
    else:
        [sample] = completion.samples
        answer = QuestionAnswer(
            text=sample.text,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=sample.decode_tokens,
            finish_reason=sample.finish_reason,
            truncated=completion.truncated,
        )
    if answer.error:
        print(f"question {file.stem}: {answer.error}", file=err, flush=True)
    atomic_write_json(answers / file.name, asdict(answer))
