"""What the run of a plan is expected to cost."""

from __future__ import annotations

import random
from collections.abc import Sequence

from agenttts import search
from agenttts.launch.plan import Plan
from agenttts.loop.cost_basis import CostBasis
from agenttts.loop.forecast import Phase, forecast
from agenttts.search.feasible import FeasibleSet
from agenttts.space import Allocation
from agenttts.tables.forecast import Forecast


def expected_cost(plan: Plan) -> Forecast | None:
    """Return the forecast of a plan's run.

    It is None if the number of examples is not known here. It includes the
    comparison of the best allocations and the final test.
    """
    experiment, spec, examples = plan.experiment, plan.experiment.spec, plan.examples
    searched = len(examples.searched) or spec.task.examples
    if not searched:
        return None
    searcher = search.create_for(spec)
    sizes = [searcher.initial_batch, *[spec.search.batch_size] * spec.search.iterations]
    first = list(searcher.first)
    drawn = first + FeasibleSet(experiment.space).draw_many(
        sum(sizes) - len(first),
        set(first),
        lambda position: random.Random(f"forecast/{spec.search.seed}/{position}"),
    )
    part = spec.search.examples
    of_trial = min(searched, part.first) if part else searched
    phases = _parts(drawn, sizes, of_trial, own=of_trial < searched)
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
        plan.sizes,
        compiled=experiment.container is not None,
    )
    return forecast(basis, phases)


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
