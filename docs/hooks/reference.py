"""The reference pages, made from the code when the site is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import polars as pl
from pydantic import BaseModel

from agenttts.dispatch.profile import Profile
from agenttts.inference.engines import ENGINES
from agenttts.replay.replay import TRACE_SCHEMA
from agenttts.search import SEARCHERS, Searcher
from agenttts.spec import JobSpec
from agenttts.tables.schema import (
    ExampleRow,
    TrialRow,
    TrialSeconds,
    TrialState,
    examples_schema,
    trials_schema,
)
from agenttts.tasks import create, task_names
from agenttts.tasks.declarative.document import Document
from docs.hooks import commands, python_names, sections

_MADE = "<!-- Made from the code by docs/hooks. -->"
_ASKS = {"no": "none", "takes": "takes one", "needs": "needs one"}


@cache
def pages() -> dict[str, str]:
    """Return the text of each reference page, by its place in the site."""
    return {place: f"{make()}\n\n{_MADE}\n" for place, make in PLACES.items()}


def spec_keys() -> str:
    """Return the page of a job spec's keys."""
    return _page(
        "Keys of a job spec",
        "What [job specs](../../jobs/README.md) may hold. A key that is not here is an error. `unset` is written by "
        "leaving the key out, or as `null`.",
        *_sections(JobSpec),
    )


def profile_keys() -> str:
    """Return the page of a profile's keys."""
    return _page(
        "Keys of a profile",
        "What [cluster profiles](../../slurm/README.md) may hold. [The template](../../slurm/template.yaml) has every "
        "key. `unset` leaves the choice to the cluster where nothing else is said.",
        *_sections(Profile),
    )


def searchers() -> str:
    """Return the page of the search methods and their options."""
    parts = []
    for name, kind in SEARCHERS.items():
        parts += [
            f"## {name}",
            python_names.text_of(kind),
            f"Language model: {_ASKS[kind.asks_llm]}." + _seed(kind),
            _options(kind.options_model, "search.options"),
        ]
    return _page(
        "Search methods",
        "The values of `search.method`, and what `search.options` may hold for each. How they compare: "
        "[searchers compared](../../benchmarks/search/README.md).",
        *parts,
    )


def tasks() -> str:
    """Return the page of the built-in tasks and of tasks in YAML."""
    parts = []
    for name in task_names():
        task = create(name)
        stages = " → ".join(f"`{stage.name}`" for stage in task.stages)
        parts += [
            f"## {name}",
            task.description,
            f"Stages: {stages}. Main metric: `{task.main_metric}`.",
            _options(task.options_model, "task.options"),
        ]
    return _page(
        "Tasks",
        "The built-in values of `task.name`, their options, and the keys of a task in YAML. Their data: "
        "[job specs](../../jobs/README.md#tasks).",
        *parts,
        "## A task in YAML",
        "The keys of a task's file ([a task of your own](../how-to/own-task.md)).",
        *_sections(Document, level=3),
    )


def engines() -> str:
    """Return the page of the engines and their options."""
    parts = []
    for name, entry in ENGINES.items():
        parts.append(f"## {name}")
        parts.append(f"Needs: {', '.join(f'`{one}`' for one in entry.packages) or 'nothing'}.")
        model = entry.options_model()
        if inspect.isclass(entry.options):
            parts.append(_options(model, "models.NAME.options"))
        else:
            names = ", ".join(f"`{one}`" for one in model.model_fields)
            parts.append(f"Options, as in the engine's own documentation: {names}.")
    return _page(
        "Engines",
        "The values of `models.NAME.engine`, and what `models.NAME.options` may hold for each.",
        *parts,
    )


def tables() -> str:
    """Return the page of the tables' columns."""
    trace = "\n".join(f"| `{name}` | {_type(kind)} |" for name, kind in TRACE_SCHEMA.items())
    return _page(
        "Columns of the tables",
        "All tables are Parquet. `null` stands where something is not known, as in tables of earlier versions.",
        "## trials.parquet",
        "One row a trial. Metrics are called `STAGE.METRIC`.",
        _columns(TrialRow, trials_schema(["STAGE.METRIC"])),
        "### seconds",
        python_names.text_of(TrialSeconds),
        "### state",
        python_names.text_of(TrialState),
        "Valid: " + ", ".join(f"`{state}`" for state in TrialState) + ". "
        "[Whose fault it was](../../slurm/README.md#whose-fault-it-was) says what each means.",
        "## trials/ID/examples.parquet",
        "One row an example and stage. Metrics are called `METRIC`.",
        _columns(ExampleRow, examples_schema(["METRIC"])),
        "## The trace of a replay",
        "What `agenttts-hpc replay --out FILE` writes: one row a trial.",
        "| column | type |\n|---|---|\n" + trace,
    )


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *(part for part in parts if part)])


def _sections(model: type[BaseModel], level: int = 2) -> Iterator[str]:
    for path, kind in sections.sections(model):
        if path:
            yield f"{'#' * level} {path}"
        yield python_names.text_of(kind)
        yield sections.table(kind)


def _seed(kind: type[Searcher]) -> str:
    """Return what the seed decides, where that does not depend on the space."""
    return f" The seed decides: {kind.seed_role}." if isinstance(kind.seed_role, str) else ""


def _options(model: type[BaseModel] | None, key: str) -> str:
    if model is None or not model.model_fields:
        return f"`{key}`: none."
    return f"`{key}`:\n\n{sections.table(model)}"


def _columns(row: type, schema: pl.Schema) -> str:
    texts = sections.attribute_texts(row)
    rows = [
        f"| `{name}` | {_type(kind)} | {sections.markdown(texts[name], 'null')} |"
        for name, kind in schema.items()
    ]
    return "\n".join(["| column | type | what |", "|---|---|---|", *rows])


def _type(kind: Any) -> str:
    if isinstance(kind, pl.List):
        return f"list of {_type(kind.inner)}"
    if isinstance(kind, pl.Struct):
        return "{" + ", ".join(f"`{part.name}`" for part in kind.fields) + "}"
    plain = {
        pl.String: "text",
        pl.Int64: "whole number",
        pl.Float64: "number",
        pl.Boolean: "true or false",
    }
    return next((word for one, word in plain.items() if kind == one), "time (UTC)")


PLACES = {
    "reference/commands.md": commands.page,
    "reference/spec-keys.md": spec_keys,
    "reference/profile-keys.md": profile_keys,
    "reference/searchers.md": searchers,
    "reference/tasks.md": tasks,
    "reference/engines.md": engines,
    "reference/tables.md": tables,
    "reference/python.md": python_names.page,
}
"""What makes each reference page, by its place in the site."""
