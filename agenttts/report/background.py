"""What a report shows of a run beside its trials.

That is what it was made with, why each trial was proposed, and what is expected of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agenttts.tables.insights import Outlook


@dataclass(frozen=True)
class Provenance:
    """What a run was made with.

    Attributes:
        facts: Names and values, in the order in which they are shown.
        models: Each model's name, engine, path, and fingerprint of its files ("" if it has none).
        contents: The digest of what the files of a model hold, by model; without models whose files
            are elsewhere, and empty in runs of older versions.
        examples: SHA-256 of each file of frozen examples, by its name.
        command: The command that repeats the run.
        task: What the runs of one task have in common (`agenttts.run.task_identity`).
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    models: tuple[tuple[str, str, str, str], ...] = ()
    examples: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    task: str = ""


@dataclass(frozen=True)
class Background:
    """What is known of a run beside its trials.

    Attributes:
        provenance: What it was made with; None in runs of older versions.
        reasons: Why each trial was proposed, by trial.
        outlook: What the model of its scores expects; None if no trial has a score, or if it was
            not asked for.
    """

    provenance: Provenance | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    outlook: Outlook | None = None
