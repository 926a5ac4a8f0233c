"""Tasks by name: the built-in ones, and users' own as ``package.module:Class``."""

from __future__ import annotations

import importlib
import inspect

from agenttts.errors import UserError, valid_names
from agenttts.tasks.base import Task

# Where each task is, not the class itself: a task's module is imported when it is asked for.
_TASKS = {
    "kgqa": "agenttts.tasks.kgqa:KnowledgeGraphQA",
    "retrieval_qa": "agenttts.tasks.retrieval_qa:RetrievalQA",
    "taskbench": "agenttts.tasks.taskbench:TaskBench",
}


def task_names() -> list[str]:
    """The names of the built-in tasks."""
    return sorted(_TASKS)


def create(name: str) -> Task:
    """The task called ``name``: a built-in one, or ``package.module:Class``.

    Raises `UserError` for an unknown name, a module that cannot be imported, or a class that is no usable `Task`.
    """
    if name in _TASKS:
        return _load_class(_TASKS[name])()
    if ":" not in name:
        raise UserError(
            f"task.name: unknown task '{name}'; {valid_names(name, task_names())} "
            "A task of your own is named as package.module:Class."
        )
    task_class = _load_class(name)
    if missing := sorted(getattr(task_class, "__abstractmethods__", ())):
        raise UserError(f"task.name: '{name}' does not implement {', '.join(missing)}")
    if missing := [a for a in ("name", "stages", "main_metric") if not hasattr(task_class, a)]:
        raise UserError(f"task.name: '{name}' does not set {', '.join(missing)}")
    return task_class()


def _load_class(name: str) -> type[Task]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does when it is imported
        raise UserError(
            f"task.name: '{name}': cannot import '{module_name}' ({type(error).__name__}: {error}); install the package "
            "that has it, or put its folder on PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Task)):
        problem = "has no" if found is None else "has something else than a Task as"
        raise UserError(
            f"task.name: '{name}': '{module_name}' {problem} '{class_name}'; {valid_names(class_name, _tasks_in(module))}"
        )
    return found


def _tasks_in(module: object) -> list[str]:
    """The task classes a module has, to suggest one."""
    members = inspect.getmembers(module, inspect.isclass)
    return [name for name, value in members if issubclass(value, Task) and value is not Task]
