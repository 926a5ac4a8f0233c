"""Encode a rendered prompt as token ids: chat template, begin token, truncation.

The engines that hold a real tokenizer share this module. It imports no tokenizer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agenttts.endpoint import without_system
from agenttts.inference.base import (
    PROMPT_END,
    Completion,
    EngineError,
    Message,
    ModelConfig,
    Request,
    Sample,
)
from agenttts.inference.chat_form import (
    MessageLeftOut,
    Messages,
    changed_form,
    day_values,
    shaped,
    template_in,
)

log = logging.getLogger(__name__)
Token = TypeVar("Token")
_END_TOKENS = 64
"""Tokens decoded for a prompt's end; more than any marker takes."""
# The names and paths of models whose templates were tried, and the roles of the messages.
_TRIED: set[tuple[str, str, tuple[str, ...]]] = set()


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model gets it.

    ``end`` and ``truncated`` are as in `agenttts.inference.base.Completion`.
    """

    tokens: list[int]
    end: str
    truncated: bool

    def completion(self, samples: Iterable[Sample]) -> Completion:
        """Return the completion of some samples of this prompt."""
        return Completion(
            samples=tuple(samples),
            prompt_tokens=len(self.tokens),
            truncated=self.truncated,
            prompt_end=self.end,
        )


def encode_request(
    tokenizer: Any, config: ModelConfig, request: Request, context: int | None
) -> EncodedPrompt:
    """Return the prompt of a request, cut to the context.

    Raises:
        EngineError: As for `encode` and `fit`.
    """
    if isinstance(request.content, str):
        tokens, end = encode(tokenizer, config, request.content), ""
    else:
        tokens, end = _chat_tokens(tokenizer, config, request.content, request.template_args)
    kept, truncated = fit(tokens, context, request.params.max_tokens)
    return EncodedPrompt(kept, end, truncated)


def encode(tokenizer: Any, config: ModelConfig, content: str | tuple[Message, ...]) -> list[int]:
    """Return the token ids of a prompt, with the begin token exactly once.

    There is no begin token if the model has none. A chat template writes the begin token itself, so
    the templated text is tokenized without special tokens. Plain text gets them from the tokenizer.

    Raises:
        EngineError: The prompt is chat messages, and the model has no chat template, or one that
            refuses or leaves out a message.
    """
    if isinstance(content, str):
        return list(tokenizer.encode(content))
    return _chat_tokens(tokenizer, config, content, config.template_args)[0]


def fit(tokens: Sequence[Token], context: int | None, max_tokens: int) -> tuple[list[Token], bool]:
    """Cut the prompt to the context less ``max_tokens``.

    The middle is removed: the head carries the instructions, the tail the question (and a chat's
    opening of the reply).

    Returns:
        The prompt, and whether it was cut.

    Raises:
        EngineError: ``max_tokens`` alone fills the context.
    """
    if context is None or len(tokens) + max_tokens <= context:
        return list(tokens), False
    room = context - max_tokens
    if room < 1:
        raise EngineError(
            f"decode_tokens is {max_tokens}, which leaves no tokens for a prompt in a context "
            f"of {context}; lower decode_tokens or raise the model's max_model_len"
        )
    head, tail = (room + 1) // 2, room // 2
    return [*tokens[:head], *tokens[len(tokens) - tail :]], True


def _chat_tokens(
    tokenizer: Any,
    config: ModelConfig,
    content: tuple[Message, ...],
    template_args: Mapping[str, object],
) -> tuple[list[int], str]:
    """Return chat messages as the model's template writes them.

    The text ends where the reply begins.

    Returns:
        The token ids, and the end of the text.
    """
    given = dict(template_args)
    if getattr(tokenizer, "chat_template", "") is None:
        template = _template_of_files(config)
        if template is None:
            raise EngineError(
                f"model '{config.name}' ({config.path}) has no chat template (it may be a base "
                f"model), so prompt_style: {config.prompt_style} is not possible; set "
                "prompt_style: few_shot_completion for it"
            )
        given["chat_template"] = template
    if not config.chat_form:
        _warn_of_left_out(tokenizer, config, tuple(message["role"] for message in content), given)
    # The form is the recorded one, also if the template would be better served by another: it is in
    # the address of the samples.
    messages = shaped(content, config.chat_form or "plain")
    try:
        return _apply_template(tokenizer, messages, given)
    except Exception as error:
        # Some templates refuse the system role (Gemma, early Mistral). Its text then goes to the
        # head of the first user turn.
        merged = None if config.chat_form else without_system(messages)
        if merged is None:
            raise EngineError(
                f"the chat template of model '{config.name}' refused the prompt: {error}"
            ) from error
        try:
            return _apply_template(tokenizer, merged, given)
        except Exception:
            raise EngineError(
                f"the chat template of model '{config.name}' refused the prompt: {error}"
            ) from error


def _warn_of_left_out(
    tokenizer: Any, config: ModelConfig, roles: tuple[str, ...], template_args: Mapping[str, object]
) -> None:
    """Log, once, that a template leaves out a message, which a launch did not see.

    The launch was of an older version, or could not read the template.
    """
    tried = (config.name, config.path, roles)
    if tried in _TRIED or not hasattr(tokenizer, "chat_template"):
        return
    _TRIED.add(tried)

    def render(messages: Messages) -> str:
        written = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **template_args
        )
        return str(written)

    try:
        form = changed_form(render, roles)
        left_out = "a message" if form else ""
    except MessageLeftOut as error:
        left_out = str(error)
    if left_out:
        log.warning(
            "the chat template of model '%s' (%s) leaves out %s, so its samples are of prompts "
            "without it; launch a new run with the model's directory here, or set "
            "prompt_style: few_shot_completion",
            config.name, config.path, left_out,
        )  # fmt: skip


def _template_of_files(config: ModelConfig) -> str | None:
    """Return the chat template in a model's files, for a tokenizer that has none."""
    tokenizer = config.options.get("tokenizer")
    place = Path(tokenizer if isinstance(tokenizer, str) else config.path)
    return template_in(place) if place.is_absolute() else None


def _apply_template(
    tokenizer: Any, messages: Messages, template_args: Mapping[str, object]
) -> tuple[list[int], str]:
    # vLLM's tokenizer of Mistral's own files (tekken.json, tokenizer.model.v3) has no template. It
    # encodes messages, and its `encode` takes the control tokens of a text for plain letters.
    encodes_messages = not hasattr(tokenizer, "chat_template")
    template = template_args.get("chat_template") or getattr(tokenizer, "chat_template", None)
    prompt = tokenizer.apply_chat_template(
        messages,
        tokenize=encodes_messages,
        add_generation_prompt=True,
        **{**day_values(template), **template_args},
    )
    if isinstance(prompt, str):
        return list(tokenizer.encode(prompt, add_special_tokens=False)), prompt[-PROMPT_END:]
    tokens = list(prompt)
    end = tokenizer.decode(tokens[-_END_TOKENS:], skip_special_tokens=False)
    return tokens, str(end)[-PROMPT_END:]
