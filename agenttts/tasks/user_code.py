"""Run a user's own task code; its mistakes become `UserError`s with their place.

Some mistakes show only when the code runs. They are found before a model is started: a task's parts
are checked when it is made, and its examples when they are loaded.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import lru_cache
from typing import Any

from agenttts.errors import AgentTTSError, UserError, valid_names
from agenttts.files.unicode import clean_text, clean_value
from agenttts.spec.section import Options
from agenttts.tasks.base import Example, StageDefinition, Task, TaskConfig
from agenttts.tasks.loading.syntax import PARSING

WRONG = (Exception, SystemExit)
"""The exceptions of a user's code; all others come from outside it."""
NOT_TO_EXIT = "a task must not end the program that runs it"
"""What is said of a `SystemExit` of a user's code."""


def make_task(name: str, cls: type[Task]) -> Task:
    """Make an object of ``cls``, check its parts and return it.

    Args:
        name: The name of the class in the job spec.
        cls: The class of the task.

    Raises:
        UserError: The class cannot be called without arguments, or its stages, names or main metric
            are not valid.
    """
    where = f"'{name}'"
    try:
        with prints_apart(cls.__module__):
            task = cls()
    except AgentTTSError:
        raise
    except WRONG as error:
        line = told(error, _files(cls), _line(cls.__init__) or _line(cls))
        raise UserError(
            f"{where}: {line}; valid: a class that can be called without arguments, as "
            f"{cls.__name__}()",
            at=("name",),
        ) from error
    _check_parts(where, task)
    return task


def load_task(task: Task, config: TaskConfig) -> list[Example]:
    """Return the examples that `Task.load` gives, after checking them.

    Every example can be stored, and no two have the same id. Halves of characters (lone surrogates)
    become question marks. ``config.report`` records what was read.

    Raises:
        AgentTTSError: The task raised it.
        UserError: The task raised any other error, or did not return a list of examples.
    """
    cls = type(task)
    line = _line(cls.load) or _line(cls)
    where = f"task '{task.name}'"
    try:
        with prints_apart(cls.__module__):
            found = task.load(config)
    except AgentTTSError:
        raise
    except WRONG as error:
        if isinstance(error, OSError) and error.filename and cls.__module__.startswith("agenttts."):
            raise UserError(
                f"{error.filename} cannot be read ({error.strerror}); make it readable for you, or "
                "name another file",
                at=("data",),
            ) from error
        raise UserError(
            f"{where}: {told(error, _files(cls), line)}; load() returns a list of Example, and "
            "may raise "
            "agenttts.errors.UserError to say what is wrong with the data"
        ) from error
    where = f"{where}: {line}: load()"
    if not isinstance(found, list | tuple):
        raise UserError(f"{where} returns {_kind(found)}; valid: a list of Example")
    if not found:
        raise UserError(f"{where} returns no examples; valid: one or more")
    if config.report.skip_bad and not config.report.sources:
        raise UserError(
            f"{where} reads its data itself and skips nothing: leave the key "
            "out, or have load() read them with "
            "agenttts.tasks.loading.source.read_source and agenttts.tasks.loading.report.convert",
            at=("skip_bad",),
        )
    examples: dict[str, Example] = {}
    for given in found:
        example = _storable(where, given)
        if example.id in examples:
            raise UserError(
                f"{where} returns two examples with the id '{example.id}'; valid: an id of its "
                "own for each"
            )
        examples[example.id] = example
    return list(examples.values())


@contextmanager
def prints_apart(module: str) -> Iterator[None]:
    """Send what a user's module prints to standard error.

    Commands with --json have standard output for their document. Modules of this package print
    nothing; trials in threads use them, and standard output is the process's.
    """
    with nullcontext() if module.startswith("agenttts.") else redirect_stdout(sys.stderr):
        yield


def parsed(stage: StageDefinition, text: str, example: Example) -> Any:
    """Return the value of `StageDefinition.parse`, without halves of characters.

    A reply may have them as JSON escapes. No table can hold them, and no prompt.
    """
    return clean_value(stage.parse(text, example))


def metrics_of(stage: StageDefinition, output: Any, example: Example) -> dict[str, float | None]:
    """Return the scores that `StageDefinition.metrics` gives, after checking them.

    Raises:
        UserError: They are no dict by name, or one of them is not a finite number, so a result
            could not be stored.
    """
    scores: dict[str, float | None] = {}
    found: Any = stage.metrics(output, example)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise UserError(
            f"{_line(type(stage).metrics)}: metrics() of stage '{stage.name}' returns "
            f"{_kind(found)} for example '{example.id}'; valid: a dict of numbers by the metrics' "
            "names, such as {'exact': 1.0}"
        )
    for name, value in found.items():
        scores[name] = _score(value)
        if scores[name] is None and value is not None:
            raise UserError(
                f"{_line(type(stage).metrics)}: metrics() of stage '{stage.name}' returns "
                f"{_kind(value)} as '{name}' of example '{example.id}'; valid: a number from 0 "
                "to 1 (leave the metric out if an example has no such score)"
            )
    return scores


def output_text(stage: StageDefinition, output: Any, example: Example) -> str:
    """Return a stage's fused output as JSON.

    Raises:
        UserError: JSON cannot represent it, so it could not be stored.
    """
    try:
        return json.dumps(output, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{_line(type(stage).fuse)}: stage '{stage.name}' gives {_kind(output)} as the output "
            f"of example '{example.id}', which JSON cannot represent ({error}); valid values of "
            "parse() and fuse(): texts, numbers, True, False, None, and lists and dicts of these"
        ) from error


def _score(value: Any) -> float | None:
    """Return a metric's value as a float; None if it is not a finite number."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def told(error: BaseException, files: Collection[str], otherwise: str) -> str:
    """Return what went wrong, with the line of the user's ``files``.

    ``otherwise`` is the place if the error was on none of their lines.
    """
    place = otherwise
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename in files:
            place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    if isinstance(error, SystemExit):
        return f"{place}: SystemExit: {error}: {NOT_TO_EXIT}"
    return f"{place}: {type(error).__name__}: {error}"


def _check_parts(where: str, task: Task) -> None:
    cls = type(task)
    where = f"{where}: {_line(cls)}: {cls.__name__}"
    _check_set(where, task, ("name", "description", "stages", "main_metric"))
    _check_texts(where, task, ("name", "description", "main_metric"))
    if not isinstance(task.stages, tuple | list) or not task.stages:
        raise UserError(
            f"{where} has {_kind(task.stages)} as 'stages'; valid: a tuple of one or more "
            "StageDefinition objects",
            at=("name",),
        )
    for stage in task.stages:
        _check_stage(where, stage)
    declared: Any = task.options_model
    if declared is not None and not (inspect.isclass(declared) and issubclass(declared, Options)):
        raise UserError(
            f"{where} has {_kind(declared)} as 'options_model'; valid: a subclass of "
            "agenttts.tasks.Options, or None",
            at=("name",),
        )
    names = [stage.name for stage in task.stages]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{where} has two stages called '{name}'; valid: a name of its own for each",
                at=("name",),
            )
    begins = [f"{name}." for name in names]
    if not any(task.main_metric.startswith(b) and task.main_metric != b for b in begins):
        raise UserError(
            f"{where} has '{task.main_metric}' as 'main_metric'; valid: STAGE.METRIC, of a "
            "stage that there is: "
            f"{valid_names(task.main_metric, [f'{name}.METRIC' for name in names])}",
            at=("name",),
        )


def _check_stage(where: str, stage: Any) -> None:
    if not isinstance(stage, StageDefinition):
        hint = f" (write {stage.__name__}(), not the class)" if inspect.isclass(stage) else ""
        raise UserError(
            f"{where} has {_kind(stage)} in 'stages'; valid: StageDefinition objects{hint}",
            at=("name",),
        )
    where = f"{where}: its stage {_line(type(stage))}: {type(stage).__name__}"
    _check_set(where, stage, ("name", "temperature", "description"))
    _check_texts(where, stage, ("name", "description"))
    temperature: Any = stage.temperature
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or temperature < 0:
        raise UserError(
            f"{where} has {_kind(temperature)} as 'temperature'; valid: a number of 0 or more",
            at=("name",),
        )


def _check_set(where: str, owner: object, attributes: tuple[str, ...]) -> None:
    if missing := [attribute for attribute in attributes if not hasattr(owner, attribute)]:
        raise UserError(f"{where} does not set {', '.join(missing)}", at=("name",))


def _check_texts(where: str, owner: object, attributes: tuple[str, ...]) -> None:
    for attribute in attributes:
        value = getattr(owner, attribute)
        if not isinstance(value, str) or not value:
            raise UserError(
                f"{where} has {_kind(value)} as '{attribute}'; valid: a text", at=("name",)
            )


def _storable(where: str, example: Any) -> Example:
    """Return the example in the form that is written into a run."""
    if not isinstance(example, Example):
        raise UserError(f"{where} returns {_kind(example)} in its list; valid: Example objects")
    if not isinstance(example.id, str):
        raise UserError(
            f"{where} returns an example whose id is {_kind(example.id)}; valid: a text"
        )
    try:
        text = json.dumps(example.data, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{where} returns data of example '{clean_text(example.id)}' that JSON cannot "
            f"represent ({error}); valid: texts, numbers, True, False, None, and lists and dicts "
            "of these"
        ) from error
    try:
        (example.id + text).encode()
    except UnicodeEncodeError:
        return Example(clean_text(example.id), clean_value(json.loads(text)))
    return example


def _kind(value: Any) -> str:
    """Return a value and its type, in a few words."""
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return "None" if value is None else f"{shown} ({type(value).__name__})"


def _files(cls: type) -> set[str]:
    """Return the files of a class and of the user's classes that it is derived from."""
    modules = {base.__module__ for base in cls.__mro__} - {"builtins", "abc"}
    own = [name for name in modules if not name.startswith("agenttts.") or name == cls.__module__]
    found = (getattr(sys.modules.get(name), "__file__", None) for name in own)
    return {file for file in found if file}


@lru_cache(maxsize=256)  # each call parses the whole file, and every trial asks
def _line(code: Callable[..., Any] | type) -> str:
    """Return FILE:LINE of a class or function; empty if it is not written in Python."""
    try:
        with PARSING:
            return f"{inspect.getsourcefile(code)}:{inspect.getsourcelines(code)[1]}"
    except (OSError, TypeError):
        return ""
