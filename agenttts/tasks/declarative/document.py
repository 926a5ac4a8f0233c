"""The model of a declarative task's file, and its templates.

Mistakes in the file are found when it is read.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import jinja2
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agenttts.errors import valid_names
from agenttts.tasks.declarative import parts

# Sandboxed: another author's template may read the record and the outputs, and nothing of Python.
_JINJA = jinja2.sandbox.SandboxedEnvironment(
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,
    finalize=lambda value: "" if value is None else value,  # a null is not the word "None"
)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


# Jinja's own writes for HTML: a model would read \u0027 for each apostrophe.
_JINJA.filters["tojson"] = _to_json
CANDIDATES = "candidates"
"""The name of the samples in a fusing template."""


def _check_template(text: str) -> str:
    try:
        variables(text)  # variables() also looks filters up, which parsing does not
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"not a Jinja2 template: {error.message} (line {error.lineno} of it)"
        ) from None
    return text


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True
    )


class Shot(_Section):
    """A worked example in plain texts, for the few-shot prompt styles."""

    user: str
    """The question."""
    reply: str
    """The right reply."""


class ModelFusion(_Section):
    """Fusing by one more call of the stage's model.

    ``prompt`` is a template that also gets ``candidates``.
    """

    prompt: str
    """A template of the question, with ``candidates``."""
    system: str = ""
    """The instruction to the model."""
    shots: list[Shot] = []
    """Worked examples."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.3
    """Temperature of the call."""

    _template = field_validator("prompt")(_check_template)


class FusedByModel(_Section):
    """``fuse: {model: {prompt: ...}}``."""

    model: ModelFusion
    """The call that fuses."""


class StageDocument(_Section):
    """One stage of the file."""

    prompt: str
    """A template of the question to the model."""
    system: str = ""
    """The instruction to the model, as plain text."""
    description: str = ""
    """What the stage does; a language model that searches reads it."""
    shots: list[Shot] = []
    """Worked examples for the few-shot prompt styles."""
    label: str = "Answer:"
    """The first words of a completion's reply."""
    stop: list[Annotated[str, Field(min_length=1)]] = ["\n\n"]
    """Texts that end a completion."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """Temperature of the samples."""
    parse: Literal["text", "first_line", "number", "choice", "list", "lines", "json"] = "text"
    """How a reply becomes a value."""
    choices: list[str] | str = []
    """For ``parse: choice``: the choices, or the record's field that lists them."""
    fuse: Literal["vote", "first", "longest", "median", "union"] | FusedByModel = "vote"
    """How the values of all samples become one."""
    metrics: dict[str, str] = {}
    """The record's field with the right answer, by name of the metric."""

    _template = field_validator("prompt")(_check_template)

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in parts.METRICS:
                raise ValueError(f"unknown metric '{name}'; {valid_names(name, parts.METRICS)}")
        return value

    @field_validator("choices")
    @classmethod
    def _not_blank(cls, value: list[str] | str) -> list[str] | str:
        if not all(choice.strip() for choice in ([value] if isinstance(value, str) else value)):
            raise ValueError("a choice is blank; remove it")
        return value

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if (self.parse == "choice") != bool(self.choices):
            raise ValueError("'parse: choice' and 'choices' go together: give both or neither")
        if self.fuse == "median" and self.parse != "number":
            raise ValueError("'fuse: median' takes numbers: set 'parse: number'")
        if self.fuse == "union" and self.parse not in parts.LISTS:
            raise ValueError("'fuse: union' takes lists: set 'parse: list' or 'parse: lines'")
        return self


class Document(_Section):
    """The whole file; the fields of every stage are those of `StageDocument`."""

    name: str
    """Name of the task."""
    description: str = ""
    """What the task is; a language model that searches reads it."""
    main_metric: str
    """``STAGE.METRIC``, which the search maximises."""
    stages: Annotated[dict[str, StageDocument], Field(min_length=1)]
    """The stages, in order."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        metrics = [f"{name}.{m}" for name, stage in self.stages.items() for m in stage.metrics]
        if self.main_metric not in metrics:
            raise _At(
                ("main_metric",),
                f"no stage has the metric '{self.main_metric}'; "
                f"{valid_names(self.main_metric, metrics)}",
            )
        earlier: set[str] = set()
        for name, stage in self.stages.items():
            later = set(self.stages) - earlier
            for key, template in templates(stage):
                if wrong := variables(template) & later:
                    raise _At(
                        ("stages", name, *key),
                        f"uses '{min(wrong)}', which is not an earlier stage; those are: "
                        f"{', '.join(sorted(earlier)) or '(none)'}",
                    )
            earlier.add(name)
        return self


class _At(ValueError):
    """An error with the path of its key, for `agenttts.spec.strict` to report."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


def templates(stage: StageDocument) -> list[tuple[tuple[str, ...], str]]:
    """Return every template of a stage, with its key."""
    found: list[tuple[tuple[str, ...], str]] = [(("prompt",), stage.prompt)]
    if isinstance(stage.fuse, FusedByModel):
        found.append((("fuse", "model", "prompt"), stage.fuse.model.prompt))
    return found


@lru_cache(maxsize=64)  # asked for every record
def variables(template: str) -> frozenset[str]:
    """Return the names that a template takes from outside.

    Raises:
        jinja2.TemplateSyntaxError: The template is malformed.
    """
    found = jinja2.meta.find_undeclared_variables(_tree(template))
    return frozenset(found - set(_JINJA.globals))


@lru_cache(maxsize=64)
def structures(template: str) -> frozenset[str]:
    """Return the names from outside whose items a template uses.

    It loops over them or takes an item by a constant (``x[0]``, ``x['text']``).

    Raises:
        jinja2.TemplateSyntaxError: The template is malformed.
    """
    tree = _tree(template)
    used = [loop.iter for loop in tree.find_all(nodes.For)]
    used += [i.node for i in tree.find_all(nodes.Getitem) if isinstance(i.arg, nodes.Const)]
    names = {node.name for node in used if isinstance(node, nodes.Name)}
    return variables(template) & names


@lru_cache(maxsize=64)  # both look at it, and a template takes 0.6 ms to parse
def _tree(template: str) -> nodes.Template:
    return _JINJA.parse(template)


@lru_cache(maxsize=64)
def compiled(template: str) -> jinja2.Template:
    """Return a template that is ready to be rendered."""
    return _JINJA.from_string(template)
