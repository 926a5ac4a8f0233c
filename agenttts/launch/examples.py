"""Load the examples that trials are scored on.

There are examples for the search, for the comparison of the best allocations, and for the final
test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agenttts.errors import UserError, counted, located
from agenttts.launch.experiment import Experiment
from agenttts.launch.problems import Problems
from agenttts.run.directory import Run
from agenttts.run.examples import read_frozen
from agenttts.search import fidelity_for
from agenttts.spec import JobSpec
from agenttts.tasks.base import Example, Task, TaskConfig
from agenttts.tasks.loading.report import LoadReport
from agenttts.tasks.options import SplitOptions
from agenttts.tasks.user_code import load_task


@dataclass(frozen=True)
class Examples:
    """The examples of a run.

    Attributes:
        searched: Those of the search; none if they are not here.
        finalists: Those of the comparison of the best allocations; None without one.
        test: Those of the final test; None without one.
        report: What was read of the task's data, and what was skipped.
    """

    searched: list[Example]
    finalists: list[Example] | None
    test: list[Example] | None
    report: LoadReport


def read_examples(experiment: Experiment, problems: Problems) -> Examples:
    """Return the examples that an experiment's trials are scored on.

    Raises:
        UserError: As in `agenttts.tasks.user_code.load_task`, or there are too few.
    """
    spec, task = experiment.spec, experiment.task
    searched: list[Example] = []
    finalists = test = None
    report = LoadReport(spec.task.skip_bad)
    with problems.here():
        searched = load_examples(spec, task, spec.task.split, spec.task.examples, report)
        fidelity_for(spec, len(searched))
        finalists = finalist_examples(spec, task, searched, report)
        # A task need not draw the finalists' examples as the search's and further ones.
        test = held_out_examples(spec, task, [*searched, *(finalists or ())], report)
        _note_overlap(spec, task, report)
    return Examples(searched, finalists, test, report)


def frozen_examples(run: Run) -> Examples:
    """Return the examples that launch froze into a run.

    Raises:
        UserError: A file of them is missing or damaged.
    """
    directory, search = run.directory, run.spec.search
    return Examples(
        read_frozen(directory.examples_file),
        read_frozen(directory.finalist_examples_file) if search.finalists else None,
        read_frozen(directory.test_examples_file) if search.test_split else None,
        LoadReport(run.record.skip_bad),
    )


def load_examples(
    spec: JobSpec, task: Task, split: str, count: int | None, report: LoadReport
) -> list[Example]:
    """Return examples of a split of the task's data.

    Args:
        spec: The spec.
        task: The spec's task.
        split: The split.
        count: Number of examples; None: all.
        report: Records what was read.

    Raises:
        UserError: As in `agenttts.tasks.user_code.load_task`.
    """
    with located("task"):
        config = TaskConfig(
            data=spec.task.data,
            split=split,
            examples=count,
            seed=spec.search.seed,
            options=task.read_options(spec.task.options),
            report=report,
        )
        return load_task(task, config)


def finalist_examples(
    spec: JobSpec, task: Task, searched: list[Example], report: LoadReport
) -> list[Example] | None:
    """Return the examples for the comparison of the best allocations.

    They are from the search split, and more than the search has.

    Raises:
        UserError: They are not more, or not available.
    """
    section = spec.search.finalists
    if section is None:
        return None
    if section.examples <= len(searched):
        raise UserError(
            f"{section.examples} is not above the {counted(len(searched), 'example')} of every "
            "trial (task.examples); raise it, or remove search.finalists",
            at=("search", "finalists", "examples"),
        )
    try:
        return load_examples(spec, task, spec.task.split, section.examples, report)
    except UserError as error:
        raise UserError(str(error), at=("search", "finalists", "examples")) from None


def held_out_examples(
    spec: JobSpec, task: Task, searched: list[Example], report: LoadReport
) -> list[Example] | None:
    """Return the examples of the final test.

    Args:
        spec: The spec.
        task: The spec's task.
        searched: The examples of the search and of its finalists. None of these is returned.
        report: Records what was read.

    Raises:
        UserError: There are too few of them.
    """
    section = spec.search.test_split
    if section is None:
        return None
    # Compared by content, because ids of two files or hub splits may be equal for different
    # examples, or differ for equal ones.
    known = {_content(example) for example in searched}
    try:
        every = load_examples(spec, task, section.split, None, report)
    except UserError as error:
        raise UserError(str(error), at=("search", "test_split")) from None
    left = [example for example in every if _content(example) not in known]
    wanted = len(left) if section.examples is None else section.examples
    if wanted > len(left) or not left:
        raise UserError(
            f"{counted(wanted or 'no', 'example')} asked for, but of the {len(every)} in split "
            f"'{section.split}' only {len(left)} are not used by the search; ask for at most "
            "that many, or lower task.examples",
            at=("search", "test_split", "examples"),
        )
    return left[:wanted]


def _note_overlap(spec: JobSpec, task: Task, report: LoadReport) -> None:
    """Note that the examples of ``split: test`` may be those of an earlier search."""
    options = task.read_options(spec.task.options)
    if spec.task.split != "test" or not isinstance(options, SplitOptions):
        return
    if options.search_examples is None:
        for name, source in report.sources.items():
            report.sources[name] = replace(source, notes=(*source.notes, _OVERLAP))


_OVERLAP = (
    "split 'test' begins after half of the records: a search on more than half of them has used "
    "some of these examples; set task.options.search_examples to its number, for both"
)


def _content(example: Example) -> str:
    return json.dumps(_ordered(example.data), ensure_ascii=False, default=str)


def _ordered(value: Any) -> Any:
    """Return a value whose mappings are lists of their items in one order.

    Keys from YAML may be of several types, which do not sort.
    """
    if isinstance(value, Mapping):
        items = ([repr(key), _ordered(item)] for key, item in value.items())
        return sorted(items, key=lambda item: item[0])
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value
