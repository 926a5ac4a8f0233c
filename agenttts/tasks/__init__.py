"""Tasks by name: built-in ones and the user's own.

The name of a user's own task is ``package.module:Class``, ``FILE.py:Class`` or a YAML file (see
`agenttts.tasks.declarative.task`).
"""

from __future__ import annotations

from agenttts.errors import UserError, located, valid_names
from agenttts.spec import JobSpec
from agenttts.spec.section import Options
from agenttts.tasks.base import Task
from agenttts.tasks.user_code import make_task
from agenttts.tasks.user_tasks import is_declarative, load_class

__all__ = ["Options", "Task", "create", "create_for", "task_names"]

# The place of each task instead of its class, because a task's module is imported only on request.
_TASKS = {
    "chatdev": "agenttts.tasks.chatdev.task:ChatDev",
    "kgqa": "agenttts.tasks.retrieval.kgqa:KnowledgeGraphQA",
    "retrieval_qa": "agenttts.tasks.retrieval.task:RetrievalQA",
    "taskbench": "agenttts.tasks.taskbench.task:TaskBench",
}


def task_names() -> list[str]:
    """Return the names of the built-in tasks."""
    return sorted(_TASKS)


def create(name: str) -> Task:
    """Return the task called ``name``.

    Raises:
        UserError: The name is unknown, a module cannot be imported, a class is not a usable `Task`
            (see `agenttts.tasks.user_code`), or a file is malformed.
    """
    if is_declarative(name):
        from agenttts.tasks.declarative.task import load_declarative

        return load_declarative(name)
    place = _TASKS.get(name, name)
    if ":" not in place:
        raise UserError(
            f"unknown task '{name}'; {valid_names(name, task_names())} "
            "A task of your own is named as package.module:Class, FILE.py:Class or FILE.yaml.",
            at=("name",),
        )
    return make_task(name, load_class(place))


def create_for(spec: JobSpec) -> Task:
    """Return the task of a job spec.

    Raises:
        UserError: As in `create`, with the place in the spec.
    """
    with spec.located(), located("task"):
        return create(spec.task.name)
