"""Writes the JSON schemas of what commands print with ``--json`` beside this file: ``make
schemas``.
"""

from __future__ import annotations

import json
from pathlib import Path

from agenttts.init.document import InitDocument
from agenttts.launch.document import CleanDocument, ExtensionPlanDocument, PlanDocument
from agenttts.loop.compare_document import CompareDocument
from agenttts.report.document import ReportDocument
from agenttts.status.document import (
    ExtendedDocument,
    LaunchedDocument,
    ListDocument,
    ResumedDocument,
    StatusDocument,
)
from agenttts.tables.documents import Document

FOLDER = Path(__file__).parent
SCHEMAS: dict[str, type[Document]] = {
    "clean": CleanDocument,
    "compare": CompareDocument,
    "extend": ExtendedDocument,
    "extend-plan": ExtensionPlanDocument,
    "init": InitDocument,
    "launch": LaunchedDocument,
    "list": ListDocument,
    "plan": PlanDocument,
    "report": ReportDocument,
    "resume": ResumedDocument,
    "status": StatusDocument,
}
"""The model of each schema, by the name of its file."""


def schema(name: str) -> str:
    """The text of a schema's file."""
    return json.dumps(SCHEMAS[name].model_json_schema(), indent=2) + "\n"


def main() -> None:
    """Write every schema."""
    for name in SCHEMAS:
        (FOLDER / f"{name}.json").write_text(schema(name), encoding="utf-8")


if __name__ == "__main__":
    main()
