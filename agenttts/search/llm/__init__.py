"""Language models in the search: the client, the prompts, the agent, and the baselines that ask a model."""

from agenttts.search.llm.agent import LLMAgent
from agenttts.search.llm.base import LLM, Chat, LLMError, Reply
from agenttts.search.llm.briefing import Briefing
from agenttts.search.llm.caller import Caller, Patience
from agenttts.search.llm.endpoint import Address, EndpointLLM
from agenttts.search.llm.scripted import ScriptedLLM, load_script
from agenttts.search.llm.transcript import Transcript
from agenttts.search.llm.writer import Link

__all__ = [
    "LLM",
    "Address",
    "Briefing",
    "Caller",
    "Chat",
    "EndpointLLM",
    "LLMAgent",
    "LLMError",
    "Link",
    "Patience",
    "Reply",
    "ScriptedLLM",
    "Transcript",
    "load_script",
]
