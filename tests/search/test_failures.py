"""What failed trials close, and for how long."""

import numpy as np

from agenttts.search import TrialResult
from agenttts.search.archive import Archive
from agenttts.search.encoding import ChoiceGrid
from agenttts.search.evidence import Evidence
from agenttts.search.failures import Failures
from agenttts.space import Model, SearchSpace, Stage

MODELS = (Model("s", 3e9), Model("l", 70e9))
SPACE = SearchSpace(
    tuple(Stage(name, MODELS, 256, 64, tuple(range(1, 41))) for name in "ab"), 10_000
)
GRID = ChoiceGrid(SPACE)


def at(first, second):
    return SPACE.allocation(first, second)


def failures(failed, scored=(), out=()):
    archive = Archive(SPACE)
    archive.add(TrialResult(at(*a), None) for a in failed)
    archive.add(TrialResult(at(*a), 0.5) for a in scored)
    archive.add_pending(at(*a) for a in out)
    return Failures(Evidence.of(GRID, archive))


def test_nothing_failed():
    found = failures([], [(("s", 1), ("s", 1))])
    assert not found.avoided(GRID.feasible(20_000)).any()
    assert not found.avoids(at(("l", 40), ("l", 40)))


def test_two_failures_of_a_combination_close_it_alone():
    failed = [(("l", 3), ("s", 5)), (("l", 6), ("s", 2))]
    found = failures(failed, [(("l", 8), ("l", 1)), (("s", 2), ("s", 9))])
    assert found.avoids(at(("l", 1), ("s", 40)))
    assert not found.avoids(at(("l", 9), ("l", 9)))
    assert not found.avoids(at(("s", 9), ("s", 9)))


def test_a_model_is_blamed_for_what_its_combinations_share():
    failed = [(("s", 1), ("l", 1)), (("l", 1), ("l", 2)), (("s", 2), ("l", 1))]
    found = failures(failed, [(("s", 4), ("s", 1)), (("l", 4), ("s", 1))])
    assert found.avoids(at(("s", 9), ("l", 9)))
    assert found.avoids(at(("l", 1), ("l", 1)))
    assert not found.avoids(at(("l", 9), ("s", 9)))


def test_more_samples_than_failing_ones_are_closed_from_halfway_on():
    failed = [(("s", 36), ("s", 1)), (("s", 40), ("l", 1))]
    scored = [(("s", 9), ("s", 3)), (("s", 4), ("l", 3))]
    found = failures(failed, scored)
    assert found.avoids(at(("s", 18), ("s", 1)))
    assert found.avoids(at(("s", 40), ("s", 9)))
    assert not found.avoids(at(("s", 17), ("s", 1)))
    assert not found.avoids(at(("l", 40), ("s", 1)))


def test_one_failure_closes_nothing_unless_a_trial_out_will_tell():
    failed, scored = [(("l", 3), ("l", 5))], [(("s", 2), ("s", 9)), (("l", 9), ("s", 9))]
    target = at(("l", 4), ("l", 6))
    assert not failures(failed, scored).avoids(target)
    assert failures(failed, scored, out=[(("l", 2), ("l", 2))]).avoids(target)
    assert failures(failed, scored).avoids(target, [at(("l", 2), ("l", 2))])
    assert not failures(failed, scored, out=[(("s", 3), ("s", 3))]).avoids(target)


def test_a_score_acquits():
    failed = [(("l", 3), ("l", 5)), (("l", 4), ("l", 4))]
    assert failures(failed, [(("s", 1), ("s", 1))]).avoids(at(("l", 1), ("l", 1)))
    assert not failures(failed, [(("l", 9), ("l", 9))]).avoids(at(("l", 8), ("l", 8)))


def test_a_closed_region_has_another_chance_once_there_are_many_trials():
    failed = [(("l", 3), ("l", 5)), (("l", 4), ("l", 4))]
    scored = [(("s", 1 + i), ("s", 1)) for i in range(40)]
    target = at(("l", 1), ("l", 1))
    assert failures(failed, scored[:20]).avoids(target)
    assert not failures(failed, scored).avoids(target)


def test_a_batch_tries_a_doubtful_region_once_and_falls_back_on_it_at_last():
    found = failures([(("l", 3), ("l", 5))], [(("s", 2), ("s", 9)), (("l", 9), ("s", 9))])
    doubtful = [at(("l", 8), ("l", n)) for n in (7, 8, 9)]
    rows = GRID.encode([*doubtful, at(("s", 1), ("s", 1)), at(("s", 2), ("s", 2))])

    def in_order(part, count):
        return list(range(min(count, len(part))))

    assert found.pick(rows, 3, in_order) == [0, 3, 4]
    assert found.pick(rows, 9, in_order) == [0, 3, 4, 1, 2]
    assert found.avoided(rows, rows[:1]).tolist() == [True, True, True, False, False]
    assert found.pick(np.empty((0, 2), dtype=np.int64), 3, in_order) == []
