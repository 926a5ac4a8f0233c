"""The engine interface: prompts and seeds in, samples with token counts out.

Nothing here imports torch, vLLM or transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from agenttts.inference.placement import PLACING_OPTIONS
from agenttts.replies import COMMON_THINKING, Thinking

PromptStyle = Literal["chat", "few_shot_chat", "few_shot_completion"]
PROMPT_STYLES: tuple[PromptStyle, ...] = ("chat", "few_shot_chat", "few_shot_completion")
EngineName = Literal["vllm", "transformers", "endpoint", "scripted"]

Message = Mapping[str, str]
"""A chat message: {"role": "system"|"user"|"assistant", "content": text}."""


@dataclass(frozen=True)
class Prompt:
    """A prompt before a model's style is applied.

    ``system`` holds the instructions. ``shots`` are worked examples as (user, assistant) pairs,
    used by the few-shot styles. ``user`` is the question to answer. ``stop`` are strings that end a
    *completion*; without them base models go on and write the next example. ``label`` starts the
    reply in a completion (e.g. "Answer:").
    """

    system: str
    user: str
    shots: tuple[tuple[str, str], ...] = ()
    label: str = "Answer:"
    stop: tuple[str, ...] = ("\n\n",)


@dataclass(frozen=True)
class SamplingParams:
    """How to draw samples; ``max_tokens`` bounds the generated tokens of a sample."""

    temperature: float
    max_tokens: int
    top_p: float = 1.0


# The keys of a model's record since protocol 9 of `agenttts.trial.spec`.
_LATER_KEYS = ("chat_form", "sampling")


@dataclass(frozen=True)
class ModelConfig:
    """A model as an engine needs it: its location, and how to run it.

    ``path`` is a directory (or a hub id where a hub is reachable; for the engine ``endpoint``, the
    server's id of the model). ``options`` go to the engine by
    name (for vLLM: ``dtype``, ``quantization``, ``max_model_len``, ``tensor_parallel_size``, ...).
    ``template_args`` go to the chat template. ``thinking`` holds the markers around the model's
    thinking; None if it has no thinking. ``weights`` is the fingerprint of a local directory
    (`agenttts.inference.fingerprint`); None without a local directory. ``rules`` is the version of
    the rules for the addresses of its samples (`sample_key`); it is 1 in runs that were launched
    before there were other rules. ``chat_form`` is empty unless the model's chat template leaves
    out a message without an error (`agenttts.inference.chat_form`). It is the form in which the
    template writes all messages. ``sampling`` are further sampling parameters of every sample, as
    vLLM names them (`agenttts.inference.sampling_options`); it is empty in runs that were launched
    before they were applied.
    """

    name: str
    path: str
    revision: str | None = None
    engine: EngineName = "vllm"
    prompt_style: PromptStyle = "chat"
    gpus: int = 1
    options: Mapping[str, object] = field(default_factory=dict)
    template_args: Mapping[str, object] = field(default_factory=dict)
    thinking: Thinking | None = COMMON_THINKING
    weights: str | None = None
    rules: int = 1
    chat_form: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> Path | None:
        """Where the model's files are; None for a hub id, or a model on a server."""
        path = Path(self.path)
        return path if self.engine != "endpoint" and path.is_absolute() else None

    @property
    def later_keys(self) -> tuple[str, ...]:
        """The keys of its record that images of earlier versions do not know."""
        return tuple(name for name in _LATER_KEYS if getattr(self, name))

    def to_record(self) -> dict[str, Any]:
        """Return the record of the configuration for a program in an image.

        Keys that were added later are left out where they say nothing, because images of earlier
        versions refuse unknown keys, and a run goes on with the image that it has.
        """
        said = self.later_keys
        return {k: v for k, v in asdict(self).items() if k in said or k not in _LATER_KEYS}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration in a record; inverse of `to_record`.

        Records may also be of `dataclasses.asdict`. Those of earlier versions lack the keys that
        were added since.
        """
        values = dict(record)
        if "thinking" in values:
            values["thinking"] = Thinking.from_record(values["thinking"])
        return cls(**values)


@dataclass(frozen=True)
class Request:
    """``len(seeds)`` samples of one prompt, sample i drawn with ``seeds[i]``.

    ``content`` is a rendered prompt: chat messages or, for completions, plain text. ``stop`` ends a
    completion. ``template_args`` are for the chat template. ``keep_special`` keeps special tokens
    in the text, except the end token. ``schema`` is the JSON schema of the samples, for engines
    that can enforce it.
    """

    content: str | tuple[Message, ...]
    params: SamplingParams
    seeds: tuple[int, ...]
    stop: tuple[str, ...] = ()
    template_args: Mapping[str, object] = field(default_factory=dict)
    keep_special: bool = False
    schema: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Sample:
    """One generated sample; ``decode_tokens`` includes the end token."""

    text: str
    decode_tokens: int
    finish_reason: str  # "stop" or "length"; of a server also "content_filter"


@dataclass(frozen=True)
class Completion:
    """The samples of one request, in the order of its seeds.

    The prompt is counted once. ``prompt_end`` is the last characters (up to `PROMPT_END`) of a chat
    prompt as its template wrote it, which may have begun the reply. It is empty for plain text.
    """

    samples: tuple[Sample, ...]
    prompt_tokens: int
    truncated: bool = False
    prompt_end: str = ""


CONTEXT_OPTION = "max_model_len"
"""The option of engines that sets the context."""

PROMPT_END = 200
"""Characters of a prompt's end that an engine returns.

This is longer than any marker and the line breaks after it.
"""


@dataclass(frozen=True)
class Finished:
    """Samples of one request that are finished before the call is.

    ``request`` is the position of the request in the call. ``places`` are the positions of the
    samples' seeds in ``seeds`` of the request. ``completion`` has these samples in the order of
    ``places``, with the other values of the request's completion.
    """

    request: int
    places: tuple[int, ...]
    completion: Completion


OnFinished = Callable[[Finished], object]
"""Gets the samples that an engine has finished, while its call goes on."""


class Engine(Protocol):
    """Generates samples from one model.

    Contract:

    - `generate` returns one `Completion` per request, in order.
    - While a call goes on, the engine passes each sample to ``on_finished`` soon after the sample
      is finished. Before `generate` returns, ``on_finished`` has got every sample of the result
      exactly once, in any order. When a call fails, ``on_finished`` has got the samples that were
      finished before. ``on_finished`` is called in the thread that called `generate`; what it
      raises ends the call.
    - The same request with the same seeds gives the same samples, up to the numerics of batching.
    - `generate` may be called any number of times until `close`. `close` releases the model's
      memory and may be called twice.
    - A prompt too long for the model's context loses tokens from its middle, because head and tail
      carry instructions and question. It is marked ``truncated``.
    - Every failure to load or run the model raises `EngineError`.
    - An engine may have two more methods. ``sleep()`` gives up the memory of its GPUs until
      ``wake()``; it returns False if it cannot.
    """

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]: ...

    def close(self) -> None: ...


def put_to_sleep(engine: Engine) -> bool:
    """Have an engine give up the memory of its GPUs until `wake`; False if it cannot."""
    sleep = getattr(engine, "sleep", None)
    return bool(sleep is not None and sleep())


def wake(engine: Engine) -> None:
    """Undo `put_to_sleep`."""
    engine.wake()  # type: ignore[attr-defined]  # an engine that sleeps has it


class WrappedEngine:
    """Base of engines that wrap another one, and pass on what they do not change."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        """Return what the engine generates."""
        return self._engine.generate(requests, on_finished)

    def sleep(self) -> bool:
        """Put the engine to sleep; return False if it cannot."""
        return put_to_sleep(self._engine)

    def wake(self) -> None:
        """Wake the engine."""
        wake(self._engine)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


FailureKind = Literal["OOM", "FAILED", "INFRA_FAILED"]


class EngineError(Exception):
    """The engine could not load or run its model.

    ``kind`` distinguishes memory exhaustion from other failures. INFRA_FAILED is a failure of what
    the engine depends on, such as a server or a file system; it says nothing about the allocation.
    ``ended`` says that the engine's process has ended, so that the next call needs a start.
    """

    def __init__(self, message: str, *, kind: FailureKind = "FAILED", ended: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.ended = ended


class ServerSilent(EngineError):
    """A model's server takes requests and has answered none in time.

    Other requests would wait in vain.
    """


def render(prompt: Prompt, style: PromptStyle) -> tuple[str | tuple[Message, ...], tuple[str, ...]]:
    """Apply a model's prompt style.

    Returns:
        The content and the stop strings.
    """
    if style == "few_shot_completion":
        blocks = [prompt.system] if prompt.system else []
        blocks += [f"{user}\n{prompt.label} {reply}" for user, reply in prompt.shots]
        blocks.append(f"{prompt.user}\n{prompt.label}")
        return "\n\n".join(blocks), prompt.stop
    messages: list[Message] = []
    if prompt.system:
        messages.append({"role": "system", "content": prompt.system})
    if style == "few_shot_chat":
        for user, reply in prompt.shots:
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": prompt.user})
    return tuple(messages), ()


def sample_key(
    model: ModelConfig,
    content: str | tuple[Message, ...],
    params: SamplingParams,
    run_seed: int,
    stop: tuple[str, ...] = (),
) -> str:
    """Return the address of a prompt's samples: 32 hex digits.

    Two prompts share samples exactly when the following are equal:

    - the model: its path and the fingerprint of the files there; for a script, its text; for a
      model on a server, the server's id of it (the address of the server only places it)
    - its revision, its engine and the engine's options
    - the rendered prompt, for a chat with the arguments of its template, and its form if the
      template leaves out a message
    - the stop strings
    - the sampling parameters, those of the model's options, and the run seed

    The number of samples is not part of the address: k samples are samples 0..k-1. Empty values are
    left out of the address, so that samples stored before a key existed are found.

    With ``rules`` 2 of a model, options that only place or size its engine are left out, and 1 and
    1.0 are the same temperature. With ``rules`` 3 the option ``max_model_len`` is left out as well.
    Samples of a prompt that is cut for a known context have another address (`cut_key`). For a
    model without these options all rules give the same address.
    """
    options, numbers = dict(model.options), [params.temperature, params.max_tokens, params.top_p]
    if model.rules >= 2:
        options = {name: value for name, value in options.items() if name not in PLACING_OPTIONS}
        numbers = [float(params.temperature), params.max_tokens, float(params.top_p)]
    if model.rules >= 3:
        options.pop(CONTEXT_OPTION, None)
    address: dict[str, Any] = {
        "model": [_identity(model), model.revision, model.engine, options],
        "content": content if isinstance(content, str) else [dict(m) for m in content],
        "stop": stop,
        "params": numbers,
        "seed": run_seed,
    }
    if model.template_args and not isinstance(content, str):
        address["template_args"] = dict(model.template_args)
    if model.weights is not None:
        address["weights"] = model.weights
    if model.chat_form and not isinstance(content, str):
        address["chat_form"] = model.chat_form
    if keeps_special(model):
        address["special"] = True
    if model.sampling:
        address["sampling"] = dict(model.sampling)
    text = json.dumps(address, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cut_key(
    model: ModelConfig,
    context: int | None,
    content: str | tuple[Message, ...],
    params: SamplingParams,
    run_seed: int,
    stop: tuple[str, ...] = (),
) -> str | None:
    """Return the address of a prompt's samples if the prompt is cut.

    By the rules before 3 it is that of all samples of a model with this ``max_model_len``.

    Args:
        model: The model.
        context: The engine's context in tokens; None: not known.
        content: As for `sample_key`.
        params: As for `sample_key`.
        run_seed: As for `sample_key`.
        stop: As for `sample_key`.

    Returns:
        None if it is the address of the samples that are not cut.
    """
    stated = model.options.get(CONTEXT_OPTION)
    if context is None or (model.rules < 3 and stated == context):
        return None
    options = {**model.options, CONTEXT_OPTION: context}
    return sample_key(
        replace(model, rules=min(model.rules, 2), options=options), content, params, run_seed, stop
    )


def keeps_special(model: ModelConfig) -> bool:
    """Return whether a model's samples keep special tokens.

    Some models mark their thinking with special tokens only.
    """
    return model.thinking is not None and model.thinking.special


def _identity(model: ModelConfig) -> str:
    """Return what identifies a model: its path, or the digest of a script.

    A script is a small file that people edit, so its path does not identify it.
    """
    return _script_digest(model.path) if model.engine == "scripted" else model.path


@cache
def _script_digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return path  # the engine reports what is wrong with it


def sample_seed(key: str, index: int) -> int:
    """Return the seed of sample ``index`` under ``key``.

    It has 31 bits, so that every engine accepts it. Each sample has its own seed, because one seed
    for all samples would make them identical.
    """
    return int.from_bytes(hashlib.sha256(f"{key}:{index}".encode()).digest()[:4], "big") >> 1
