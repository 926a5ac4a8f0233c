"""Language models in the search: client, prompts, agent and baselines."""

from agenttts.endpoint import Address
from agenttts.search.llm.agent import LLMAgent
from agenttts.search.llm.base import LLM, Chat, LLMError, Reply
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.endpoint import EndpointLLM
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.scripted import ScriptedLLM, load_script
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript

__all__ = [
    "LLM",
    "Address",
    "Caller",
    "Chat",
    "EndpointLLM",
    "LLMAgent",
    "LLMError",
    "LLMSession",
    "Reply",
    "RetryPolicy",
    "ScriptedLLM",
    "TaskDescription",
    "Transcript",
    "load_script",
]
