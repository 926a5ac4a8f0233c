"""The archive: what ends a pending trial, and what is known of examples."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from agenttts.search.archive import STORED, Archive, TrialResult
from agenttts.search.fidelity import Fidelity
from agenttts.space import Model, SearchSpace, Stage

SPACE = SearchSpace((Stage("answer", (Model("m", 1e9),), 64, 32, (1, 2, 3, 4, 5)),), 1000.0)
ONE, TWO, THREE, FOUR, FIVE = (SPACE.allocation(("m", count)) for count in (1, 2, 3, 4, 5))


def scored(allocation, examples, source="random", score=0.5):
    values = dict.fromkeys(examples, score)
    return TrialResult(allocation, score, {}, 1.0, source, examples=values)


def failed(allocation, *, blamed=True):
    return TrialResult(allocation, None, {}, 1.0, "random", blamed=blamed)


def test_its_own_result_ends_a_trial_though_an_example_has_no_score():
    archive = Archive(SPACE)
    archive.add_pending([ONE], (0, 1, 2))
    archive.add([scored(ONE, (0, 2))])
    assert archive.pending == ()


def test_a_stored_result_on_other_examples_does_not_end_a_trial():
    archive = Archive(SPACE)
    archive.add_pending([ONE], (0, 1))
    archive.add([scored(ONE, (2, 3), STORED)])
    assert archive.pending == (ONE,)
    archive.add([scored(ONE, (0, 1, 4), STORED)])
    assert archive.pending == ()


def test_a_trial_does_not_become_a_stored_one():
    archive = Archive(SPACE)
    archive.add([scored(ONE, (0, 1)), scored(TWO, (0, 1), STORED)])
    assert archive.tried == {ONE}
    archive.add([scored(ONE, (0, 1), STORED), scored(TWO, (0, 1))])
    assert archive.tried == {ONE, TWO}
    assert [trial.stored for trial in archive.scored] == [False, False]
    assert [result.source for result in archive.evaluated] == ["random", "random"]
    archive.add([scored(THREE, (0,), STORED, score=0.9)])
    assert archive.best().allocation == THREE
    assert archive.best(tried=True).allocation == ONE


def propose(fidelity, archive, allocation):
    block = fidelity.next_block(archive, allocation)
    archive.add_pending([allocation], block)
    return block


def test_a_block_on_which_trials_fail_does_not_attract_the_later_ones():
    fidelity, archive = Fidelity(2, 8, 8), Archive(SPACE)
    first = propose(fidelity, archive, ONE)
    archive.add([failed(ONE)])
    assert archive.failed_on(ONE) == set(first)
    blocks = set()
    for allocation in (TWO, THREE, FOUR):
        block = propose(fidelity, archive, allocation)
        blocks.add(block)
        archive.add([scored(allocation, block)])
    assert first not in blocks
    assert len(blocks) == 3


def test_an_allocation_whose_extension_failed_is_not_extended_again():
    fidelity, archive = Fidelity(2, 8, 8), Archive(SPACE)
    archive.add([scored(ONE, propose(fidelity, archive, ONE))])
    assert fidelity.may_extend(archive, ONE)
    lost = propose(fidelity, archive, ONE)
    archive.add([failed(ONE, blamed=False)])
    assert fidelity.may_extend(archive, ONE), "the machine failed"
    assert propose(fidelity, archive, ONE) == lost
    archive.add([failed(ONE)])
    assert not fidelity.may_extend(archive, ONE)
    # As `resume --retry-failed` does it.
    archive.add([scored(ONE, {*lost, *archive.examples_of(ONE)})])
    assert fidelity.may_extend(archive, ONE)


def test_stored_results_do_not_count_as_uses_of_examples():
    fidelity, archive = Fidelity(2, 4, 4), Archive(SPACE)
    one, two = fidelity.blocks
    archive.add([scored(ONE, one), scored(TWO, one), scored(THREE, two)])
    archive.add([scored(FOUR, two, STORED), scored(THREE, two)])
    assert fidelity.next_block(archive, FIVE) == two


@pytest.mark.parametrize("seed", range(5))
def test_uses_of_examples_are_those_of_all_tried_allocations(seed):
    rng, archive = random.Random(seed), Archive(SPACE)
    for _ in range(60):
        allocation, block = rng.choice([ONE, TWO, THREE, FOUR, FIVE]), rng.sample(range(6), 2)
        source = rng.choice(["random", STORED])
        case = rng.randrange(4)
        if case == 0:
            archive.add_pending([allocation], block)
        elif case == 1:
            archive.add([failed(allocation, blamed=rng.random() < 0.5)])
        else:
            archive.add([scored(allocation, block, source)])
        expected = Counter(
            example
            for tried in archive.tried
            for example in archive.examples_of(tried) | archive.failed_on(tried)
        )
        assert +Counter(archive.uses()) == expected


@pytest.mark.parametrize("names", [("plan", "plan.check"), ("plan.check", "plan")])
def test_a_stage_has_no_metric_of_one_whose_name_begins_with_its_own(names):
    stages = tuple(Stage(name, (Model("m", 1e9),), 64, 32, (1, 2)) for name in names)
    space = SearchSpace(stages, 1000.0)
    metrics = {"plan.f1": 0.9, "plan.em": 0.7, "plan.check.f1": 0.1}
    archive = Archive(space)
    archive.add(
        [TrialResult(space.allocation(("m", 1), ("m", 1)), 0.5, metrics, metrics_stderr=metrics)]
    )
    [trial] = archive.scored
    assert trial.stage_value("plan") == trial.stage_stderr("plan") == pytest.approx(0.8)
    assert trial.stage_value("plan.check") == trial.stage_stderr("plan.check") == 0.1
