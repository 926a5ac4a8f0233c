"""Which examples trials are scored on: of the search, of the comparison of the best, of the final test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from agenttts.documents import parse_json, typed
from agenttts.errors import RunFailed, UserError
from agenttts.spec import JobSpec
from agenttts.tasks.base import Example, Task, TaskConfig
from agenttts.tasks.loading.report import LoadReport
from agenttts.tasks.user_code import load_task


def load_examples(
    spec: JobSpec, task: Task, split: str, count: int | None, report: LoadReport
) -> list[Example]:
    """``count`` examples of a split of the task's data (None: all of them); ``report`` takes what was read.

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
    # By content: ids of two files or hub splits may be equal and mean different examples, or the other way round.
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


def write_examples(path: Path, examples: Sequence[Example]) -> str:
    """Freeze examples into a run; the file's SHA-256."""
    lines = (
        json.dumps({"id": example.id, "data": example.data}, ensure_ascii=False) + "\n"
        for example in examples
    )
    content = "".join(lines).encode()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


class ExamplesGuard:
    """Finds damage of frozen examples, before trials are scored on them.

    Args:
        digests: SHA-256 by file name, as written down at launch; a file without one is taken as it is first seen.
    """

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = dict(digests)

    def check(self, path: Path) -> None:
        """Raise `RunFailed`, naming file and line, for examples that are damaged or not those of the launch."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunFailed(
                f"{path}: the run's examples cannot be read: {error.strerror}; {_RESTORE}"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        if self._digests.get(path.name) == digest:
            return
        lines = [line for line in content.split(b"\n") if line]
        for number, line in enumerate(lines, start=1):
            try:
                typed(Example, parse_json(line))
            except ValueError as error:
                raise RunFailed(
                    f"{path}:{number}: not an example ({type(error).__name__}: {error}); the run's examples are damaged: {_RESTORE}"
                ) from None
        if not lines or not content.endswith(b"\n"):
            raise RunFailed(f"{path}: the run's examples are cut short; {_RESTORE}")
        if path.name in self._digests:
            raise RunFailed(
                f"{path}: the run's examples are not those it was launched with; {_RESTORE}"
            )
        self._digests[path.name] = digest


_RESTORE = "restore the file from a copy and 'agenttts-hpc resume' the run, or launch it under another --name"


def _content(example: Example) -> str:
    return json.dumps(example.data, sort_keys=True, ensure_ascii=False, default=str)
