"""Options that several tasks have in common (``task.options`` of a job spec)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agenttts.spec.section import Options


class SplitOptions(Options):
    """Options of every task with a search and a test split.

    See `agenttts.tasks.loading.source`.
    """

    search_examples: Annotated[
        int | None, Field(ge=0, description="a whole number of 0 or more")
    ] = None
    """The most examples of the search split, after which the test split begins.

    None: the search split may have all, and the test split begins after half.
    """
    hub_split: Annotated[str, Field(description="the name of a split of the hub data set")] = ""
    """The hub split that the search and the test split come from."""
    records_key: Annotated[
        str,
        Field(
            min_length=1,
            description="the key under which a JSON document has its records, such as data or "
            "result.rows",
        ),
    ] = ""
    """Key of the records in a JSON document that has several lists."""


class QAOptions(SplitOptions):
    """Options of the tasks with references to pick and a question to answer."""

    aliases: Annotated[
        str,
        Field(
            min_length=1,
            description="the path of a file of aliases by the ids of answers, such as 2Wiki's "
            "id_aliases.json",
        ),
    ] = ""
    """A file of other names of the answers."""
    max_candidates: Annotated[
        int | None, Field(ge=1, description="a whole number of 1 or more")
    ] = None
    """Keep the needed references and enough others, drawn by seed, to reach this number."""
