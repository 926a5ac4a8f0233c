"""Search for the best split of a compute budget over the stages of an LLM task.

Trials are jobs on Slurm, or run on this machine. The names in ``__all__`` are the public interface.
They are imported when they are first used, so that ``import agenttts`` loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from agenttts.files.allocator import give_memory_back_at_once

if TYPE_CHECKING:
    from agenttts.errors import AgentTTSError, MissingRequirement, RunFailed, UserError
    from agenttts.report import build_report, render
    from agenttts.search import create as create_searcher
    from agenttts.search.base import Proposal, Searcher, TrialResult
    from agenttts.space import Allocation, Choice, Model, SearchSpace, Stage, allocation_budget
    from agenttts.spec import JobSpec, dump_spec, load_spec
    from agenttts.status.opened_run import OpenedRun, open_run
    from agenttts.tables.schema import TrialState, read_examples, read_trials
    from agenttts.tasks import create as create_task
    from agenttts.tasks.base import Example, Fusion, StageDefinition, Task, TaskConfig

__version__ = "0.1.0"

give_memory_back_at_once()

__all__ = [
    "AgentTTSError",
    "Allocation",
    "Choice",
    "Example",
    "Fusion",
    "JobSpec",
    "MissingRequirement",
    "Model",
    "OpenedRun",
    "Proposal",
    "RunFailed",
    "SearchSpace",
    "Searcher",
    "Stage",
    "StageDefinition",
    "Task",
    "TaskConfig",
    "TrialResult",
    "TrialState",
    "UserError",
    "__version__",
    "allocation_budget",
    "build_report",
    "create_searcher",
    "create_task",
    "dump_spec",
    "load_spec",
    "open_run",
    "read_examples",
    "read_trials",
    "render",
]

# Where a public name is defined: its module, and its name there where that is another.
_HOMES = {
    "agenttts.errors": ["AgentTTSError", "MissingRequirement", "RunFailed", "UserError"],
    "agenttts.report": ["build_report", "render"],
    "agenttts.search": ["create as create_searcher"],
    "agenttts.search.base": ["Proposal", "Searcher", "TrialResult"],
    "agenttts.space": [
        "Allocation",
        "Choice",
        "Model",
        "SearchSpace",
        "Stage",
        "allocation_budget",
    ],
    "agenttts.spec": ["JobSpec", "dump_spec", "load_spec"],
    "agenttts.status.opened_run": ["OpenedRun", "open_run"],
    "agenttts.tables.schema": ["TrialState", "read_examples", "read_trials"],
    "agenttts.tasks": ["create as create_task"],
    "agenttts.tasks.base": ["Example", "Fusion", "StageDefinition", "Task", "TaskConfig"],
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    for module, names in _HOMES.items():
        for entry in names:
            inner, _, outer = entry.partition(" as ")
            if name == (outer or inner):
                return getattr(import_module(module), inner)
    raise AttributeError(f"module 'agenttts' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
