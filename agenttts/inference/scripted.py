"""The scripted engine: replies from a file instead of a model.

It serves to try a job spec, a task or a cluster's settings without weights or GPUs. It ships as an
ordinary engine. A model's ``path`` is a JSON or YAML file:

```yaml
rules:  # the first rule whose strings all occur in the prompt replies
- contains: ["Which river", "Answer:"]
  replies:
  - {text: "the Danube", weight: 3}  # drawn by weight (default 1) with the sample's seed
  - {text: "the Rhine"}
default: "I do not know"  # when no rule matches
```

A token is a whitespace-separated word. A finished reply takes one more token, its end token. At
temperature 0 the engine gives the reply with the largest weight (of equals, the first). Options:

- ``seconds_per_sample`` (number): sleep this long for each sample, to make long trials;
- ``fail`` (``OOM`` or ``FAILED``): loading raises `EngineError` of that kind, to test how a run
  handles it;
- ``max_model_len`` (integer, words): the context, after which prompts are truncated;
- ``thinking`` (mapping): replies come with thinking, as reasoning models write it
  (`agenttts.inference.scripted_thinking`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from agenttts.errors import UserError, located, valid_names
from agenttts.files.documents import parse_json
from agenttts.inference.base import (
    Completion,
    EngineError,
    Finished,
    Message,
    ModelConfig,
    OnFinished,
    Request,
    Sample,
    SamplingParams,
)
from agenttts.inference.scripted_thinking import ScriptedThinking
from agenttts.inference.tokenization import fit
from agenttts.replies import Thinking
from agenttts.spec.section import Options
from agenttts.spec.strict import read_options


@dataclass(frozen=True)
class Reply:
    """A reply and its weight (above 0), relative to the other replies of its rule."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Rule:
    """Replies to the prompts that contain every string of ``contains``."""

    contains: tuple[str, ...]
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Script:
    """The content of a script file."""

    rules: tuple[Rule, ...]
    default: str


class ScriptedOptions(Options):
    """The options of the engine ``scripted``; see the module."""

    seconds_per_sample: Annotated[float, Field(ge=0, description="a number of 0 or more")] = 0.0
    """Seconds that each sample takes, to make long trials."""
    fail: Annotated[Literal["OOM", "FAILED"] | None, Field(description="OOM, FAILED")] = None
    """Loading fails with this kind, to test how a run handles it."""
    max_model_len: Annotated[int | None, Field(ge=1, description="a whole number of 1 or more")] = (
        None
    )
    """Words of the context, after which prompts are truncated."""
    thinking: Annotated[
        ScriptedThinking | None,
        Field(description=f"a mapping with keys of {', '.join(ScriptedThinking.model_fields)}"),
    ] = None
    """Replies come with thinking, as reasoning models write it."""


class ScriptedEngine:
    """Gives the replies of the script at ``config.path``; see the module.

    Raises:
        EngineError: The script or an option is wrong, or the option ``fail`` asks for it.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._name = config.name
        self._closed = False
        try:
            with located("options"):
                options = read_options(ScriptedOptions, config.options, "engine scripted")
            self._script = read_script(Path(config.path))
        except UserError as error:
            raise EngineError(f"model '{config.name}': {error}") from error
        self._options = options
        if options.fail is not None:
            raise EngineError(
                f"model '{config.name}' failed to load, as its option fail: {options.fail} asks",
                kind=options.fail,
            )

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        """Return one completion per request, in order."""
        if self._closed:
            raise EngineError(f"the engine of model '{self._name}' is closed")
        return [
            self._complete(position, request, on_finished)
            for position, request in enumerate(requests)
        ]

    def close(self) -> None:
        """Close the engine; later calls of `generate` raise."""
        self._closed = True

    def _complete(
        self, position: int, request: Request, on_finished: OnFinished | None
    ) -> Completion:
        text = _prompt_text(request.content)
        words, truncated = fit(text.split(), self._options.max_model_len, request.params.max_tokens)
        replies = self._replies(" ".join(words) if truncated else text)
        thinking = self._options.thinking
        if thinking is not None and isinstance(request.content, str):
            thinking = thinking.model_copy(update={"opened": False})  # plain text has no template
        whole = Completion((), len(words), truncated, thinking.prompt_end if thinking else "")
        samples: list[Sample] = []
        for place, seed in enumerate(request.seeds):
            if self._options.seconds_per_sample:
                time.sleep(self._options.seconds_per_sample)
            reply = _choose(replies, request.params.temperature, seed)
            samples.append(_sample(_with_thinking(reply, thinking, request.params, seed), request))
            if on_finished is not None:
                on_finished(Finished(position, (place,), replace(whole, samples=(samples[-1],))))
        return replace(whole, samples=tuple(samples))

    def _replies(self, text: str) -> tuple[Reply, ...]:
        for rule in self._script.rules:
            if all(part in text for part in rule.contains):
                return rule.replies
        return (Reply(self._script.default),)


def read_script(path: Path) -> Script:
    """Read the script in a JSON or YAML file.

    Raises:
        UserError: The file is wrong; the message names the file and the rule (counted from 1).
    """
    try:
        source = path.read_text(encoding="utf-8-sig")
        content = parse_json(source) if path.suffix == ".json" else yaml.safe_load(source)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is neither JSON nor YAML: {error}") from error
    _check_keys(content, f"{path}", required=("default",), optional=("rules",))
    rules = content.get("rules", [])
    if not isinstance(rules, list):
        raise UserError(f"{path}: 'rules' must be a list")
    return Script(
        rules=tuple(_rule(rule, f"{path}: rule {n}") for n, rule in enumerate(rules, 1)),
        default=_string(content["default"], f"{path}: 'default'"),
    )


def _rule(content: Any, where: str) -> Rule:
    _check_keys(content, where, required=("contains", "replies"))
    contains, replies = content["contains"], content["replies"]
    if not isinstance(contains, list):
        raise UserError(f"{where}: 'contains' must be a list of strings")
    if not isinstance(replies, list) or not replies:
        raise UserError(f"{where}: 'replies' must be a list of at least one reply")
    return Rule(
        contains=tuple(_string(part, f"{where}: 'contains'") for part in contains),
        replies=tuple(_reply(r, f"{where}, reply {n}") for n, r in enumerate(replies, 1)),
    )


def _reply(content: Any, where: str) -> Reply:
    _check_keys(content, where, required=("text",), optional=("weight",))
    weight = content.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e300:
        raise UserError(f"{where}: weight {weight!r} must be a number above 0")
    return Reply(_string(content["text"], f"{where}: 'text'"), float(weight))


def _check_keys(
    content: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    valid = (*required, *optional)
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a mapping with the keys {', '.join(valid)}")
    for key in content:
        if key not in valid:
            raise UserError(f"{where}: unknown key '{key}'; {valid_names(key, valid)}")
    for key in required:
        if key not in content:
            raise UserError(f"{where}: the key '{key}' is missing")


def _string(content: Any, where: str) -> str:
    if not isinstance(content, str):
        raise UserError(f"{where}: {content!r} is not a text; put it in quotes")
    return content


def script_thinking(options: Mapping[str, Any]) -> Thinking | None:
    """Return the markers of a scripted model by its options.

    None if it does not think, or if its options are wrong.
    """
    try:
        thinking = read_options(ScriptedOptions, options, "engine scripted").thinking
    except UserError:  # the engine reports what is wrong with it
        return None
    return Thinking((thinking.start,), (thinking.end,)) if thinking else None


def _prompt_text(content: str | tuple[Message, ...]) -> str:
    return content if isinstance(content, str) else "\n".join(m["content"] for m in content)


def _choose(replies: tuple[Reply, ...], temperature: float, seed: int) -> str:
    if temperature == 0:
        return max(replies, key=lambda reply: reply.weight).text
    chosen = random.Random(seed).choices(replies, weights=[reply.weight for reply in replies])
    return chosen[0].text


def _with_thinking(
    reply: str, thinking: ScriptedThinking | None, params: SamplingParams, seed: int
) -> str:
    if thinking is None:
        return reply
    return thinking.around(reply, params.max_tokens, params.temperature, seed)


def _sample(text: str, request: Request) -> Sample:
    cuts = [place for stop in request.stop if (place := text.find(stop)) >= 0]
    text = text[: min(cuts)] if cuts else text
    words = text.split()
    limit = request.params.max_tokens
    if len(words) < limit:
        return Sample(text, len(words) + 1, "stop")
    return Sample(text if len(words) == limit else " ".join(words[:limit]), limit, "length")
