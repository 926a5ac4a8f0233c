"""Connect a searcher to the model in the ``agent:`` section of a spec."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agenttts.errors import MissingRequirement
from agenttts.replies import COMMON_THINKING, Thinking
from agenttts.search.llm.base import LLM, LLMError
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.endpoint import Address, EndpointLLM
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.scripted import ScriptedLLM, load_script
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.spec.agent import AgentSection, EndpointAgent, ScriptedAgent, ServeAgent


def connect(
    section: AgentSection,
    task_description: TaskDescription,
    transcript: Transcript,
    locate: Callable[[], Address] | None = None,
    *,
    thinking: Thinking | None = COMMON_THINKING,
    extra: Mapping[str, Any] | None = None,
) -> LLMSession | None:
    """Return the session with the model of a section; None for ``agent: none``.

    It asks the model nothing yet.

    Args:
        section: The section ``agent:``.
        task_description: The task, for the prompts.
        transcript: Records the questions and replies.
        locate: Finds the server of a model that the run serves itself (``kind: serve``); may raise
            `LLMError`.
        thinking: The markers around the model's thinking.
        extra: Further fields of the requests to a model that the run serves itself.
    """
    if section == "none":
        return None
    policy = RetryPolicy(
        retries=section.retries,
        max_calls=section.max_calls,
        max_total_tokens=section.max_total_tokens,
        max_tokens=section.max_tokens,
    )
    llm: LLM
    if isinstance(section, ScriptedAgent):
        llm = ScriptedLLM(
            load_script(Path(section.replies)),
            timeout=section.timeout_seconds,
            served=transcript.purposes(),
        )
    else:
        fixed = isinstance(section, EndpointAgent)
        llm = EndpointLLM(
            section.model if isinstance(section, EndpointAgent) else served_name(section),
            _fixed_address(section) if isinstance(section, EndpointAgent) else locate or _nowhere,
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            timeout=section.timeout_seconds,
            structured=section.structured,
            direct=not fixed,
            extra=section.extra if isinstance(section, EndpointAgent) else extra,
        )
    caller = Caller(llm, transcript, policy, thinking=thinking)
    return LLMSession(caller, task_description, section.bad_replies)


def served_name(section: ServeAgent) -> str:
    """Return the name of a model that the run serves itself.

    Its server and the transcript use this name.
    """
    return Path(section.model).name


def check_key(section: AgentSection) -> None:
    """Check that the variable with the key is set.

    Raises:
        MissingRequirement: It is not set.
    """
    name = section.api_key_env if isinstance(section, EndpointAgent) else None
    key = os.environ.get(name, "").strip() if name else ""
    if name and not _usable(key):
        problem = "holds something else than a key" if key else "is not set in this environment"
        raise MissingRequirement(
            f"agent.api_key_env: {_shown(name)} {problem}",
            fix="export it in this shell, then launch again (the controller's job inherits it)",
        )


def take_key(section: AgentSection) -> str:
    """Return the key, and remove it from this process's environment.

    So the processes that it starts (trials) do not inherit the key.
    """
    if isinstance(section, EndpointAgent) and section.api_key_env:
        return os.environ.pop(section.api_key_env, "").strip()
    return ""


def _usable(key: str) -> bool:
    """Return whether a key can be sent in a header.

    A key that cannot be sent would appear in the errors of libraries.
    """
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def _fixed_address(section: EndpointAgent) -> Callable[[], Address]:
    key = take_key(section)
    if section.api_key_env and not _usable(key):
        name = _shown(section.api_key_env)

        def missing() -> Address:
            raise LLMError("unavailable", f"{name} holds no key where the controller runs")

        return missing
    address = Address(section.base_url, key)
    return lambda: address


def _nowhere() -> Address:
    raise LLMError("unavailable", "no server was started for this model")


def _shown(variable: str) -> str:
    """Return the variable's name, unless it may be a key given as the name."""
    if re.fullmatch(r"[A-Z][A-Z0-9_]{0,39}", variable):
        return f"the environment variable {variable}"
    return "the environment variable that it names"
