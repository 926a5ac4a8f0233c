"""What a run is expected to cost."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agenttts import search
from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.launch.examples import Examples
from agenttts.launch.experiment import Experiment
from agenttts.loop.cost_basis import CostBasis
from agenttts.loop.forecast import Phase, forecast
from agenttts.search.feasible import FeasibleSet
from agenttts.space import Allocation
from agenttts.tables.forecast import Forecast


def expected_cost(
    experiment: Experiment, examples: Examples, sizes: Mapping[str, ModelSize]
) -> Forecast | None:
    """Return the forecast of an experiment's run.

    It is None if the number of examples is not known here. It includes the
    comparison of the best allocations and the final test.

    Args:
        experiment: The experiment, with its container.
        examples: What its trials are scored on.
        sizes: The sizes of its models.
    """
    spec = experiment.spec
    searched = len(examples.searched) or spec.task.examples
    if not searched:
        return None
    searcher = search.create_for(spec)
    batches = [searcher.initial_batch, *[spec.search.batch_size] * spec.search.iterations]
    first = list(searcher.first)
    drawn = first + FeasibleSet(experiment.space).draw_many(
        sum(batches) - len(first),
        set(first),
        lambda position: random.Random(f"forecast/{spec.search.seed}/{position}"),
    )
    part = spec.search.examples
    of_trial = min(searched, part.first) if part else searched
    phases = _parts(drawn, batches, of_trial, own=of_trial < searched)
    if examples.finalists is not None and spec.search.finalists is not None:
        top = drawn[: spec.search.finalists.top]
        phases.append(Phase(top, len(examples.finalists), "finalists"))
    if examples.test is not None and spec.search.test_split is not None:
        top = drawn[: spec.search.test_split.top]
        phases.append(Phase(top, len(examples.test), "test"))
    basis = CostBasis.of(
        spec,
        experiment.profile,
        experiment.scheduler,
        sizes,
        compiled=experiment.container is not None,
    )
    found = forecast(basis, phases)
    if part is None or of_trial == searched:
        return found
    counted = f"each trial of the search on {of_trial} of {searched} examples"
    if part.most is None or part.most > of_trial:
        counted += " (allocations that are scored again, on further ones, take more)"
    return replace(found, assumptions=(*found.assumptions, counted))


def _parts(
    drawn: Sequence[Allocation], sizes: Sequence[int], examples: int, *, own: bool
) -> list[Phase]:
    """Return the iterations, fewer or shorter if the space has few allocations."""
    phases, at = [], 0
    for size in sizes:
        taken = drawn[at : at + size]
        at += size
        if taken:
            phases.append(Phase(taken, examples, own=own))
    return phases
