"""Progress of a trial from one look to the next, and the limits on its absence."""

from __future__ import annotations

import pytest

from agenttts.dispatch.node.limits import SLOWEST_TOKENS_PER_SECOND, Limits, Sight, Watch
from agenttts.trial.phase import Phase

LIMITS = Limits(start_seconds=100, stall_seconds=50)
LOAD = Phase(2, "load", "m")
GENERATE = Phase(3, "generate", "m", tokens=1000)


def sight(phase: Phase | None, log: int = 0, store: int = 0, cpu: float | None = None) -> Sight:
    return Sight(phase, log, store, cpu)


def stops(*looks: tuple[float, Sight]) -> list[str | None]:
    watch = Watch(LIMITS, 0.0)
    found = [watch.look(seen, now) for now, seen in looks]
    return [overrun.stop if overrun else None for overrun in found]


@pytest.mark.parametrize(
    ("looks", "end"),
    [
        # Nothing at all: a container that hangs, or an image that notes no phases.
        ([(0, sight(None)), (50, sight(None)), (51, sight(None))], "stall limit"),
        ([(0, sight(None)), (40, sight(None, log=1)), (80, sight(None, log=1))], None),
        ([(0, sight(None)), (40, sight(None, store=1)), (80, sight(None, store=1))], None),
        # An engine that logs and does not start.
        ([(t, sight(LOAD, log=t)) for t in range(0, 101, 10)], None),
        ([(t, sight(LOAD, log=t)) for t in range(0, 111, 10)], "start limit"),
        # An engine that hangs in its start.
        ([(0, sight(LOAD)), (51, sight(LOAD))], "stall limit"),
        # A call that hangs, and one whose tokens take longer than the limit.
        ([(0, sight(GENERATE)), (51, sight(GENERATE))], "stall limit"),
        ([(0, sight(Phase(3, "generate", "m", int(60 * SLOWEST_TOKENS_PER_SECOND)))), (55, sight(Phase(3, "generate", "m", int(60 * SLOWEST_TOKENS_PER_SECOND))))], None),
        # One that gives signs of life may take as long as it needs; without one it may not, however
        # much it may generate.
        ([(t, sight(Phase(3, "generate", "m"), log=t)) for t in range(0, 500, 40)], None),
        ([(t, sight(Phase(3, "generate", "m"), log=min(t, 400))) for t in range(0, 500, 40)], "stall limit"),
        # Calls one after the other.
        ([(40 * n, sight(Phase(n, "generate", "m", 1000))) for n in range(9)], None),
        # The task's own code is not watched; the next call is, from its beginning.
        ([(0, sight(Phase(1, "other"))), (500, sight(Phase(1, "other"))), (510, sight(GENERATE)), (555, sight(GENERATE))], None),
        ([(0, sight(Phase(1, "other"))), (500, sight(Phase(1, "other"))), (510, sight(GENERATE)), (565, sight(GENERATE))], "stall limit"),
        # Without GPUs, processor time is progress; a process that waits takes next to none.
        ([(0, sight(GENERATE, cpu=0.0)), (40, sight(GENERATE, cpu=39.0)), (80, sight(GENERATE, cpu=70.0))], None),
        ([(0, sight(GENERATE, cpu=0.0)), (40, sight(GENERATE, cpu=0.1)), (80, sight(GENERATE, cpu=0.2))], "stall limit"),
        # A suspended job does not look, and its program does not run.
        ([(0, sight(GENERATE)), (5, sight(GENERATE)), (5000, sight(GENERATE)), (5040, sight(GENERATE))], None),
        ([(0, sight(GENERATE)), (5, sight(GENERATE)), (5000, sight(GENERATE)), (5046, sight(GENERATE))], "stall limit"),
        ([(t, sight(LOAD, log=t)) for t in (0, 40, 5000, 5030, 5060)], None),
        ([(t, sight(LOAD, log=t)) for t in (0, 40, 5000, 5030, 5060, 5061)], "start limit"),
        ([(0, sight(GENERATE, cpu=0.0)), (40, sight(GENERATE, cpu=1.0)), (5000, sight(GENERATE, cpu=1.0)), (5040, sight(GENERATE, cpu=30.0))], None),
    ],
)  # fmt: skip
def test_a_limit_passes_without_progress_alone(looks, end):
    found = stops(*looks)
    assert found[-1] == end
    assert not any(found[:-1])


def test_an_overrun_says_what_did_not_move():
    watch = Watch(LIMITS, 0.0)
    watch.look(sight(LOAD), 0.0)
    watch.look(sight(LOAD, log=1), 60.0)
    assert "engine of model 'm' did not start within 2 minutes" in watch.look(sight(LOAD, log=1), 120.0).problem  # fmt: skip
    watch = Watch(LIMITS, 0.0)
    watch.look(sight(GENERATE), 0.0)
    assert "call of model 'm' made no progress" in watch.look(sight(GENERATE), 60.0).problem
