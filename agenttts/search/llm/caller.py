"""Call the model: recorded replies first, then attempts with retries.

Calls and tokens are capped for each run.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agenttts.endpoint import estimated_tokens
from agenttts.files.unicode import clean_text
from agenttts.replies import COMMON_THINKING, Thinking, remove_thinking
from agenttts.search.llm.base import LLM, Chat, LLMError, Reply
from agenttts.search.llm.transcript import Transcript

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
# A longer wait that a server asks for is not made; the insight rules propose instead.
_LONGEST_RETRY_AFTER_S = 300.0


@dataclass(frozen=True)
class RetryPolicy:
    """Retries, and the caps of a run.

    ``retries`` follow a first attempt that failed temporarily. A run makes at most ``max_calls``
    attempts and takes about ``max_total_tokens`` tokens (prompts and replies). One reply takes at
    most ``max_tokens``.
    """

    retries: int = 4
    max_calls: int = 200
    max_total_tokens: int = 2_000_000
    max_tokens: int = 2048


class Caller:
    """Asks an `LLM` and records everything. Not safe for several threads.

    Replies are recorded whole and returned without the model's thinking. ``thinking`` holds its
    markers. ``opening`` is the marker with which prompts end, if they open a block.
    """

    def __init__(
        self,
        llm: LLM,
        transcript: Transcript,
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
        thinking: Thinking | None = COMMON_THINKING,
        opening: str = "",
    ) -> None:
        self.llm = llm
        self.transcript = transcript
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._thinking = thinking
        self._opening = opening

    def ask(self, chat: Chat) -> Reply:
        """Return the reply, without thinking.

        Raises:
            LLMError: The retries or a cap are used up, or the model refuses.
        """
        recorded = self.transcript.recorded(chat)
        if recorded is not None:
            return self._answer(recorded)
        failed = self.transcript.find("failed", chat.key)
        if failed is not None and failed["fault"] == "context":
            raise LLMError("context", failed["error"])  # too long as before
        for attempt in range(self._policy.retries + 1):
            self._check_caps(chat)
            started = time.monotonic()
            try:
                reply = self.llm.complete(chat)
            except LLMError as error:
                seconds = time.monotonic() - started
                self.transcript.add_failure(chat, self.llm.model, error, seconds)
                log.warning("%s: %s: %s", chat.purpose, error.fault, error)
                wait = self._wait(error, attempt)
                if wait is None:
                    raise
                self._sleep(wait)
            else:
                reply = replace(reply, text=clean_text(reply.text))
                self.transcript.add_reply(chat, self.llm.model, reply, time.monotonic() - started)
                return self._answer(reply)
        raise AssertionError("the last attempt raises or returns")

    def close(self) -> None:
        """Close the client."""
        self.llm.close()

    def without_thinking(self, text: str) -> str:
        """Return a recorded reply without the model's thinking."""
        return remove_thinking(self._opening + text, self._thinking)

    def _answer(self, reply: Reply) -> Reply:
        return replace(reply, text=self.without_thinking(reply.text))

    def _wait(self, error: LLMError, attempt: int) -> float | None:
        """Return the seconds before the next attempt; None for no further attempt."""
        if not error.again or attempt >= self._policy.retries:
            return None
        if error.retry_after:  # a server may also ask for no pause at all
            return error.retry_after if error.retry_after <= _LONGEST_RETRY_AFTER_S else None
        # The jitter separates runs that were refused together. Proposals do not depend on it.
        growing = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * float(2**attempt))
        return growing * random.uniform(0.75, 1.25)

    def _check_caps(self, chat: Chat) -> None:
        policy, used = self._policy, self.transcript
        if used.calls >= policy.max_calls:
            raise LLMError("cap", f"the limit max_calls ({policy.max_calls}) is reached")
        expected = used.tokens + estimated_tokens(chat.characters) + policy.max_tokens
        if expected > policy.max_total_tokens:
            raise LLMError(
                "cap",
                f"another call could exceed max_total_tokens ({policy.max_total_tokens}): "
                f"{used.tokens} are used",
            )
