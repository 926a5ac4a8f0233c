"""Check the options of a task (``task.options`` of a job spec) by name and value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from agenttts.errors import UserError, valid_names


class Rule(NamedTuple):
    """The valid values of an option, in words and as a check."""

    valid: str
    check: Callable[[Any], bool]


SPLIT_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "search_examples": Rule(
            "a whole number of 0 or more", lambda value: type(value) is int and value >= 0
        ),
        "hub_split": Rule(
            "the name of a split of the hub data set", lambda value: type(value) is str
        ),
        "records_key": Rule(
            "the key under which a JSON document has its records, such as data or result.rows",
            lambda value: type(value) is str and value != "",
        ),
    }
)
"""Options of every task with a search and a test split.

See `agenttts.tasks.loading.source`.
"""

ALIASES = Rule(
    "the path of a file of aliases by the ids of answers, such as 2Wiki's id_aliases.json",
    lambda value: type(value) is str and value != "",
)
MAX_CANDIDATES = Rule("a whole number of 1 or more", lambda value: type(value) is int and value > 0)


def check_options(task: str, given: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check the names and values of a task's options.

    Raises:
        UserError: ``task`` has no such option, or a value is not valid for it.
    """
    for name, value in given.items():
        if name not in rules:
            raise UserError(
                f"task.options: task '{task}' has no option '{name}'; {valid_names(name, rules)}"
            )
        if not rules[name].check(value):
            raise UserError(
                f"task.options.{name}: {value!r} is not valid; valid: {rules[name].valid}"
            )
