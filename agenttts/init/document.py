"""The output of ``init`` with ``--json``. The schema is in ``docs/schemas/``."""

from __future__ import annotations

from agenttts.tables.documents import Document


class InitDocument(Document):
    """What ``init`` wrote.

    Attributes:
        written: The files that were written.
        kept: Files that were there already and are used.
        spec: The job spec; None if only a profile was asked for.
        task: The declarative task; None as for ``spec``.
        profile: The cluster's profile; None for the built-in one ``in_process``.
        cluster: Its name, for ``--cluster``.
        notes: What was found, and what to check.
        next: Commands to give next.
    """

    written: list[str]
    kept: list[str]
    spec: str | None
    task: str | None
    profile: str | None
    cluster: str
    notes: list[str]
    next: list[str]
