"""Calling the model: replies on record first, then attempts with patience, within the run's caps."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agenttts.replies import COMMON_THINKING, Thinking, remove_thinking
from agenttts.search.llm.base import LLM, Chat, LLMError, Reply, estimated_tokens
from agenttts.search.llm.transcript import Transcript

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
# A server that asks for more than this is not waited for: the insight rules propose meanwhile.
_LONGEST_RETRY_AFTER_S = 300.0


@dataclass(frozen=True)
class Patience:
    """``retries`` after a first attempt that failed in passing; at most ``max_calls`` attempts and about
    ``max_total_tokens`` tokens (prompts and replies) a run, of which one reply may take ``max_tokens``."""

    retries: int = 4
    max_calls: int = 200
    max_total_tokens: int = 2_000_000
    max_tokens: int = 2048


class Caller:
    """Asks an `LLM` and writes everything down. Not for several threads.

    Replies are written down whole and returned without the model's thinking (its markers: ``thinking``).
    """

    def __init__(
        self,
        llm: LLM,
        transcript: Transcript,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
        thinking: Thinking | None = COMMON_THINKING,
    ) -> None:
        self.llm = llm
        self.transcript = transcript
        self._patience = patience or Patience()
        self._sleep = sleep
        self._thinking = thinking

    def ask(self, chat: Chat) -> Reply:
        """The reply, without thinking. Raises `LLMError` when patience or a cap is used up, or the model refuses."""
        recorded = self.transcript.recorded(chat)
        if recorded is not None:
            return self._answer(recorded)
        failed = self.transcript.find("failed", chat.key)
        if failed is not None and failed["fault"] == "context":
            raise LLMError("context", failed["error"])  # as long as it was the last time
        for attempt in range(self._patience.retries + 1):
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
                # A lone surrogate from a JSON escape could be written neither to a file nor to a later prompt.
                text = reply.text.encode("utf-8", "replace").decode()
                reply = replace(reply, text=text)
                self.transcript.add_reply(chat, self.llm.model, reply, time.monotonic() - started)
                return self._answer(reply)
        raise AssertionError("the last attempt raises or returns")

    def close(self) -> None:
        """Close the client."""
        self.llm.close()

    def _answer(self, reply: Reply) -> Reply:
        return replace(reply, text=remove_thinking(reply.text, self._thinking))

    def _wait(self, error: LLMError, attempt: int) -> float | None:
        """Seconds before the next attempt, None for no further one."""
        if not error.again or attempt >= self._patience.retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= _LONGEST_RETRY_AFTER_S else None
        # Jitter: runs that were refused together do not come back together. Proposals do not depend on it.
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * float(2**attempt)) * random.uniform(0.75, 1.25)

    def _check_caps(self, chat: Chat) -> None:
        patience, used = self._patience, self.transcript
        if used.calls >= patience.max_calls:
            raise LLMError("cap", f"agent.max_calls ({patience.max_calls}) is used up")
        expected = used.tokens + estimated_tokens(chat.characters) + patience.max_tokens
        if expected > patience.max_total_tokens:
            raise LLMError(
                "cap",
                f"agent.max_total_tokens ({patience.max_total_tokens}) would not hold another call: "
                f"{used.tokens} are used up",
            )
