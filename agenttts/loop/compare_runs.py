"""Compare an allocation of one run with one of another run, example by example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from agenttts.errors import UserError, cli_command, dotted
from agenttts.loop.compare_document import CompareDocument
from agenttts.loop.reports import report_of
from agenttts.loop.sides import KINDS, Of, Side, baseline_of, compare_tokens, side_document
from agenttts.run.directory import RunDirectory
from agenttts.run.models import same_model
from agenttts.run.task_identity import task_identity
from agenttts.tables.aggregate import main_metric
from agenttts.tables.difference import Difference, compare
from agenttts.tables.documents import printed


def compare_runs(
    first: RunDirectory, second: RunDirectory, of: Of = "recommended"
) -> dict[str, Any]:
    """Return the document of a comparison (`CompareDocument`).

    Args:
        first: The run that is compared.
        second: The run that it is compared with.
        of: The allocation of each run. ``recommended`` is the best finalist if there are finalists.
            A run without a scored recommended allocation is compared by its best one, with a
            warning.

    Raises:
        UserError: The runs have different tasks or metrics, or one has no trial with scores by
            example.
    """
    warnings: list[str] = []
    sides = [_side(run, of, warnings) for run in (first, second)]
    one, two = sides
    settings = list(_differences(one.report.settings, two.report.settings))
    _check(one, two, warnings)
    kind, scores = _common_kind(one, two)
    score = compare(*scores)
    assert score is not None  # neither side is empty
    warnings += _limits(score, scores, kind)
    rows = [side.trial(kind) or {} for side in sides]
    taken = [side.tokens(kind, row["trial"]) for side, row in zip(sides, rows, strict=True)]
    tokens = compare_tokens(*taken)
    same = [dict(c) for c in one.allocation] == [dict(c) for c in two.allocation]
    return printed(
        CompareDocument,
        {
            "metric": one.metric,
            "kind": kind,
            "same_allocation": same,
            "only_chance": same and _is_chance(one, two, settings),
            "first": side_document(one, rows[0], len(taken[0])),
            "second": side_document(two, rows[1], len(taken[1])),
            "score": asdict(score),
            "tokens": tokens and asdict(tokens),
            "settings": settings,
            "warnings": warnings,
        },
    )


def _side(run: RunDirectory, of: Of, warnings: list[str]) -> Side:
    report = report_of([run]).runs[0]
    record = run.record()
    metric = record.main_metric or main_metric(report.trials)
    if report.best is None or metric is None:
        raise UserError(
            f"run '{run.name}' has no trial with a score yet; "
            f"see '{cli_command('status', run.path)}'"
        )
    if report.outcome is None:
        warnings.append(f"run '{run.name}' is not over; its allocation may still change")
    if of == "baseline":
        baseline = baseline_of(run)
        if baseline is None:
            raise UserError(
                f"run '{run.name}' has no baseline; mark one of its own allocations with "
                "'baseline: true' at the launch, or use --of recommended or --of best"
            )
        return Side(run, record, report, "baseline", baseline, metric)
    if of == "recommended" and report.best_finalist is not None:
        return Side(run, record, report, "best", report.best_finalist["allocation"], metric)
    recommended = report.recommended
    if of == "recommended" and recommended is not None and report.recommended_trial is not None:
        return Side(run, record, report, "recommended", recommended, metric)
    if of == "recommended":
        warnings.append(
            f"run '{run.name}' has no recommended allocation with a score, so its best measured "
            "one is compared"
        )
    return Side(run, record, report, "best", report.best["allocation"], metric)


def _check(one: Side, two: Side, warnings: list[str]) -> None:
    """Check that the runs measure the same, and warn where what they use differs."""
    tasks = [side.directory.spec().task.name for side in (one, two)]
    names = [side.directory.name for side in (one, two)]
    identities = [
        task_identity(side.directory, name) for side, name in zip((one, two), tasks, strict=True)
    ]
    if identities[0] != identities[1] and tasks[0] == tasks[1]:
        warnings.append(
            f"the source of the task '{tasks[0]}' was changed between the launches of the runs"
        )
    elif identities[0] != identities[1]:
        raise UserError(
            f"run '{names[0]}' has the task '{tasks[0]}' and run '{names[1]}' has '{tasks[1]}'; "
            "their scores are not comparable: give two runs of one task"
        )
    if one.metric != two.metric:
        raise UserError(
            f"the score of run '{names[0]}' is {one.metric} and the score of run '{names[1]}' is "
            f"{two.metric}; give two runs with the same metric"
        )
    models = [side.record.models for side in (one, two)]
    same = _same_models(one, two)
    if changed := [name for name, known in same.items() if known is False]:
        warnings.append(
            f"the runs have other files or options for the same models: {', '.join(changed)}"
        )
    if unknown := [name for name, known in same.items() if known is None]:
        warnings.append(
            "whether these models are the same in both runs is not known, because an older version "
            "launched one of the runs, or because they are on different servers and have no "
            f"revision: {', '.join(unknown)}"
        )
    alone = [n for n in {**models[0], **models[1]} if (n in models[0]) != (n in models[1])]
    if alone:
        warnings.append(f"only one of the runs has these models: {', '.join(alone)}")


def _same_models(one: Side, two: Side) -> dict[str, bool | None]:
    """Return `same_model` for each model that both runs have."""
    records = one.record, two.record
    return {n: same_model(n, *records) for n in records[0].models if n in records[1].models}


def _is_chance(one: Side, two: Side, settings: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the runs measure one allocation in the same way."""
    names = set(one.record.models)
    same = _same_models(one, two)
    paths = {dotted(("models", name, "path")) for name in names}
    return (
        names == set(two.record.models)
        and all(same.values())
        and all(part["key"].startswith("search.") or part["key"] in paths for part in settings)
    )


def _common_kind(one: Side, two: Side) -> tuple[str, tuple[dict[str, float], dict[str, float]]]:
    """Return the first kind of trials with scores on both sides, and the scores."""
    for kind in KINDS:
        first, second = one.scores(kind), two.scores(kind)
        if first is not None and second is not None:
            return kind, (first, second)
    without = [side for side in (one, two) if all(side.scores(kind) is None for kind in KINDS)] or [
        two
    ]
    raise UserError(
        f"run '{without[0].directory.name}' has no scores by example of its {without[0].of} "
        "allocation that can be compared; restore trials/ID/examples.parquet from a copy, or "
        "compare with --of best"
    )


def _limits(
    score: Difference, scores: tuple[Mapping[str, float], Mapping[str, float]], kind: str
) -> Iterator[str]:
    first, second = scores
    if not score.paired:
        common = sum(example in second for example in first)
        yield (
            f"the runs have {common} common examples (of {len(first)} and {len(second)}), so "
            "their means are compared, not example by example"
        )
    elif score.examples < max(len(first), len(second)):
        yield (
            f"only the {score.examples} common examples are compared (of {len(first)} and "
            f"{len(second)})"
        )
    if kind == "search":
        yield (
            "the scores are of examples that the runs chose their allocations on, and such scores "
            "are too high on average; a final test on held-out examples has no such bias"
        )


def _differences(
    first: Mapping[str, Any], second: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Yield the settings in which two specs differ; the name of the run is not one."""
    for key in {**first, **second}:
        one, two = first.get(key), second.get(key)
        if one == two or (not keys and key == "name"):
            continue
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            yield from _differences(one, two, (*keys, key))
        else:
            yield {"key": ".".join(map(str, (*keys, key))), "first": one, "second": two}
