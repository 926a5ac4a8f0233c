"""Tasks without code, described in a YAML file.

The file has stages with Jinja2 prompts, and names parsers, fusions and metrics. See
docs/how-to/own-task.md for a walk-through, and `agenttts.tasks.declarative.document` for the
fields. Templates get the record's fields and the outputs of earlier stages, by the stages' names.
Fusing templates also get ``candidates``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenttts.errors import UserError, dotted
from agenttts.inference.base import Prompt
from agenttts.spec import load_strict
from agenttts.spec.load import read_text
from agenttts.tasks.base import Example, Fusion, StageDefinition, Task, TaskConfig
from agenttts.tasks.declarative import parts
from agenttts.tasks.declarative.document import (
    CANDIDATES,
    Document,
    FusedByModel,
    Shot,
    StageDocument,
    compiled,
    structures,
    templates,
    variables,
)
from agenttts.tasks.loading.records import KINDS, Record
from agenttts.tasks.loading.report import convert
from agenttts.tasks.loading.source import example_id, read_source, take_split
from agenttts.tasks.options import SplitOptions
from agenttts.tasks.user_tasks import missing_file


def load_declarative(path: str) -> DeclarativeTask:
    """Return the task in a file.

    Raises:
        UserError: The file is not valid; the message names file, line and key, and what is valid.
    """
    file = Path(path)
    if not file.is_file():
        raise missing_file(file, "task file")
    return DeclarativeTask(
        load_strict(Document, read_text(file, "task file"), str(file)), str(file)
    )


class DeclarativeStage(StageDefinition):
    """A stage described by its document; ``earlier`` are the stages before it."""

    def __init__(
        self, name: str, document: StageDocument, earlier: Sequence[DeclarativeStage] = ()
    ) -> None:
        self.name = name
        self._earlier = tuple(earlier)
        self.temperature = document.temperature
        self.description = document.description
        self.document = document

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        document = self.document
        return Prompt(
            system=document.system,
            user=self._render(("prompt",), document.prompt, example, outputs),
            shots=_pairs(document.shots),
            label=document.label,
            stop=tuple(document.stop),
        )

    def parse(self, text: str, example: Example) -> Any:
        return parts.parse(self.document.parse, text, self._choices(example))

    def fusion(
        self, candidates: Sequence[Any], example: Example, outputs: Mapping[str, Any]
    ) -> Fusion | None:
        given = [candidate for candidate in candidates if not parts.is_empty(candidate)]
        how = self.document.fuse
        if not isinstance(how, FusedByModel) or len(candidates) < 2 or not given:
            return None
        known = {**outputs, CANDIDATES: given}
        try:
            user = self._render(("fuse", "model", "prompt"), how.model.prompt, example, known)
        except UserError:  # not the template, which check_templates() has tried: these samples
            return None
        prompt = Prompt(
            system=how.model.system,
            user=user,
            shots=_pairs(how.model.shots),
            label=self.document.label,
            stop=tuple(self.document.stop),
        )
        return Fusion(prompt, how.model.temperature)

    def fuse(self, candidates: Sequence[Any], example: Example) -> Any:
        how = self.document.fuse
        fusion = "vote" if isinstance(how, FusedByModel) else how
        return parts.fuse(fusion, candidates, self.empty(example), self.document.parse)

    def metrics(self, output: Any, example: Example) -> dict[str, float]:
        choices = self._choices(example)
        return {
            name: parts.score(name, output, example.data[field], choices)
            for name, field in self.document.metrics.items()
        }

    def fields(self, stages: Sequence[str]) -> dict[str, str]:
        """Return the record's fields that the stage uses, each with the key that uses it."""
        document = self.document
        found = {
            variable: dotted(("stages", self.name, *key))
            for key, template in templates(document)
            for variable in sorted(variables(template) - set(stages))
            if not (variable == CANDIDATES and key[0] == "fuse")
        }
        if isinstance(document.choices, str):
            found.setdefault(document.choices, dotted(("stages", self.name, "choices")))
        for metric, field in document.metrics.items():
            found.setdefault(field, dotted(("stages", self.name, "metrics", metric)))
        return found

    def structures(self) -> set[str]:
        """Return the record's fields that are used as lists or objects.

        Tables may hold them as JSON texts.
        """
        document = self.document
        found = {field for metric, field in document.metrics.items() if metric == parts.SET_F1}
        if isinstance(document.choices, str):
            found.add(document.choices)
        return found.union(*(structures(template) for _, template in templates(document)))

    def check(self, record: Record) -> None:
        """Check that the stage can use a record's choices and right answers.

        Raises:
            UserError: It cannot.
        """
        document = self.document
        if isinstance(document.choices, str):
            record.texts(document.choices)
        for metric, field in document.metrics.items():
            if problem := parts.gold_problem(metric, record.values[field], document.parse):
                raise record.error(field, problem)

    def empty(self, example: Example) -> Any:
        """Return the output of a stage whose replies its parser cannot use."""
        return self.parse("", example)

    def check_templates(self, example: Example) -> None:
        """Check that the templates can take what is known before a model has run.

        That is the record, and empty outputs of the earlier stages, which may always occur. A
        fusing template gets two samples that the parser made, except of ``parse: json``, whose
        objects nobody knows.

        Raises:
            UserError: A template cannot.
        """
        document = self.document
        known = self._empty_outputs(example)
        if document.parse != "json":
            known[CANDIDATES] = [self.parse("1", example)] * 2
        for key, template in templates(document):
            if key[0] == "fuse" and CANDIDATES not in known:
                continue
            try:
                self._fill(key, template, example, known)
            except UserError as error:
                raise UserError(f"{error}{self._advice(template, example)}") from None

    def _advice(self, template: str, example: Example) -> str:
        """Return how a template takes empty outputs of the earlier stages that it uses."""
        used = [stage for stage in self._earlier if stage.name in variables(template)]
        if not used:
            return ""
        empty = ", ".join(f"{stage.name} is {stage.empty(example)!r}" for stage in used)
        forms = dict.fromkeys(
            parts.EMPTY_FORMS[stage.document.parse].format(stage.name) for stage in used
        )
        return (
            f"; where no reply can be parsed, {empty}; write the template so that it takes that, "
            f"e.g. {' or '.join(forms)}"
        )

    def _empty_outputs(self, example: Example) -> dict[str, Any]:
        return {stage.name: stage.empty(example) for stage in self._earlier}

    def _choices(self, example: Example) -> Sequence[str]:
        choices = self.document.choices
        if isinstance(choices, str):
            listed: Sequence[str] = example.data[choices]
            return listed
        return choices

    def _render(
        self, key: Sequence[str], template: str, example: Example, outputs: Mapping[str, Any]
    ) -> str:
        """Return a filled template; outputs that it cannot take become empty ones."""
        try:
            return self._fill(key, template, example, outputs)
        except UserError:
            if not self._earlier:
                raise
            return self._fill(key, template, example, {**outputs, **self._empty_outputs(example)})

    def _fill(
        self, key: Sequence[str], template: str, example: Example, outputs: Mapping[str, Any]
    ) -> str:
        try:
            return compiled(template).render({**example.data, **outputs})
        except Exception as error:  # a template may fail in as many ways as Python
            at = ("stages", self.name, *key)
            raise UserError(f"example '{example.id}': {error}", at=at) from error


class DeclarativeTask(Task):
    """A task described by its file."""

    options_model = SplitOptions

    def __init__(self, document: Document, source: str) -> None:
        self.name = document.name
        self.description = document.description
        self.main_metric = document.main_metric
        stages: list[DeclarativeStage] = []
        for name, stage in document.stages.items():
            stages.append(DeclarativeStage(name, stage, stages))
        self._stages = tuple(stages)
        self.stages = self._stages
        names = list(document.stages)
        # By stage, in place of once more for every record.
        self._used = [stage.fields(names[:number]) for number, stage in enumerate(stages)]
        self._structures = {name for stage in stages for name in stage.structures()}
        self._source = source

    def load(self, config: TaskConfig) -> list[Example]:
        options: SplitOptions = self.read_options(config.options)
        if not config.data:
            raise UserError(
                f"task '{self.name}' has no data set of its own; name a file of "
                "records (.jsonl: an object a line, or "
                f"another of {', '.join(KINDS)})",
                at=("data",),
            )
        source = read_source(
            config.data,
            {},
            split=config.split,
            hub_split=options.hub_split,
            records_key=options.records_key,
            fields=[(field,) for field in self._fields()],
        )
        self._check_names({field for record in source.records for field in record.values})
        examples = convert(
            source,
            lambda record, number: [self._example(record, number)],
            config.report,
            ident=lambda example: example.id,
        )
        return take_split(
            examples,
            split=config.split,
            examples=config.examples,
            search_examples=options.search_examples,
            seed=config.seed,
            data=config.data,
        )

    def _fields(self) -> set[str]:
        """Return the record's fields that stages use."""
        return {field for used in self._used for field in used}

    def _example(self, record: Record, number: int) -> Example:
        given = self._structures & record.values.keys()
        read = {name: record.structure(name) for name in given}
        record = replace(record, values={**record.values, **read})
        self._check_record(record)
        example = Example(example_id(record, number), dict(record.values))
        try:  # what can be checked before a model has run
            for stage in self._stages:
                stage.check_templates(example)
        except UserError as error:
            raise UserError(f"{record.place()}: {self._source}: {error}") from None
        return example

    def _check_names(self, fields: Collection[str]) -> None:
        """Check that no field has a name with another meaning in templates."""
        stages = [stage.name for stage in self._stages]
        for name in stages:
            if name in fields:
                raise UserError(
                    f"{self._source}: the stage '{name}' and a field of the data have one name, "
                    "and templates cannot tell which is meant; rename the stage here and in the "
                    f"job's stages, e.g. to '{_free_name(name, {*stages, *fields})}', or rename "
                    "the field in the data"
                )
        if CANDIDATES in fields:
            raise UserError(
                f"{self._source}: a field of the data is called '{CANDIDATES}', as templates of "
                "fuse call the samples of their stage; rename the field in the data"
            )

    def _check_record(self, record: Record) -> None:
        for stage, used in zip(self._stages, self._used, strict=True):
            for field, user in used.items():
                if field not in record.values:
                    raise record.error(field, f"is what {user} of {self._source} uses")
            stage.check(record)


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return a name for a stage that nothing else has."""
    free = f"{name}_stage"
    while free in taken:
        free += "_stage"
    return free


def _pairs(shots: Sequence[Shot]) -> tuple[tuple[str, str], ...]:
    return tuple((shot.user, shot.reply) for shot in shots)
