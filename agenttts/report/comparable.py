"""Whether the scores of several runs can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agenttts.report.summary import RunReport

_EXAMPLES = "examples.jsonl"


def comparison_warnings(runs: Sequence[RunReport], titles: Sequence[str]) -> list[str]:
    """Return what makes the scores of runs hard to compare.

    That is other examples, or other numbers of them, models, tasks or main metrics.
    """
    if len(runs) < 2:
        return []
    by_contents = all(_has_contents(run) for run in runs)
    facts = [_facts(run, by_contents) for run in runs]
    warnings = []
    for name, says in _WARNINGS.items():
        groups: dict[str, list[str]] = {}
        for title, fact in zip(titles, facts, strict=True):
            groups.setdefault(fact[name], []).append(title)
        known = {value: members for value, members in groups.items() if value}
        if len(known) > 1:
            shown = {v: f" ({v})" if name == "best" else "" for v in known}
            parts = "; ".join(f"{', '.join(members)}{shown[v]}" for v, members in known.items())
            unsure = name == "models" and not by_contents
            warnings.append(f"{says}{_OR_COPIES if unsure else ''}: {parts}")
        elif known and "" in groups and name != "best":
            warnings.append(f"{says}, perhaps: nothing is known of {', '.join(groups[''])}")
    return warnings


_WARNINGS = {
    "task": "the runs have different tasks, so their scores cannot be compared",
    "score": "the runs have different main metrics, so their scores cannot be compared",
    "examples": "the runs are on different examples, so a part of the difference of their scores "
    "is due to these",
    "best": "the best scores are on other numbers or kinds of examples, so the highest one does "
    "not tell the best run",
    "models": "the runs have different models",
}


_OR_COPIES = (
    " or copies of the same (an older version launched one of the runs, so it is not known what "
    "its models' files hold)"
)


def _has_contents(run: RunReport) -> bool:
    """Return whether the contents of all local models are known."""
    made = run.background.provenance
    return made is None or all(m[0] in made.contents for m in made.models if m[3])


def _facts(run: RunReport, by_contents: bool) -> dict[str, str]:
    provenance = run.background.provenance
    task: Any = run.settings.get("task")
    name = str(task.get("name", "")) if isinstance(task, Mapping) else ""
    if provenance is None:
        return {
            "task": name,
            "score": "",
            "examples": "",
            "best": run.best_scored_on,
            "models": "",
        }
    contents = provenance.contents if by_contents else {}
    models = sorted(f"{m[0]}={contents.get(m[0]) or m[3] or m[2]}" for m in provenance.models)
    score = provenance.facts.get("score", "")
    return {
        "task": provenance.task or name,
        "score": "" if score == "-" else score,
        "examples": provenance.examples.get(_EXAMPLES, ""),
        "best": run.best_scored_on,
        "models": ", ".join(models),
    }
