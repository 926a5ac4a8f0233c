"""How the tests load the real small model, and what is expected of it as the search's own."""

from __future__ import annotations

from pathlib import Path

from tests.support.runs import table, transcript_events

# The same type on every machine, which is the project's own choice on a CPU without bfloat16.
QUICK: dict[str, object] = {"dtype": "float32"}


def check_proposals_of_served_model(run: Path) -> None:
    """What it proposed is usable; whether the search prefers its own ideas is the search's
    decision.
    """
    assert any(e["usable"] for e in transcript_events(run, "proposals"))
    assert set(table(run)["source"]) <= {
        "initial",
        "agent",
        "agent-repaired",
        "insight",
        "explore",
        "recommended",
    }
