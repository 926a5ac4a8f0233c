"""Tasks by name: the built-in ones, and users' own.

A user's own is ``package.module:Class``, ``FILE.py:Class``, or a YAML file (see
`agenttts.tasks.declarative.task`).
"""

from __future__ import annotations

from agenttts.errors import UserError, valid_names
from agenttts.tasks.base import Task
from agenttts.tasks.user_code import make_task
from agenttts.tasks.user_tasks import is_declarative, load_class

# Where each task is, not the class itself: a task's module is imported when it is asked for.
_TASKS = {
    "chatdev": "agenttts.tasks.chatdev.task:ChatDev",
    "kgqa": "agenttts.tasks.retrieval.kgqa:KnowledgeGraphQA",
    "retrieval_qa": "agenttts.tasks.retrieval.task:RetrievalQA",
    "taskbench": "agenttts.tasks.taskbench.task:TaskBench",
}


def task_names() -> list[str]:
    """The names of the built-in tasks."""
    return sorted(_TASKS)


def create(name: str) -> Task:
    """The task called ``name``.

    Raises `UserError` for an unknown name, a module that cannot be imported, a class that is no
    usable `Task` (see `agenttts.tasks.user_code`), or a malformed file.
    """
    if name in _TASKS:
        return make_task(name, load_class(_TASKS[name]))
    if is_declarative(name):
        from agenttts.tasks.declarative.task import load_declarative

        return load_declarative(name)
    if ":" not in name:
        raise UserError(
            f"task.name: unknown task '{name}'; {valid_names(name, task_names())} "
            "A task of your own is named as package.module:Class, FILE.py:Class or FILE.yaml."
        )
    return make_task(name, load_class(name))
