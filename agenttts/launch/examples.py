"""Which examples trials are scored on: of the search, of the comparison of the best, of the
final test.
"""

from __future__ import annotations

import json

from agenttts.errors import UserError
from agenttts.spec import JobSpec
from agenttts.tasks.base import Example, Task, TaskConfig
from agenttts.tasks.loading.report import LoadReport
from agenttts.tasks.user_code import load_task


def load_examples(
    spec: JobSpec, task: Task, split: str, count: int | None, report: LoadReport
) -> list[Example]:
    """``count`` examples of a split of the task's data (None: all of them); ``report`` takes what
    was read.

    Raises `UserError` as `agenttts.tasks.user_code.load_task` does.
    """
    config = TaskConfig(
        data=spec.task.data,
        split=split,
        examples=count,
        seed=spec.search.seed,
        options=spec.task.options,
        report=report,
    )
    return load_task(task, config)


def finalist_examples(
    spec: JobSpec, task: Task, searched: list[Example], report: LoadReport
) -> list[Example] | None:
    """The examples on which the best are compared once more: of the search split, and more of them.

    Raises `UserError` when they are not more, or not there.
    """
    section = spec.search.finalists
    if section is None:
        return None
    if section.examples <= len(searched):
        raise UserError(
            f"search.finalists.examples: {section.examples} are no more than the {len(searched)} that every trial is "
            "scored on already (task.examples); ask for more, or leave finalists out"
        )
    try:
        return load_examples(spec, task, spec.task.split, section.examples, report)
    except UserError as error:
        raise UserError(f"search.finalists.examples: {error}") from None


def held_out_examples(
    spec: JobSpec, task: Task, searched: list[Example], report: LoadReport
) -> list[Example] | None:
    """The examples of the final test: of its split, those that no trial of the search is scored on.

    Raises `UserError` when there are too few of them.
    """
    section = spec.search.test_split
    if section is None:
        return None
    # By content: ids of two files or hub splits may be equal and mean different examples, or the
    # other way round.
    known = {_content(example) for example in searched}
    try:
        every = load_examples(spec, task, section.split, None, report)
    except UserError as error:
        raise UserError(f"search.test_split: {error}") from None
    left = [example for example in every if _content(example) not in known]
    wanted = len(left) if section.examples is None else section.examples
    if wanted > len(left) or not left:
        raise UserError(
            f"search.test_split.examples: {wanted or 'no'} examples asked for, but of the {len(every)} in split "
            f"'{section.split}' only {len(left)} are not used by the search; ask for at most that many, or lower "
            "task.examples"
        )
    return left[:wanted]


def _content(example: Example) -> str:
    return json.dumps(example.data, sort_keys=True, ensure_ascii=False, default=str)
