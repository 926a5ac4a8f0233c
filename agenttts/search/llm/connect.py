"""Connect a searcher to the model in the ``agent:`` section of a spec."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from agenttts.endpoint import Address, shown_variable, usable_key
from agenttts.errors import MissingRequirement
from agenttts.replies import COMMON_THINKING, Thinking
from agenttts.search.llm.base import LLM, LLMError
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.endpoint import EndpointLLM
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.scripted import ScriptedLLM, load_script
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.spec.agent import AgentSection, EndpointAgent, ScriptedAgent, ServeAgent

# Keys that were removed from the environment, by their variables: after trouble of the file system
# a process makes another controller.
_taken: dict[str, str] = {}


def connect(
    section: AgentSection,
    task_description: TaskDescription,
    transcript: Transcript,
    served: LLM | None = None,
    *,
    thinking: Thinking | None = COMMON_THINKING,
    opening: str = "",
    shared_keys: Collection[str] = (),
) -> LLMSession | None:
    """Return the session with the model of a section; None for ``agent: none``.

    It asks the model nothing yet.

    Args:
        section: The section ``agent:``.
        task_description: The task, for the prompts.
        transcript: Records the questions and replies.
        served: The model that the run serves itself; required for ``kind: serve``.
        thinking: The markers around the model's thinking.
        opening: The marker with which its prompts end, if they open a block of thinking.
        shared_keys: Variables with keys that trials need too.
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
        script = load_script(Path(section.replies))
        answered = transcript.purposes()
        llm = ScriptedLLM(script, timeout=section.timeout_seconds, served=answered)
    elif isinstance(section, EndpointAgent):
        llm = EndpointLLM(
            section.model,
            _fixed_address(section, shared_keys),
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            timeout=section.timeout_seconds,
            structured=section.structured,
            extra=section.extra,
        )
    else:
        assert served is not None
        llm = served
    caller = Caller(llm, transcript, policy, thinking=thinking, opening=opening)
    at_once = not isinstance(section, ServeAgent)
    return LLMSession(caller, task_description, section.bad_replies, at_once)


def check_key(section: AgentSection) -> None:
    """Check that the variable with the key is set.

    Raises:
        MissingRequirement: It is not set.
    """
    name = section.api_key_env if isinstance(section, EndpointAgent) else None
    key = os.environ.get(name, "").strip() if name else ""
    if name and not usable_key(key):
        problem = "holds something else than a key" if key else "is not set in this environment"
        raise MissingRequirement(
            f"{shown_variable(name)} {problem}",
            fix="export it in this shell, then launch again (the controller's job inherits it)",
            at=("api_key_env",),
        )


def take_key(section: AgentSection, shared: Collection[str] = ()) -> str:
    """Return the key, and remove it from this process's environment.

    So the processes that it starts (trials) do not inherit the key. A key in a ``shared`` variable
    stays, because trials need it too. A removed key is returned again by later calls.
    """
    name = section.api_key_env if isinstance(section, EndpointAgent) else None
    if not name:
        return ""
    if name in shared:
        return os.environ.get(name, "").strip()
    if name in os.environ:
        _taken[name] = os.environ.pop(name).strip()
    return _taken.get(name, "")


def _fixed_address(section: EndpointAgent, shared: Collection[str]) -> Callable[[], Address]:
    key = take_key(section, shared)
    if section.api_key_env and not usable_key(key):
        name = shown_variable(section.api_key_env)

        def missing() -> Address:
            raise LLMError("unavailable", f"{name} holds no key where the controller runs")

        return missing
    address = Address(section.base_url, key)
    return lambda: address
