"""Encode a rendered prompt as token ids: chat template, begin token, truncation.

The engines that hold a real tokenizer share this module. It imports no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agenttts.inference.base import (
    PROMPT_END,
    Completion,
    EngineError,
    Message,
    ModelConfig,
    Request,
    Sample,
)

Token = TypeVar("Token")
_END_TOKENS = 64
"""Tokens decoded for a prompt's end; more than any marker takes."""


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
        EngineError: The prompt is chat messages, and the model has no chat template.
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
    if getattr(tokenizer, "chat_template", "") is None:
        raise EngineError(
            f"model '{config.name}' ({config.path}) has no chat template (it may be a base model), "
            f"so prompt_style: {config.prompt_style} is not possible; set prompt_style: "
            "few_shot_completion for it"
        )
    messages = [dict(message) for message in content]
    try:
        return _apply_template(tokenizer, messages, template_args)
    except Exception as error:
        # Some templates refuse the system role (Gemma, early Mistral). Its text then goes to the
        # head of the first user turn.
        merged = without_system(messages)
        if merged is None:
            raise EngineError(
                f"the chat template of model '{config.name}' refused the prompt: {error}"
            ) from error
        try:
            return _apply_template(tokenizer, merged, template_args)
        except Exception:
            raise EngineError(
                f"the chat template of model '{config.name}' refused the prompt: {error}"
            ) from error


def _apply_template(
    tokenizer: Any, messages: list[dict[str, str]], template_args: Mapping[str, object]
) -> tuple[list[int], str]:
    # vLLM's tokenizer of Mistral's own files (tekken.json, tokenizer.model.v3) has no template. It
    # encodes messages, and its `encode` takes the control tokens of a text for plain letters.
    encodes_messages = not hasattr(tokenizer, "chat_template")
    prompt = tokenizer.apply_chat_template(
        messages, tokenize=encodes_messages, add_generation_prompt=True, **template_args
    )
    if isinstance(prompt, str):
        return list(tokenizer.encode(prompt, add_special_tokens=False)), prompt[-PROMPT_END:]
    tokens = list(prompt)
    end = tokenizer.decode(tokens[-_END_TOKENS:], skip_special_tokens=False)
    return tokens, str(end)[-PROMPT_END:]


def without_system(messages: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """Return a chat with the system's text at the head of the first user turn.

    None if it does not begin with both.
    """
    if len(messages) < 2 or messages[0]["role"] != "system":
        return None
    first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]
